"""Thresholds of two classes against those found by hand."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pipeline.evaluation import thresholds

# Of six images, the three of the first class are given .1, .2 and .7, of the second .6, .8 and .9.
PROBABILITY = np.array([0.1, 0.2, 0.7, 0.6, 0.8, 0.9])
LABEL = np.array([0, 0, 0, 1, 1, 1])


def test_a_threshold_counts_the_errors_of_each_class() -> None:
    assert_allclose(thresholds.errors(PROBABILITY, LABEL, 0.5), (5 / 6, 1 / 3, 0))
    assert_allclose(thresholds.errors(PROBABILITY, LABEL, 0.65), (4 / 6, 1 / 3, 1 / 3))
    assert_allclose(thresholds.errors(PROBABILITY, LABEL, 0.75), (5 / 6, 0, 1 / 3))


def test_an_image_at_the_threshold_is_taken_for_the_second_class() -> None:
    assert thresholds.errors(np.array([0.5]), np.array([1]), 0.5).accuracy == 1


def test_the_symmetric_threshold_makes_both_shares_of_errors_equal() -> None:
    assert thresholds.chosen(PROBABILITY, LABEL, 6) == {
        "half": 0.5,
        "symmetric": 0.65,
        "accurate": 0.5,
    }


def test_the_accurate_threshold_has_the_most_images_right() -> None:
    probability = np.array([0.6, 0.7, 0.84, 0.86, 0.9, 0.95])
    found = thresholds.chosen(probability, LABEL, 6)
    assert found["accurate"] == found["symmetric"] == 0.85
    assert thresholds.errors(probability, LABEL, 0.85) == (1, 0, 0)


def test_of_equally_good_thresholds_the_nearest_to_a_half_is_taken() -> None:
    assert thresholds.chosen(np.array([0.1, 0.9]), np.array([0, 1]), 6)["accurate"] == 0.5
    assert thresholds.chosen(np.array([0.1, 0.2]), np.array([0, 1]), 6)["accurate"] == 0.15


def test_a_class_without_an_image_has_no_errors() -> None:
    assert thresholds.errors(np.array([0.2, 0.8]), np.array([1, 1]), 0.5) == (0.5, 0, 0.5)


@pytest.mark.parametrize("decimals", [2, 6])
def test_a_threshold_is_rounded_before_it_is_judged(decimals: int) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 500)
    probability = np.clip(rng.normal(0.3 + 0.4 * label, 0.2), 0, 1)
    best = thresholds.chosen(probability, label, decimals)["accurate"]
    assert best == round(best, decimals)
    tried = np.linspace(0, 1, 10**2 + 1)
    accuracy, _, _ = thresholds.curves(probability, label, tried)
    assert thresholds.errors(probability, label, best).accuracy >= accuracy.max() - 1e-12
