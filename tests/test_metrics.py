"""Figures of merit against numbers worked out by hand."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.evaluation import classification, losses

# Two classes: the second is given .1, .4, .35 and .8, so the third image is taken for the first.
TWO = np.log([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]])
TWO_LABEL = np.array([0, 0, 1, 1])
# Three classes: the second image, of the first class, is taken for the second.
THREE = np.log([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
THREE_LABEL = np.array([0, 0, 1, 2])


def perfect(label: losses.Ints, n_classes: int) -> losses.Floats:
    """Log-probabilities that give the true class all but e to the -50."""
    return np.where(np.eye(n_classes, dtype=bool)[label], 0.0, -50.0)


def test_two_classes_have_the_figures_worked_out_by_hand() -> None:
    assert classification.summary(TWO, TWO_LABEL, ("cat", "dog"), 4) == {
        "images": 4,
        "accuracy": 0.75,
        "log_loss": round(-math.log(0.9 * 0.6 * 0.35 * 0.8) / 4, 4),
        "brier": round((0.1**2 + 0.4**2 + 0.65**2 + 0.2**2) / 4, 4),
        # Alone in their bins: .9 and .8 were right, .65 was not, .6 was.
        "expected_calibration_error": round((0.1 + 0.2 + 0.65 + 0.4) / 4, 4),
        "misclassified": 1,
        "roc_auc": 0.75,
        "average_precision": round((1 + 2 / 3) / 2, 4),
        "per_class": {
            "cat": {
                "precision": 0.6667,
                "recall": 1.0,
                "f1": 0.8,
                "images": 2,
                "misclassified": 0,
            },
            "dog": {
                "precision": 1.0,
                "recall": 0.5,
                "f1": 0.6667,
                "images": 2,
                "misclassified": 1,
            },
        },
    }


def test_three_classes_have_the_figures_worked_out_by_hand() -> None:
    figures = classification.summary(THREE, THREE_LABEL, ("a", "b", "c"), 6)
    assert figures["accuracy"] == 0.75
    assert figures["log_loss"] == round(-math.log(0.7 * 0.2 * 0.8 * 0.4) / 4, 6)
    assert figures["roc_auc"] == round((0.75 + 1 + 1) / 3, 6)
    recall = {name: part["recall"] for name, part in figures["per_class"].items()}
    precision = {name: part["precision"] for name, part in figures["per_class"].items()}
    assert recall == {"a": 0.5, "b": 1.0, "c": 1.0}
    assert precision == {"a": 1.0, "b": 0.5, "c": 1.0}


@pytest.mark.parametrize(
    ("log_probability", "label", "expected"),
    [
        (TWO, TWO_LABEL, [[2, 0], [1, 1]]),
        (THREE, THREE_LABEL, [[1, 1, 0], [0, 1, 0], [0, 0, 1]]),
        (THREE[:3], THREE_LABEL[:3], [[1, 1, 0], [0, 1, 0], [0, 0, 0]]),
    ],
    ids=["two classes", "three", "three, the last without an image"],
)
def test_a_confusion_matrix_has_true_classes_as_rows(
    log_probability: losses.Floats, label: losses.Ints, expected: list[list[int]]
) -> None:
    counts = classification.confusion(log_probability, label)
    assert counts.dtype == np.int64
    assert_array_equal(counts, expected)


def test_a_class_without_an_image_has_zeros_and_leaves_out_the_area() -> None:
    figures = classification.summary(THREE[:3], THREE_LABEL[:3], ("a", "b", "c"), 6)
    assert "roc_auc" not in figures
    assert figures["per_class"]["c"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "images": 0,
        "misclassified": 0,
    }
    assert classification.roc_auc_score_of(THREE[:3], THREE_LABEL[:3]) is None


@pytest.mark.parametrize("kept", [[0, 1], [2, 3]], ids=["only the first class", "only the second"])
def test_one_class_of_two_alone_has_no_area_and_no_curve(kept: list[int]) -> None:
    assert classification.roc_auc_score_of(TWO[kept], TWO_LABEL[kept]) is None
    fpr, tpr = classification.roc_points(TWO[kept], TWO_LABEL[kept])
    assert (fpr.size, tpr.size) == (0, 0)


def test_the_curve_of_two_classes_turns_at_every_image_of_another_class() -> None:
    fpr, tpr = classification.roc_points(TWO, TWO_LABEL)
    assert_array_equal(fpr, [0, 0, 0.5, 0.5, 1])
    assert_array_equal(tpr, [0, 0.5, 0.5, 1, 1])


def test_the_curve_of_three_classes_pools_all_pairs_of_image_and_class() -> None:
    fpr, tpr = classification.roc_points(THREE, THREE_LABEL)
    assert_allclose(fpr, np.array([0, 0, 0, 1, 1, 4, 5, 8]) / 8)
    assert_allclose(tpr, np.array([0, 1, 2, 2, 3, 3, 4, 4]) / 4)


def test_the_area_of_more_classes_is_the_mean_of_one_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 5))
    log_probability = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    label = rng.integers(0, 5, 200)
    pairs = []
    for index in range(5):
        score = log_probability[:, index]
        of_class, of_others = score[label == index], score[label != index]
        pairs.append((of_class[:, None] > of_others).mean())
    area = classification.roc_auc_score_of(log_probability, label)
    assert area == pytest.approx(np.mean(pairs), rel=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_perfect_predictions_have_the_best_figures(n_classes: int) -> None:
    label = np.arange(n_classes).repeat(4)
    names = tuple("abc"[:n_classes])
    figures = classification.summary(perfect(label, n_classes), label, names, 6)
    assert (figures["accuracy"], figures["roc_auc"], figures["misclassified"]) == (1.0, 1.0, 0)
    assert figures["log_loss"] == 0.0
    assert all(part["f1"] == 1.0 for part in figures["per_class"].values())


def test_the_same_prediction_for_every_image_has_the_area_of_chance() -> None:
    label = np.array([0, 0, 0, 1])
    log_probability = np.log(np.full((4, 2), 0.5))
    figures = classification.summary(log_probability, label, ("cat", "dog"), 6)
    assert (figures["accuracy"], figures["roc_auc"]) == (0.75, 0.5)
    assert figures["log_loss"] == round(math.log(2), 6)
    assert figures["per_class"]["dog"]["precision"] == 0.0
    fpr, tpr = classification.roc_points(log_probability, label)
    assert_array_equal([fpr, tpr], [[0, 1], [0, 1]])


def test_certainty_of_the_wrong_class_costs_what_its_log_probability_says() -> None:
    log_probability = np.array([[0.0, -1e4], [0.0, -1e4]], dtype=np.float32)
    assert losses.log_loss(log_probability, np.array([0, 1])) == 5000.0


def test_the_area_tells_apart_log_odds_whose_probabilities_both_round_to_one() -> None:
    log_probability = np.array([[-40.0, 0.0], [-50.0, 0.0]])
    assert np.exp(log_probability)[:, 1].tolist() == [1.0, 1.0]
    assert classification.roc_auc_score_of(log_probability, np.array([0, 1])) == 1.0


def test_figures_are_rounded_to_the_decimals_asked_for() -> None:
    assert classification.summary(TWO, TWO_LABEL, ("cat", "dog"), 2)["log_loss"] == 0.47
    assert classification.summary(TWO, TWO_LABEL, ("cat", "dog"), 8)["log_loss"] == round(
        -math.log(0.1512) / 4, 8
    )


def test_confidence_and_accuracy_are_compared_within_a_bin() -> None:
    given = np.log([[0.98, 0.02], [0.96, 0.04], [0.3, 0.7]])
    label = np.array([0, 1, 1])  # the first two share a bin: 0.97 sure, half of them right
    error = classification.expected_calibration_error(given, label)
    assert error == pytest.approx((2 * 0.47 + 0.3) / 3)
    confidence, accuracy, images = classification.reliability(given, label)
    assert_allclose(confidence, [0.7, 0.97])
    assert_allclose(accuracy, [1, 0.5])
    assert images.tolist() == [1, 2]


def test_certainty_lies_in_the_last_bin() -> None:
    assert classification.calibration_bins(np.array([0.0, 0.5, 1.0])).tolist() == [
        0,
        7,
        classification.BINS - 1,
    ]


def test_the_brier_score_of_three_classes_is_summed_over_them() -> None:
    found = losses.brier_scores(THREE, THREE_LABEL)
    assert_allclose(found[0], 0.3**2 + 0.2**2 + 0.1**2)


def test_precision_begins_with_the_surest_image_and_ends_with_all() -> None:
    recall, precision = classification.precision_points(TWO, TWO_LABEL)
    assert_allclose(recall, [0, 0.5, 0.5, 1, 1])
    assert_allclose(precision, [1, 1, 0.5, 2 / 3, 0.5])
