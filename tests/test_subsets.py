"""The split: stratified, stable, and blind to names and order."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.images.subsets import assign
from pipeline.runtime.errors import UserError

CLASSES = ("cat", "dog")


def content(name: str) -> str:
    """A group as `split` gives it: the sha256 of an image's bytes."""
    return hashlib.sha256(name.encode()).hexdigest()


def images(cats: int, dogs: int) -> tuple[list[int], list[str]]:
    """Labels and groups of so many images, all different."""
    names = [f"cat.{i}" for i in range(cats)] + [f"dog.{i}" for i in range(dogs)]
    return [0] * cats + [1] * dogs, [content(name) for name in names]


def split(
    labels: Sequence[int],
    groups: Sequence[str],
    given: Sequence[str | None] | None = None,
    *,
    valid: float = 0.2,
    test: float = 0.1,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
) -> list[str]:
    given = [None] * len(labels) if given is None else given
    return assign(classes, labels, groups, given, valid=valid, test=test, seed=seed)


def counts(labels: Sequence[int], subsets: Sequence[str]) -> dict[tuple[int, str], int]:
    return dict(Counter(zip(labels, subsets, strict=True)))


@pytest.mark.parametrize(
    ("cats", "dogs", "valid", "test"),
    [(100, 50, 0.2, 0.1), (10, 10, 0.1, 0.1), (40, 400, 0.25, 0.5), (8, 9, 0.3, 0.3)],
)
def test_each_class_is_split_by_the_fractions(
    cats: int, dogs: int, valid: float, test: float
) -> None:
    labels, groups = images(cats, dogs)
    found = counts(labels, split(labels, groups, valid=valid, test=test))
    for label, total in enumerate((cats, dogs)):
        tested, chosen = round(test * total), round(valid * total)
        assert found[label, "test"] == tested
        assert found[label, "valid"] == chosen
        assert found[label, "train"] == total - tested - chosen


def test_a_small_class_has_one_image_of_each_subset() -> None:
    labels, groups = images(3, 100)
    found = counts(labels, split(labels, groups))
    assert [found[0, subset] for subset in ("train", "valid", "test")] == [1, 1, 1]


def test_images_of_one_group_share_a_subset() -> None:
    rng = np.random.default_rng(0)
    labels = [0] * 200 + [1] * 200
    groups = [content(f"{label} {rng.integers(80)}") for label in labels]
    subsets = split(labels, groups)
    together = defaultdict(set)
    for group, subset in zip(groups, subsets, strict=True):
        together[group].add(subset)
    assert {len(found) for found in together.values()} == {1}
    assert set(subsets) == {"train", "valid", "test"}


def test_a_group_with_two_labels_shares_a_subset_in_any_order() -> None:
    labels, groups = images(30, 30)
    groups[:10] = groups[30:40]  # ten cats are dogs too
    subsets = split(labels, groups)
    assert subsets[:10] == subsets[30:40]
    backward = split(labels[::-1], groups[::-1])
    assert backward[::-1] == subsets


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


def test_an_added_image_moves_at_most_two_others() -> None:
    labels, groups = images(60, 40)
    subsets = split(labels, groups)
    for extra in range(50):
        grown = split([*labels, 0], [*groups, content(f"cat.{60 + extra}")])
        moved = [i for i in range(100) if grown[i] != subsets[i]]
        assert len(moved) <= 2
        assert all(labels[i] == 0 for i in moved)


def test_a_removed_image_moves_at_most_two_others() -> None:
    labels, groups = images(60, 40)
    subsets = split(labels, groups)
    for gone in range(60):
        rest = split(labels[:gone] + labels[gone + 1 :], groups[:gone] + groups[gone + 1 :])
        before = subsets[:gone] + subsets[gone + 1 :]
        assert sum(now != then for now, then in zip(rest, before, strict=True)) <= 2


def test_another_seed_gives_another_split_of_the_same_sizes() -> None:
    labels, groups = images(60, 40)
    first, second = (split(labels, groups, seed=seed) for seed in (0, 1))
    assert first != second
    assert counts(labels, first) == counts(labels, second)
    assert split(labels, groups, seed=0) == first


def test_no_test_fraction_gives_no_test_subset() -> None:
    labels, groups = images(60, 40)
    found = counts(labels, split(labels, groups, test=0))
    assert found == {(0, "train"): 48, (0, "valid"): 12, (1, "train"): 32, (1, "valid"): 8}


def test_given_subsets_are_kept() -> None:
    labels, groups = images(30, 30)
    given = (["train"] * 20 + ["valid"] * 5 + ["test"] * 5) * 2
    assert split(labels, groups, given) == given


def test_a_given_test_is_kept_without_a_test_fraction() -> None:
    labels, groups = images(10, 10)
    given = (["train"] * 6 + ["valid"] * 2 + ["test"] * 2) * 2
    assert split(labels, groups, given, test=0) == given


@pytest.mark.parametrize(
    ("given_one", "drawn", "size"), [("test", "valid", 4), ("valid", "test", 2)]
)
def test_a_subset_that_is_not_given_is_drawn_from_train(
    given_one: str, drawn: str, size: int
) -> None:
    labels, groups = images(30, 30)
    given = (["train"] * 20 + [given_one] * 10) * 2
    subsets = split(labels, groups, given)
    assert counts(labels, subsets) == {
        (label, subset): count
        for label in (0, 1)
        for subset, count in [("train", 20 - size), (drawn, size), (given_one, 10)]
    }
    kept = [(old, new) for old, new in zip(given, subsets, strict=True) if old == given_one]
    assert set(kept) == {(given_one, given_one)}


@pytest.mark.parametrize(
    ("cats", "test", "sentence"),
    [
        (
            2,
            0.1,
            "class 'cat': expected at least one image in each of train, valid, test, "
            "got none in valid of 2 readable in all; add images of this class, "
            "or take more of them",
        ),
        (
            1,
            0,
            "class 'cat': expected at least one image in each of train, valid, "
            "got none in valid of 1 readable in all; add images of this class, "
            "or take more of them",
        ),
        (
            0,
            0,
            "class 'cat': expected at least one image in each of train, valid, "
            "got none in train of 0 readable in all; add images of this class, "
            "or take more of them",
        ),
    ],
)
def test_too_few_images_of_a_class_are_refused(cats: int, test: float, sentence: str) -> None:
    with pytest.raises(UserError) as told:
        split(*images(cats, 20), test=test)
    assert str(told.value) == sentence


def test_a_given_subset_without_a_class_is_refused() -> None:
    labels, groups = images(10, 10)
    given = [*["train"] * 8, *["valid"] * 2, *["train"] * 10]
    with pytest.raises(UserError) as told:
        split(labels, groups, given, test=0)
    assert str(told.value) == (
        "class 'dog': expected at least one image in each of train, valid, "
        "got none in valid of 10 readable in all; add images of this class, or take more of them"
    )


def test_copies_of_one_image_cannot_fill_three_subsets() -> None:
    labels, groups = images(10, 10)
    with pytest.raises(UserError, match=r"^class 'cat': .* got none in valid of 10 readable"):
        split(labels, [content("cat")] * 10 + groups[10:])
