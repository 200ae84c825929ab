"""Galleries hold correct and wrong, confident and unsure images, the same ones every time."""

from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.probabilities import Floats
from pipeline.explanation.galleries import select

TWO = ("cat", "dog")
#         0    1    2    3    4    5    6    7    8
OF_DOG = [0.9, 0.1, 0.6, 0.2, 1.0, 0.7, 0.4, 0.8, 0.5]
LABEL = [1, 0, 0, 1, 1, 0, 0, -1, -1]


def log_probability(of_dog: list[float]) -> Floats:
    probability = np.array(of_dog)
    with np.errstate(divide="ignore"):
        result = np.log(np.stack([1 - probability, probability], axis=1))
    return np.asarray(result, np.float32)


def selected(
    of_dog: list[float], label: list[int], rows: Any = None, count: int = 8, seed: int = 0
) -> dict[str, list[int]]:
    of_rows = np.array(range(len(label)) if rows is None else rows, np.int64)
    labels = np.array(label, np.int64)
    galleries = select(log_probability(of_dog), labels, of_rows, TWO, count, seed)
    return {name: images.tolist() for name, images in galleries.items()}


def test_each_gallery_has_its_images_in_its_order() -> None:
    assert selected(OF_DOG, LABEL) == {
        "right": [0, 1, 4, 6],
        "wrong": [2, 3, 5],
        "surely right: cat": [1, 6],
        "surely wrong: cat": [5, 2],
        "surely right: dog": [4, 0],
        "surely wrong: dog": [3],
        "unsure": [8, 2, 6, 5, 3, 7, 0, 1],  # and not 4, the ninth
    }


def test_images_come_from_the_given_rows_in_any_order() -> None:
    galleries = selected(OF_DOG, LABEL, [5, 7, 1, 4])
    surely = {"surely right: cat": [1], "surely wrong: cat": [5], "surely right: dog": [4]}
    assert galleries == {"right": [1, 4], "wrong": [5], **surely, "unsure": [5, 7, 1, 4]}
    assert selected(OF_DOG, LABEL, [1, 4, 5, 7]) == galleries


def test_without_labels_images_can_only_be_unsure_and_without_images_nothing() -> None:
    assert selected([0.9, 0.6], [-1, -1]) == {"unsure": [1, 0]}
    assert selected([], []) == selected(OF_DOG, LABEL, []) == {}


def test_ties_go_to_the_first_row_and_a_gallery_is_never_too_long() -> None:
    galleries = selected([0.25] * 9, [0, 1, 0, 1, 0, 1, 0, 1, 0], count=2)
    assert galleries["surely right: cat"] == [0, 2]
    assert (galleries["surely wrong: dog"], galleries["unsure"]) == ([1, 3], [0, 1])


def test_random_samples_repeat_with_their_seed_and_differ_with_another() -> None:
    first, again, other = (
        selected([0.9] * 100, [1] * 100, count=10, seed=seed)["right"] for seed in (1, 1, 2)
    )
    assert first == again == sorted(set(first))
    assert (len(first), max(first) > 20, first == other) == (10, True, False)


@pytest.mark.parametrize(
    ("errors", "right", "wrong"),
    [
        ([0, 2, 9, 1, 0, 3, 2, 2, 2], "125678", "125678"),
        ([0, 0, 1, 0, 0, 0, 0, 0], "012345", "2"),
    ],
)
def test_the_classes_with_the_most_errors_have_galleries(
    errors: list[int], right: str, wrong: str
) -> None:
    n_classes = len(errors)
    label = np.repeat(np.arange(n_classes), np.array(errors) + 1)  # and one correct image each
    first = np.r_[True, label[1:] != label[:-1]]
    predicted = np.where(first, label, (label + 1) % n_classes)
    log_probability = np.log(np.where(np.eye(n_classes, dtype=bool)[predicted], 0.9, 0.01))
    names = [str(index) for index in range(n_classes)]
    galleries = select(log_probability, label, np.arange(len(label)), names, 3, seed=0)
    for kind, expected in (("surely right: ", right), ("surely wrong: ", wrong)):
        classes = [name.removeprefix(kind) for name in galleries if name.startswith(kind)]
        assert "".join(classes) == expected
