"""Thresholds of two classes against those worked out by hand."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pipeline.evaluation import scores

PROBABILITY = np.array([0.1, 0.2, 0.7, 0.6, 0.8, 0.9])  # of the second class
LABEL = np.array([0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    ("probability", "label", "threshold", "expected"),
    [
        (PROBABILITY, LABEL, 0.65, (4 / 6, 1 / 3, 1 / 3)),
        (PROBABILITY, LABEL, 0.75, (5 / 6, 0, 1 / 3)),
        ([0.5], [1], 0.5, (1, 0, 0)),  # at the threshold: the second class
        ([0.2, 0.8], [1, 1], 0.5, (0.5, 0, 0.5)),  # a class without an image has no errors
    ],
)
def test_a_threshold_counts_the_errors_of_each_class(
    probability: Any, label: Any, threshold: float, expected: tuple[float, float, float]
) -> None:
    images = np.array(probability), np.array(label)
    measured = scores.accuracy_and_errors(*images, np.array([threshold]))
    assert_allclose(np.concatenate(measured), expected)


@pytest.mark.parametrize(
    ("probability", "label", "symmetric", "accurate"),
    [
        (PROBABILITY, LABEL, 0.65, 0.5),
        ([0.6, 0.7, 0.84, 0.86, 0.9, 0.95], LABEL, 0.85, 0.85),
        ([0.1, 0.9], [0, 1], 0.5, 0.5),  # of equally good ones the nearest to one half
        ([0.1, 0.2], [0, 1], 0.15, 0.15),
    ],
)
def test_thresholds_balance_the_errors_or_have_the_highest_accuracy(
    probability: list[float], label: list[int], symmetric: float, accurate: float
) -> None:
    chosen = scores.choose_thresholds(np.array(probability), np.array(label), 6)
    assert chosen == {"half": 0.5, "symmetric": symmetric, "accurate": accurate}


def test_thresholds_of_valid_are_measured_on_every_subset() -> None:
    subsets = {"valid": (PROBABILITY, LABEL), "test": (PROBABILITY[::-1], LABEL)}
    assert scores.thresholds(subsets, "valid", ("cat", "dog"), 4)["symmetric"] == {
        "threshold": 0.65,
        "valid": {"accuracy": 0.6667, "error_rate": {"cat": 0.3333, "dog": 0.3333}},
        "test": {"accuracy": 0.3333, "error_rate": {"cat": 0.6667, "dog": 0.6667}},
    }
