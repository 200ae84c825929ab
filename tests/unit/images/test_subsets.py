"""The split is stratified, stable, and independent of names and order."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.images.subsets import assign
from pipeline.runtime.errors import UserError


def sha256(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def images(cats: int, dogs: int) -> tuple[list[int], list[str]]:
    """Labels and groups of images that are all different."""
    names = [f"cat.{i}" for i in range(cats)] + [f"dog.{i}" for i in range(dogs)]
    return [0] * cats + [1] * dogs, [sha256(name) for name in names]


def split(
    labels: Sequence[int],
    groups: Sequence[str],
    predefined: Sequence[str | None] | None = None,
    *,
    valid: float = 0.2,
    test: float = 0.1,
    seed: int = 0,
    classes: Sequence[str] = ("cat", "dog"),
) -> list[str]:
    predefined = [None] * len(labels) if predefined is None else predefined
    return assign(classes, labels, groups, predefined, valid=valid, test=test, seed=seed)


def counts(labels: Sequence[int], subsets: Sequence[str]) -> dict[tuple[int, str], int]:
    return dict(Counter(zip(labels, subsets, strict=True)))


@pytest.mark.parametrize(
    ("cats", "dogs", "valid", "test"),
    [
        (100, 50, 0.2, 0.1),
        (10, 10, 0.1, 0.1),
        (40, 400, 0.25, 0.5),
        (8, 9, 0.3, 0.3),
        (9, 9, 0.2, 0),
    ],
)
def test_each_class_is_split_by_the_fractions(
    cats: int, dogs: int, valid: float, test: float
) -> None:
    labels, groups = images(cats, dogs)
    found = counts(labels, split(labels, groups, valid=valid, test=test))
    for label, total in enumerate((cats, dogs)):
        sizes = {"test": round(test * total), "valid": round(valid * total)}
        sizes["train"] = total - sum(sizes.values())
        assert {subset: found.get((label, subset), 0) for subset in sizes} == sizes


def test_a_small_class_has_one_image_in_each_subset() -> None:
    labels, groups = images(3, 100)
    found = counts(labels, split(labels, groups))
    assert [found[0, subset] for subset in ("train", "valid", "test")] == [1, 1, 1]


def test_a_group_with_two_labels_shares_a_subset_in_any_order() -> None:
    labels, groups = images(30, 30)
    groups[:10] = groups[30:40]  # ten cats are dogs too
    subsets = split(labels, groups)
    assert subsets[:10] == subsets[30:40]
    assert split(labels[::-1], groups[::-1])[::-1] == subsets


@pytest.mark.parametrize("order_seed", range(5))
def test_the_order_of_the_images_changes_nothing(order_seed: int) -> None:
    labels, groups = images(60, 40)
    subsets = split(labels, groups)
    order = np.random.default_rng(order_seed).permutation(100)
    shuffled = split([labels[i] for i in order], [groups[i] for i in order])
    assert shuffled == [subsets[i] for i in order]


def test_the_names_of_the_classes_change_nothing() -> None:
    labels, groups = images(60, 40)
    assert split(labels, groups, classes=("x", "y")) == split(labels, groups)
    swapped = split([1 - label for label in labels], groups, classes=("dog", "cat"))
    assert swapped == split(labels, groups)


def test_an_added_or_removed_image_moves_at_most_two_others() -> None:
    labels, groups = images(60, 40)
    subsets = split(labels, groups)
    for extra in range(50):
        more = split([*labels, 0], [*groups, sha256(f"cat.{60 + extra}")])
        moved = [i for i in range(100) if more[i] != subsets[i]]
        assert len(moved) <= 2
        assert all(labels[i] == 0 for i in moved)
    for gone in range(60):
        less = split(labels[:gone] + labels[gone + 1 :], groups[:gone] + groups[gone + 1 :])
        before = subsets[:gone] + subsets[gone + 1 :]
        assert sum(now != then for now, then in zip(less, before, strict=True)) <= 2


def test_another_seed_gives_another_split_of_the_same_sizes() -> None:
    labels, groups = images(60, 40)
    first, second = (split(labels, groups, seed=seed) for seed in (0, 1))
    assert first != second
    assert counts(labels, first) == counts(labels, second)


@pytest.mark.parametrize("test", [0.1, 0])
def test_predefined_subsets_are_kept(test: float) -> None:
    labels, groups = images(30, 30)
    predefined = (["train"] * 20 + ["valid"] * 5 + ["test"] * 5) * 2
    assert split(labels, groups, predefined, test=test) == predefined


@pytest.mark.parametrize(("kept", "drawn", "size"), [("test", "valid", 4), ("valid", "test", 2)])
def test_a_missing_subset_is_drawn_from_train(kept: str, drawn: str, size: int) -> None:
    labels, groups = images(30, 30)
    predefined = (["train"] * 20 + [kept] * 10) * 2
    subsets = split(labels, groups, predefined)
    assert counts(labels, subsets) == {
        (label, subset): count
        for label in (0, 1)
        for subset, count in [("train", 20 - size), (drawn, size), (kept, 10)]
    }
    assert all(new == old for old, new in zip(predefined, subsets, strict=True) if old == kept)


def test_too_few_images_of_a_class_are_refused() -> None:
    with pytest.raises(UserError) as refused:
        split(*images(2, 20))
    assert str(refused.value) == (
        "class 'cat': expected at least one image in each of train, valid, test, got none in valid "
        "of 2 readable in all; add images of this class, or take more of them"
    )


@pytest.mark.parametrize(
    ("labels", "groups", "predefined", "test", "message"),
    [
        (*images(1, 20), None, 0, "'cat': .* train, valid, got none in valid of 1 "),
        (*images(0, 20), None, 0, "'cat': .* train, valid, got none in train of 0 "),
        (
            *images(10, 10),
            ["train"] * 8 + ["valid"] * 2 + ["train"] * 10,
            0,
            "'dog': .* train, valid, got none in valid of 10 ",
        ),
        (
            [0] * 10 + [1] * 10,
            [sha256("cat")] * 10 + images(0, 10)[1],
            None,
            0.1,
            "'cat': .* got none in valid of 10 ",
        ),
    ],
    ids=["one image", "no image", "a predefined subset without the class", "copies of one image"],
)
def test_so_is_a_class_that_a_subset_lacks(
    labels: list[int], groups: list[str], predefined: list[str], test: float, message: str
) -> None:
    with pytest.raises(UserError, match=f"^class {message}"):
        split(labels, groups, predefined, test=test)
