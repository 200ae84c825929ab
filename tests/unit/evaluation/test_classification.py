"""Metrics against numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.evaluation import classification
from pipeline.evaluation.classification import summary
from pipeline.evaluation.probabilities import Floats, Ints

# The second class has .1, .4, .35 and .8, so the third image is predicted as the first class.
TWO = np.log([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]])
TWO_LABEL = np.array([0, 0, 1, 1])
# The second image, of the first class, is predicted as the second class.
THREE = np.log([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
THREE_LABEL = np.array([0, 0, 1, 2])


def test_the_metrics_of_two_classes_are_those_worked_out_by_hand() -> None:
    cat = {"precision": 0.6667, "recall": 1.0, "f1": 0.8, "images": 2, "misclassified": 0}
    dog = {"precision": 1.0, "recall": 0.5, "f1": 0.6667, "images": 2, "misclassified": 1}
    assert summary(TWO, TWO_LABEL, ("cat", "dog"), 4) == {
        "images": 4,
        "accuracy": 0.75,
        "log_loss": round(-math.log(0.9 * 0.6 * 0.35 * 0.8) / 4, 4),
        "brier": round((0.1**2 + 0.4**2 + 0.65**2 + 0.2**2) / 4, 4),
        # Alone in their bins: .9 and .8 are correct, .65 is not, .6 is.
        "expected_calibration_error": round((0.1 + 0.2 + 0.65 + 0.4) / 4, 4),
        "misclassified": 1,
        "roc_auc": 0.75,
        "average_precision": round((1 + 2 / 3) / 2, 4),
        "per_class": {"cat": cat, "dog": dog},
    }


def test_the_metrics_of_three_classes_are_those_worked_out_by_hand() -> None:
    metrics = summary(THREE, THREE_LABEL, ("a", "b", "c"), 6)
    assert metrics["accuracy"] == 0.75
    assert metrics["log_loss"] == round(-math.log(0.7 * 0.2 * 0.8 * 0.4) / 4, 6)
    assert metrics["roc_auc"] == round((0.75 + 1 + 1) / 3, 6)
    per_class = metrics["per_class"]
    assert [per_class[name]["recall"] for name in "abc"] == [0.5, 1, 1]
    assert [per_class[name]["precision"] for name in "abc"] == [1, 0.5, 1]
    first = classification.brier_scores(THREE, THREE_LABEL)[0]  # summed over the classes
    assert first == pytest.approx(0.3**2 + 0.2**2 + 0.1**2)


def test_a_class_without_an_image_has_zeros_and_no_area() -> None:
    metrics = summary(THREE[:3], THREE_LABEL[:3], ("a", "b", "c"), 6)
    assert "roc_auc" not in metrics
    assert set(metrics["per_class"]["c"].values()) == {0}
    counts = classification.confusion(THREE[:3], THREE_LABEL[:3])
    assert counts.dtype == np.int64
    assert_array_equal(counts, [[1, 1, 0], [0, 1, 0], [0, 0, 0]])


def test_a_single_class_of_two_has_no_area_and_no_curve() -> None:
    for rows in ([0, 1], [2, 3]):
        assert classification.areas(TWO[rows], TWO_LABEL[rows]) == {}
        curves = classification.curves(TWO[rows], TWO_LABEL[rows])
        assert [curves[kind][0].size for kind in ("roc", "precision_recall")] == [0, 0]


@pytest.mark.parametrize(
    ("kind", "log_probability", "label", "x", "y"),
    [
        ("roc", TWO, TWO_LABEL, [0, 0, 0.5, 0.5, 1], [0, 0.5, 0.5, 1, 1]),
        (  # all pairs of image and class pooled
            *("roc", THREE, THREE_LABEL),
            np.array([0, 0, 0, 1, 1, 4, 5, 8]) / 8,
            np.array([0, 1, 2, 2, 3, 3, 4, 4]) / 4,
        ),
        ("roc", TWO * 0 + np.log(0.5), TWO_LABEL, [0, 1], [0, 1]),
        ("precision_recall", TWO, TWO_LABEL, [0, 0.5, 0.5, 1, 1], [1, 1, 0.5, 2 / 3, 0.5]),
    ],
)
def test_a_curve_turns_at_every_distinct_score(
    kind: str, log_probability: Floats, label: Ints, x: Any, y: Any
) -> None:
    points = classification.curves(log_probability, label)[kind]
    assert_allclose(points[0], x)
    assert_allclose(points[1], y)


def test_the_area_separates_log_odds_with_probabilities_that_both_round_to_one() -> None:
    log_probability = np.array([[-40.0, 0.0], [-50.0, 0.0]])
    assert np.exp(log_probability)[:, 1].tolist() == [1.0, 1.0]
    assert classification.areas(log_probability, np.array([0, 1]))["roc_auc"] == 1.0


def test_confidence_and_accuracy_are_compared_within_a_bin() -> None:
    log_probability = np.log([[0.98, 0.02], [0.96, 0.04], [0.3, 0.7]])
    label = np.array([0, 1, 1])  # the first two share a bin: confidence 0.97, accuracy 0.5
    error = classification.expected_calibration_error(log_probability, label)
    assert error == pytest.approx((2 * 0.47 + 0.3) / 3)
    confidence, accuracy, images = classification.curves(log_probability, label)["reliability"]
    assert_allclose(confidence, [0.7, 0.97])
    assert_allclose(accuracy, [1, 0.5])
    assert images.tolist() == [1, 2]
    _, _, bins = classification.binned(np.log([[0.5, 0.5], [1.0, 1e-9]]), np.array([0, 0]))
    assert bins.tolist() == [7, classification.BINS - 1]
