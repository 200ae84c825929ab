"""Labels and subsets follow from file names alone."""

import re
from collections.abc import Mapping

import pytest

from pipeline.images.labels import (
    empty_folders,
    infer_layout,
    limit_per_class,
    unlabelled,
)
from pipeline.runtime.errors import UserError
from pipeline.storage.texts import natural_key

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


KAGGLE = [f"{label}.{number}.jpg" for label in ("cat", "dog") for number in (0, 1)]
LABELLED: list[Row] = [(name[:5], name[:3], None) for name in KAGGLE]
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
        [*(f"train/{name}" for name in KAGGLE), "valid/cat.1.jpg", "test/1.jpg"],
        [
            ("1", None, "unlabelled"),
            *[(f"train/{id_}", label, "train") for id_, label, _ in LABELLED],
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
    "folders of one neutral name in each class, as in Tiny ImageNet": (
        ["cats/images/1.jpg", "dogs/images/1.jpg"],
        [("cats/images/1", "cats", None), ("dogs/images/1", "dogs", None)],
    ),
    "Intel's scenes": (
        [
            *(f"seg_{s}/seg_{s}/{c}/1.jpg" for s in ("train", "test") for c in ("sea", "ice")),
            "seg_pred/seg_pred/5.jpg",
        ],
        [
            ("5", None, "unlabelled"),
            *((f"seg_{s}/{c}/1", c, s) for s in ("test", "train") for c in ("ice", "sea")),
        ],
    ),
}


SPELLINGS = {
    "train": ["Training", "training_set", "TRAIN-IMAGES", "train_data", "trainset", "seg_train"],
    "valid": ["valid_set", "Validation", "val-images", "val", "dev", "validation split"],
    "test": ["Testing", "test_set", "test1", "dataset_test", "Test Images", "testset"],
}


@pytest.mark.parametrize(
    ("folder", "subset"), [(folder, subset) for subset in SPELLINGS for folder in SPELLINGS[subset]]
)
def test_folders_are_subsets_in_many_spellings(folder: str, subset: str) -> None:
    folders = (folder, "test" if subset == "train" else "train")
    found = rows([f"{top}/{label}/1.jpg" for top in folders for label in ("cats", "dogs")])
    assert [row[1:] for row in found if row[0].startswith(f"{folder}/")] == [
        ("cats", subset),
        ("dogs", subset),
    ]


FOLDS = [f"fold{fold}/{label}/{fold}.jpg" for fold in (1, 2, 3, 4) for label in ("cats", "dogs")]


@pytest.mark.parametrize(
    ("subsets", "expected"),
    [
        (
            {"train": ["fold1", "fold3"], "valid": ["fold2"], "test": ["fold4"]},
            [(1, "train"), (2, "valid"), (3, "train"), (4, "test")],
        ),
        ({"train": ["fold2"], "valid": None, "test": ["fold4"]}, [(2, "train"), (4, "test")]),
        ({"train": ["fold2"]}, [(2, None)]),
    ],
)
def test_data_subsets_says_which_folders_are_which(
    subsets: Mapping[str, list[str] | None], expected: list[tuple[int, str | None]]
) -> None:
    names = [*(f"wrap/{name}" for name in FOLDS), "wrap/stray.jpg", "wrap/fold2/stray.jpg"]
    entries, classes = infer_layout(names, "train.zip", None, subsets)
    assert classes == ["cats", "dogs"]
    assert [(entry.name, entry.label, entry.subset) for entry in entries if entry.label] == [
        (f"wrap/fold{fold}/{label}/{fold}.jpg", label, subset)
        for fold, subset in expected
        for label in ("cats", "dogs")
    ]
    strays = [entry.name for entry in entries if (entry.label, entry.subset) == (None, None)]
    assert strays == ["wrap/fold2/stray.jpg", "wrap/stray.jpg"]  # rejected, not dropped


