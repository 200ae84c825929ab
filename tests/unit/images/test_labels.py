"""Labels and subsets follow from file names alone."""

import re

import pytest

from pipeline.images.labels import Entry, infer_layout, limit_per_class, natural_key, unlabelled
from pipeline.runtime.errors import UserError

Row = tuple[str, str | None, str | None]


@pytest.mark.parametrize(
    "ordered",
    [
        ["", "1", "a", "a0", "a00", "a01", "a1", "a1a", "a01b", "a2", "ab"],
        ["cats/2/10.jpg", "cats/10/2.jpg", "dogs/1.jpg"],
        ["x9", "x" + "9" * 5000, "x1" + "0" * 5000],
    ],
)
def test_natural_order_is_by_number_then_text(ordered: list[str]) -> None:
    assert sorted(ordered[1::2] + ordered[::2], key=natural_key) == ordered


def rows(names: list[str]) -> list[Row]:
    entries, _ = infer_layout(names, "train.zip", None)
    return [(entry.id, entry.label, entry.subset) for entry in entries]


KAGGLE = ["cat.0.jpg", "cat.1.jpg", "dog.0.jpg"]
LABELLED: list[Row] = [("cat.0", "cat", None), ("cat.1", "cat", None), ("dog.0", "dog", None)]
CLASSES: list[Row] = [("cats/1", "cats", None), ("dogs/1", "dogs", None)]
LAYOUTS: dict[str, tuple[list[str], list[Row]]] = {
    "flat, in any order": (KAGGLE[::-1], LABELLED),
    "wrapped": ([f"dogs-vs-cats/train/train/{name}" for name in KAGGLE], LABELLED),
    "class folders": (
        ["cats/1.jpg", "cats/10.jpg", "cats/2.jpg", "dogs/old/1.jpg"],
        [*((f"cats/{i}", "cats", None) for i in (1, 2, 10)), ("dogs/old/1", "dogs", None)],
    ),
    "wrapped classes": (["pets/Train/cats/1.jpg", "pets/Train/dogs/1.jpg"], CLASSES),
    "subsets": (
        [f"{s}/{c}/1.jpg" for s in ("TRAIN", "validation", "test") for c in ("cats", "dogs")],
        [
            (f"{folder}/{label}/1", label, subset)
            for folder, subset in (("TRAIN", "train"), ("test", "test"), ("validation", "valid"))
            for label in ("cats", "dogs")
        ],
    ),
    "a subset of one class": (
        ["train/cats/1.jpg", "train/dogs/1.jpg", "val/cats/1.jpg"],
        [
            *[(f"train/{label}/1", label, "train") for label in ("cats", "dogs")],
            ("val/cats/1", "cats", "valid"),
        ],
    ),
    "flat subsets": (
        ["train/cat.0.jpg", "train/dog.0.jpg", "valid/cat.1.jpg", "test/1.jpg"],
        [
            ("1", None, "unlabelled"),
            *[(f"train/{label}.0", label, "train") for label in ("cat", "dog")],
            ("valid/cat.1", "cat", "valid"),
        ],
    ),
    "Kaggle's pair, unzipped": (
        [*(f"dvc/train/train/{n}" for n in KAGGLE), *(f"dvc/test1/test1/{i}.jpg" for i in (10, 2))],
        [("2", None, "unlabelled"), ("10", None, "unlabelled"), *LABELLED],
    ),
    "classes and a flat test": (
        ["train/cats/1.jpg", "train/dogs/1.jpg", "test/1.jpg"],
        [("1", None, "unlabelled"), *CLASSES],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_become_labels_and_subsets(layout: str) -> None:
    names, expected = LAYOUTS[layout]
    assert rows(names) == expected
    entries, _ = infer_layout(names, "train.zip", None)
    assert [entry.name for entry in entries] == sorted(names, key=natural_key)


@pytest.mark.parametrize(
    ("names", "strays"),
    [
        (["cats/1.jpg", "dogs/1.jpg", "3.jpg"], ["3"]),
        (["pets/cats/1.jpg", "pets/dogs/1.jpg", "readme.txt"], ["readme"]),
        ([*KAGGLE, "readme.txt", "more/1.jpg"], ["more/1", "readme"]),
        ([*KAGGLE, "test/1.jpg", "train/1.jpg"], ["test/1", "train/1"]),
        (["train/cats/1.jpg", "train/dogs/1.jpg", "train/3.jpg", "test/1.jpg"], ["train/3"]),
    ],
)
def test_a_file_outside_the_layout_stays_without_label_or_subset(
    names: list[str], strays: list[str]
) -> None:
    found = rows(names)
    assert len(found) == len(names)
    assert [row[0] for row in found if row[1:] == (None, None)] == strays


TWINS = ["c/a.jpg", "c/a.jpg.png", "c/a.png"]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        ([*TWINS, "d/a.jpg"], [*TWINS, "d/a"]),
        (
            ["test/photo.jpg", "train/cats/1.jpg", "train/dogs/1.jpg", "photo.jpg"],
            ["photo.jpg", "test/photo.jpg", "cats/1", "dogs/1"],
        ),
    ],
)
def test_equal_ids_keep_their_extension_or_their_folder(names: list[str], ids: list[str]) -> None:
    assert [row[0] for row in rows(names)] == ids


