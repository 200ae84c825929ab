"""Every metric has its interval; differences between models and runs get a verdict."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import average_precision_score, f1_score, log_loss, roc_auc_score

from pipeline.evaluation import bootstrap, classification, comparison
from pipeline.evaluation.comparison import COMPARED, NO_DIFFERENCE, Scored
from pipeline.evaluation.probabilities import Floats, Ints
from pipeline.evaluation.selected_model import Run
from pipeline.storage.ledger import LedgerRow

CLASSES = ("cat", "dog", "fox")
IMAGES = 200


def tied(n_classes: int, images: int = 200) -> tuple[Floats, Ints]:
    """Predictions with ties, better than chance."""
    rng = np.random.default_rng(n_classes)
    label = rng.integers(0, n_classes, images)
    logits = rng.integers(-3, 3, (images, n_classes)).astype(np.float64)
    logits[np.arange(images), label] += 1
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), label


@pytest.mark.parametrize("n_classes", [2, 3])
def test_weights_give_the_metrics_of_scikit_learn(n_classes: int) -> None:
    log_probability, label = tied(n_classes)
    ones = np.ones((1, len(label)))
    weights = np.concatenate([ones, next(bootstrap.weights(len(label)))[:5]])
    values = comparison.resampled(log_probability, label)(weights)
    unweighted = classification.metrics(log_probability, label)
    assert {name: values[name][0] for name in unweighted} == pytest.approx(unweighted, rel=1e-12)
    assert values.keys() == unweighted.keys() | {"f1"}
    score, truth = map(np.squeeze, classification.one_vs_rest(log_probability, label))
    for number, weight in enumerate(weights):
        drawn = np.repeat(np.arange(len(label)), weight.astype(int))
        of_drawn = log_probability[drawn], label[drawn]
        expected = {
            "log_loss": log_loss(of_drawn[1], np.exp(of_drawn[0])),
            "roc_auc": roc_auc_score(truth, score, sample_weight=weight),
            "average_precision": average_precision_score(truth, score, sample_weight=weight),
            "f1": f1_score(of_drawn[1], of_drawn[0].argmax(axis=1), average=None),
            "expected_calibration_error": classification.expected_calibration_error(*of_drawn),
        }
        for name, value in expected.items():
            assert_allclose(values[name][number], value, err_msg=name)


def test_areas_are_undefined_if_a_class_is_not_drawn() -> None:
    log_probability, label = tied(2, 4)
    weight = np.array([label == 0, label == 1, np.ones(4)], dtype=np.float64)
    values = comparison.resampled(log_probability, label)(weight)
    assert np.isnan(values["roc_auc"]).tolist() == [True, True, False]
    assert np.isnan(values["average_precision"])[[0, 2]].tolist() == [True, False]


def predictions(n_classes: int, advantage: float) -> tuple[dict[str, Floats], Ints]:
    rng = np.random.default_rng(0)
    label = rng.integers(0, n_classes, 400)
    logits = rng.normal(0, 2, (400, n_classes))
    models: dict[str, Floats] = {}
    for name, margin in (("plain", 1.0), ("better", 1.0 + advantage)):
        moved = logits.copy()
        moved[np.arange(400), label] += margin
        models[name] = moved - np.logaddexp.reduce(moved, axis=1, keepdims=True)
    return models, label


def of_test(models: dict[str, Floats], label: Ints, classes: tuple[str, ...]) -> dict[str, Any]:
    """Intervals by model, and "differences"."""
    scored = {"test": Scored(models, label)}
    report = comparison.intervals_and_differences(scored, classes, [("plain", "better")], 6)
    assert (report["confidence"], report["resamples"]) == (0.95, bootstrap.RESAMPLES)
    differences = report["differences"]["better against plain"]["test"]
    return {name: report[name]["test"] for name in models} | {"differences": differences}


@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_metric_of_the_summary_lies_in_its_interval(n_classes: int) -> None:
    models, label = predictions(n_classes, 1.0)
    classes = CLASSES[:n_classes]
    report = of_test(models, label, classes)
    for name, predicted in models.items():
        bounds = report[name]
        metrics = classification.summary(predicted, label, classes, 6)
        assert bounds.keys() == metrics.keys() - {"images", "misclassified"}
        for metric in bounds.keys() - {"per_class", "expected_calibration_error"}:
            assert bounds[metric][0] < metrics[metric] < bounds[metric][1]
        for class_name, part in bounds["per_class"].items():
            assert part.keys() == {"precision", "recall", "f1"}
            for metric, (low, high) in part.items():
                assert low < metrics["per_class"][class_name][metric] < high


def test_a_better_model_is_called_better_and_equal_ones_show_no_difference() -> None:
    differences = of_test(*predictions(3, 2.0), CLASSES)["differences"]
    assert differences.keys() == set(COMPARED)
    assert {differences[name]["shown"] for name in ("accuracy", "log_loss", "brier")} == {"better"}
    assert differences["log_loss"]["difference"] < 0 < differences["accuracy"]["difference"]
    for difference in of_test(*predictions(2, 0.0), CLASSES[:2])["differences"].values():
        assert (difference["shown"], difference["interval"]) == (NO_DIFFERENCE, [0, 0])


def test_a_class_without_an_image_leaves_out_the_areas() -> None:
    models, _ = predictions(3, 1.0)
    report = of_test(models, np.arange(400) % 2, CLASSES)
    assert "roc_auc" not in report["plain"]
    assert "average_precision" not in report["differences"]
    assert report["plain"]["per_class"]["fox"]["recall"] == [0, 1]


def run(wrong: int = 0, subset: str = "test") -> Run:
    """A run that gives the true class 0.9, or 0.1 for the first `wrong` images."""
    rows = [
        LedgerRow(
            f"{i}", "train", f"{i}.jpg", ("cat", "dog")[i % 2], i % 2, subset, f"hash {i}", 9, 9,
            "RGB", f"train/{i}", "",
        )
        for i in range(IMAGES)
    ]  # fmt: skip
    probability = np.where(np.eye(2)[np.arange(IMAGES) % 2] == 1, 0.9, 0.1)
    probability[:wrong] = probability[:wrong, ::-1]
    return Run(rows, ("cat", "dog"), np.log(probability))


@pytest.mark.parametrize(
    ("wrong_before", "wrong_after", "expected"),
    [(40, 10, "better"), (10, 40, "worse"), (5, 4, NO_DIFFERENCE)],
)
def test_runs_with_clearly_different_errors_are_better_or_worse(
    wrong_before: int, wrong_after: int, expected: str
) -> None:
    images, metrics = comparison.compare_runs(run(wrong_before), run(wrong_after), "test")
    accuracy = metrics["accuracy"]
    assert (images, accuracy["shown"], metrics["log_loss"]["shown"]) == (IMAGES, expected, expected)
    assert (accuracy["old"], accuracy["new"]) == (1 - wrong_before / 200, 1 - wrong_after / 200)
    assert accuracy["difference"] == pytest.approx((wrong_before - wrong_after) / 200)
    assert metrics.keys() == set(COMPARED)


def test_images_are_paired_by_content_whatever_their_order_and_names() -> None:
    old = run(30)
    order = np.random.default_rng(0).permutation(IMAGES)
    rows = [replace(old.rows[number], member=f"new {number}") for number in order]
    shuffled = Run(rows, old.classes, old.log_probability[order])
    _, metrics = comparison.compare_runs(shuffled, run(30), "test")
    assert (metrics["log_loss"]["difference"], metrics["log_loss"]["interval"]) == (0, [0, 0])


def test_only_images_that_both_runs_hold_out_with_one_label_count() -> None:
    all_old = run()
    rows = list(all_old.rows)
    rows[:50] = [replace(row, subset="train") for row in rows[:50]]
    rows[50:60] = [replace(row, label="wolf") for row in rows[50:60]]
    old = all_old._replace(rows=rows)
    assert comparison.compare_runs(old, run(), "test")[0] == 140
    assert comparison.compare_runs(run(subset="valid"), run(), "test") == (0, {})


def test_with_folds_images_of_train_and_valid_count_if_both_runs_have_them() -> None:
    halves = [replace(row, subset="valid") for row in run(subset="train").rows[:100]]
    rows = halves + [replace(row, subset="train") for row in run().rows[100:]]
    folds = run(20)._replace(rows=rows, has_folds=True)
    images, metrics = comparison.compare_runs(folds, folds, "out_of_fold")
    assert (images, metrics["accuracy"]["new"]) == (IMAGES, 0.9)
    assert comparison.compare_runs(folds, folds._replace(has_folds=False), "out_of_fold") == (0, {})
    assert comparison.compare_runs(folds, folds._replace(has_folds=False), "valid")[0] == 100
