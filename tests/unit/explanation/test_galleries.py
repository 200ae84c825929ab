"""Galleries show right and wrong, sure and unsure images, the same ones every time."""

from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from pipeline.evaluation.losses import Floats, Ints
from pipeline.explanation.examples import entropy, galleries

TWO = ("cat", "dog")


def log_probability(of_dog: list[float]) -> Floats:
    probability = np.array(of_dog)
    with np.errstate(divide="ignore"):
        found = np.log(np.stack([1 - probability, probability], axis=1))
    return np.asarray(found, np.float32)


def ints(values: list[int]) -> Ints:
    return np.array(values, np.int64)


def chosen(
    of_dog: list[float], label: list[int], rows: list[int] | None = None, count: int = 8
) -> dict[str, list[int]]:
    every = list(range(len(label))) if rows is None else rows
    found = galleries(log_probability(of_dog), ints(label), ints(every), TWO, count, seed=0)
    return {name: of.tolist() for name, of in found.items()}


#         0    1    2    3    4    5    6    7    8
OF_DOG = [0.9, 0.1, 0.6, 0.2, 1.0, 0.7, 0.4, 0.8, 0.5]
LABEL = [1, 0, 0, 1, 1, 0, 0, -1, -1]


def test_each_gallery_has_its_images_in_its_order() -> None:
    assert chosen(OF_DOG, LABEL) == {
        "right": [0, 1, 4, 6],
        "wrong": [2, 3, 5],
        "surely right: cat": [1, 6],
        "surely wrong: cat": [5, 2],
        "surely right: dog": [4, 0],
        "surely wrong: dog": [3],
        "unsure": [8, 2, 6, 5, 3, 7, 0, 1],  # and not 4, the ninth
    }


def test_only_the_given_rows_are_chosen_from_whatever_their_order() -> None:
    for rows in ([5, 7, 1, 4], [1, 4, 5, 7]):
        assert chosen(OF_DOG, LABEL, rows) == {
            "right": [1, 4],
            "wrong": [5],
            "surely right: cat": [1],
            "surely wrong: cat": [5],
            "surely right: dog": [4],
            "unsure": [5, 7, 1, 4],
        }


def test_images_without_labels_are_unsure_at_most() -> None:
    assert chosen([0.9, 0.6], [-1, -1]) == {"unsure": [1, 0]}


def test_no_images_have_no_galleries() -> None:
    assert chosen([], []) == {}
    assert chosen(OF_DOG, LABEL, []) == {}


def test_equally_sure_images_stand_by_row_and_a_gallery_is_no_longer_than_asked() -> None:
    found = chosen([0.25] * 9, [0, 1, 0, 1, 0, 1, 0, 1, 0], count=2)
    assert found["surely right: cat"] == [0, 2]
    assert found["surely wrong: dog"] == [1, 3]
    assert found["unsure"] == [0, 1]


def test_draws_repeat_with_their_seed_and_differ_with_another() -> None:
    given, label = log_probability([0.9] * 100), np.ones(100, np.int64)
    every = np.arange(100)

    def right(seed: int) -> Ints:
        return galleries(given, label, every, TWO, 10, seed)["right"]

    assert_array_equal(right(1), right(1))
    assert_array_equal(right(1), np.unique(right(1)))
    assert len(right(1)) == 10
    assert right(1).tolist() != right(2).tolist()
    assert right(1).max() > 20


def of_many_classes(mistakes: list[int]) -> dict[str, Ints]:
    """As many wrong images of each class, and one right one."""
    label, said = [], []
    for index, count in enumerate(mistakes):
        label += [index] * (count + 1)
        said += [index] + [(index + 1) % len(mistakes)] * count
    given = np.log(np.full((len(label), len(mistakes)), 0.01))
    given[np.arange(len(label)), said] = np.log(1 - 0.01 * (len(mistakes) - 1))
    names = [f"class {index}" for index in range(len(mistakes))]
    return galleries(given, np.array(label), np.arange(len(label)), names, 3, seed=0)


def shown(found: dict[str, Any], kind: str) -> list[int]:
    return [int(name.rpartition(" ")[2]) for name in found if name.startswith(kind)]


def test_of_many_classes_those_with_the_most_mistakes_have_galleries() -> None:
    found = of_many_classes([0, 2, 9, 1, 0, 3, 2, 2, 2])
    assert shown(found, "surely wrong") == shown(found, "surely right") == [1, 2, 5, 6, 7, 8]
    assert len(found["surely wrong: class 2"]) == 3
    found = of_many_classes([0, 0, 1, 0, 0, 0, 0, 0])
    assert shown(found, "surely right") == [0, 1, 2, 3, 4, 5]
    assert shown(found, "surely wrong") == [2]


def test_entropy_is_highest_for_even_odds_and_zero_for_certainty() -> None:
    found = entropy(log_probability([0.5, 0.0, 1.0, 0.9]))
    assert_allclose(found, [np.log(2), 0, 0, -0.9 * np.log(0.9) - 0.1 * np.log(0.1)], atol=1e-6)