@pytest.mark.parametrize(
    ("names", "classes", "order"),
    [
        (["class10/1.jpg", "class2/1.jpg", "class1/1.jpg"], None, ["class1", "class2", "class10"]),
        (KAGGLE, ["dog", "cat"], ["dog", "cat"]),
        (["cats/cat.1.jpg", "train/1.jpg"], ["train", "cats"], ["train", "cats"]),  # a class
    ],
)
def test_classes_are_in_this_order(
    names: list[str], classes: list[str] | None, order: list[str]
) -> None:
    assert infer_layout(names, "train.zip", classes)[1] == order


TRAIN = ["train/cat.1.jpg", "train/dog.1.jpg"]
UNCLEAR = "rename or rearrange the images"


@pytest.mark.parametrize(
    ("names", "classes", "got"),
    [
        ([], None, f"'nothing'; {UNCLEAR}"),
        (["2.jpg", "1.jpg"], None, f"'1.jpg'; {UNCLEAR}"),
        (["train/1.jpg", "test/1.jpg"], None, f"'train/1.jpg'; {UNCLEAR}"),
        (["cats/1.jpg", "cats/2.jpg"], None, f"'cats/1.jpg'; {UNCLEAR}"),
        ([*TRAIN, "valid/1.jpg"], None, f"'valid/1.jpg'; {UNCLEAR}"),
        (["cat.1.jpg", "1.jpg", "2.jpg"], None, f"'1.jpg'; {UNCLEAR}"),
        (["test/cats/1.jpg", "valid/cats/1.jpg"], None, f"'test/cats/1.jpg'; {UNCLEAR}"),
        (["cat.1.jpg", "cat.2.jpg"], None, "only 'cat'; add the images of another class"),
        (["Cats/1.jpg", "cats/2.jpg"], None, "'Cats' and 'cats'; rename one"),
        (["train/a/1.jpg", "test/a/1.jpg", "docs/1.jpg"], None, "'docs' among 'docs', 'test', "),
        (["cats/1.jpg", "dogs/1.jpg", "test/1.jpg"], None, "'test' among 'cats', 'dogs', 'test'; "),
        ([*TRAIN, "testing/1.jpg"], None, "'testing' among 'testing', 'train'; move it elsewhere"),
        ([*TRAIN, "test/other.1.jpg"], None, "'other'; rename or remove it"),
        (KAGGLE, ["cats", "dog"], "'cat', 'dog'; did you mean 'cat'?"),
        (KAGGLE, ["cat", "dog", "horse"], "'cat', 'dog'; correct the list of classes"),
        ([*KAGGLE, "horse.1.jpg"], ["dog", "cat"], "'horse'; list it too or remove its images"),
        (
            [f"{number}/1.jpg" for number in range(12)],
            ["dog", "cat"],
            "'0', '1', '2', '3', '4', '5', '6', '7', '8', '9' and 2 more; correct the list",
        ),
    ],
)
def test_names_without_clear_classes_are_refused(
    names: list[str], classes: list[str] | None, got: str
) -> None:
    with pytest.raises(UserError, match=rf"^train\.zip: expected .*, got {re.escape(got)}"):
        infer_layout(names, "train.zip", classes)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["test/10.jpg", "test/2.jpg"], ["2", "10"]),
        (["a/test/1.jpg", "readme.txt"], ["1", "readme"]),
        (["a/1.jpg", "b/1.jpg"], ["a/1", "b/1"]),
        (["1.jpg", "1.png"], ["1.jpg", "1.png"]),
        ([], []),
    ],
)
def test_unlabelled_images_have_natural_order_and_short_ids(
    names: list[str], ids: list[str]
) -> None:
    entries = unlabelled(names)
    assert [entry.id for entry in entries] == ids
    assert {(entry.label, entry.subset) for entry in entries} <= {(None, "unlabelled")}


@pytest.mark.parametrize(("limit", "kept"), [(None, 5), (1, 3), (2, 4)])
def test_a_limit_keeps_the_first_of_each_class_and_all_without_a_label(
    limit: int | None, kept: int
) -> None:
    labels = ["cat", None, "dog", "cat", "cat"]
    entries = [Entry(str(number), str(number), x, None) for number, x in enumerate(labels)]
    assert list(limit_per_class(entries, limit)) == entries[:kept]