def test_flat_test_images_of_data_subsets_are_unlabelled() -> None:
    names = [*FOLDS[:4], "more/1.jpg", "more/a/2.jpg"]
    entries, _ = infer_layout(names, "t", None, {"train": ["fold1"], "test": ["fold2"]})
    assert {entry.name for entry in entries} == {*FOLDS[:4]}
    names = [*FOLDS[:2], "more/1.jpg"]
    entries, _ = infer_layout(names, "t", None, {"train": ["fold1"], "test": ["more"]})
    assert (entries[-1].id, entries[-1].subset) == ("1", "unlabelled")


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
        (["dev/1.jpg", "test/1.jpg"], ["dev", "test"], ["dev", "test"]),
        (FOLDS[:4], ["fold2", "fold1"], ["fold2", "fold1"]),
        (["a.1.jpg", "b.1.jpg", "a.2.jpg", "b.2.jpg"], None, ["a", "b"]),
        (["stra\u00dfe/1.jpg", "strasse/2.jpg"], None, ["strasse", "stra\u00dfe"]),
    ],
)
def test_classes_are_in_this_order(
    names: list[str], classes: list[str] | None, order: list[str]
) -> None:
    assert infer_layout(names, "train.zip", classes)[1] == order


TRAIN = [f"train/{name}" for name in KAGGLE]
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
        ([*TRAIN, "fold1/1.jpg"], None, "'fold1' among 'fold1', 'train'; move it elsewhere"),
        (["a/1.jpg", "test/1.jpg"], None, "'test' among 'a', 'test'; move it elsewhere, list the"),
        (FOLDS, None, "'cats' in 'fold1' and in 'fold2'; say which they are: `data.classes: ["),
        ([f"train/{name}" for name in FOLDS], None, "'cats' in 'fold1' and in 'fold2'; say which"),
        (
            ["color/rust/1.jpg", "grayscale/rust/1.jpg", "segmented/rust/1.jpg"],
            *(None, "'rust' in 'color' and in 'grayscale'; say which they are"),
        ),
        ([*TRAIN, *FOLDS], None, "'fold1' among 'fold1', 'fold2', 'fold3', 'fold4', 'train'; "),
        (
            ["2021-05-01 12.10.jpg", "2021-05-01 12.11.jpg"],
            None,
            f"'2021-05-01 12.10.jpg'; {UNCLEAR}",
        ),
        (["at 9.10.jpg", "at 9.11.jpg", "at 7.10.jpg"], None, f"'at 7.10.jpg'; {UNCLEAR}"),
        (["IMG a.10.jpg", "IMG b.10.jpg"], None, f"'IMG a.10.jpg'; {UNCLEAR}"),
        (["??/1.jpg", "cats/1.jpg"], None, "'??', as where they could not be stored; make the"),
        (["____/1.jpg"], None, f"'____/1.jpg'; {UNCLEAR}"),
        (["_/1.jpg", "??/1.jpg", "a/1.jpg"], ["_", "??", "a"], "'??', as where they could not be"),
        (
            ["\u00c9t\u00e9/1.jpg", "\u00e9t\u00e9/1.jpg"],
            None,
            "'\u00c9t\u00e9' and '\u00e9t\u00e9'; re",
        ),
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
    ("subsets", "got"),
    [
        ({"train": ["Fold1"]}, "'fold1', 'fold2', 'fold3', 'fold4'; correct data.subsets"),
        ({"test": ["fold1"], "train": ["cats"]}, "'fold1', 'fold2', 'fold3', 'fold4'; correct"),
    ],
)
def test_data_subsets_that_are_not_there_are_refused(
    subsets: dict[str, list[str]], got: str
) -> None:
    with pytest.raises(UserError, match=rf"^t: expected the folder .*, got {re.escape(got)}"):
        infer_layout(FOLDS, "t", None, subsets)


def test_a_folder_without_images_is_a_class_folder_beside_classes() -> None:
    entries, _ = infer_layout(["a/cats/1.jpg", "a/dogs/1.jpg"], "train.zip", None)
    assert list(empty_folders(["a/birds", "a/cats/old", "b"], entries)) == [
        "class folder 'a/birds' holds no images",
        "folder 'a/cats/old' holds no images",
        "folder 'b' holds no images",
    ]


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


@pytest.mark.parametrize(
    ("limit", "kept"), [(None, [1, 2, 3, 1, 2, 7]), (1, [1, 1, 7]), (2, [1, 2, 1, 2, 7])]
)
def test_a_limit_keeps_the_first_of_each_class_and_all_without_a_label(
    limit: int | None, kept: list[int]
) -> None:
    names = (
        [f"cats/{n}.jpg" for n in (1, 2, 3)] + [f"dogs/{n}.jpg" for n in (1, 2)] + ["stray7.jpg"]
    )
    entries, _ = infer_layout(names, "train.zip", None)
    assert [int(one.id[-1]) for one in limit_per_class(entries, limit)] == kept
    assert list(entries) == [*entries[:2], entries[2], *entries[3:]]
