"""Every figure has its interval; a difference is told in words."""

from typing import Any

import numpy as np
import pytest

from pipeline.evaluation import bootstrap, classification, comparison
from pipeline.evaluation.bootstrap import Interval
from pipeline.evaluation.losses import Floats, Ints, Scored

CLASSES = ("cat", "dog", "fox")


def predictions(n_classes: int, better_by: float) -> tuple[dict[str, Floats], Ints]:
    rng = np.random.default_rng(0)
    label = rng.integers(0, n_classes, 400)
    logits = rng.normal(0, 2, (400, n_classes))
    found: dict[str, Floats] = {}
    for name, by in (("plain", 1.0), ("better", 1.0 + better_by)):
        moved = logits.copy()
        moved[np.arange(400), label] += by
        found[name] = moved - np.logaddexp.reduce(moved, axis=1, keepdims=True)
    return found, label


def of_subset(given: dict[str, Floats], label: Ints, classes: tuple[str, ...]) -> dict[str, Any]:
    """Intervals by model, and differences by their words."""
    scored = {"test": Scored(given, label)}
    found = comparison.of_subsets(scored, classes, [("plain", "better")], 6)
    assert (found["confidence"], found["resamples"]) == (0.95, bootstrap.RESAMPLES)
    parts = {name: found[name]["test"] for name in given}
    return parts | {name: part["test"] for name, part in found["differences"].items()}


@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_figure_of_the_summary_lies_in_its_interval(n_classes: int) -> None:
    given, label = predictions(n_classes, 1.0)
    classes = CLASSES[:n_classes]
    found = of_subset(given, label, classes)
    for name in given:
        bounds = found[name]
        figures = classification.summary(given[name], label, classes, 6)
        told = figures.keys() - {"images", "misclassified"}
        assert bounds.keys() == told
        for figure in told - {"per_class", "expected_calibration_error"}:
            low, high = bounds[figure]
            assert low < figures[figure] < high
        for of_class, part in figures["per_class"].items():
            assert bounds["per_class"][of_class].keys() == {"precision", "recall", "f1"}
            for figure, (low, high) in bounds["per_class"][of_class].items():
                assert low < part[figure] < high


def test_proportions_have_wilsons_interval() -> None:
    given, label = predictions(2, 0.0)
    found = of_subset(given, label, CLASSES[:2])
    right = int((given["plain"].argmax(axis=1) == label).sum())
    expected = bootstrap.wilson(right, 400)
    assert found["plain"]["accuracy"] == [round(expected.low, 6), round(expected.high, 6)]


def test_a_better_model_is_called_better_in_every_figure() -> None:
    given, label = predictions(3, 2.0)
    found = of_subset(given, label, CLASSES)["better against plain"]
    assert found.keys() == set(comparison.COMPARED)
    assert {name: found[name]["shown"] for name in ("accuracy", "log_loss", "brier")} == {
        "accuracy": "better",
        "log_loss": "better",
        "brier": "better",
    }
    assert found["log_loss"]["difference"] < 0 < found["accuracy"]["difference"]


def test_of_equal_models_no_difference_is_shown() -> None:
    given, label = predictions(2, 0.0)
    found = of_subset(given, label, CLASSES[:2])
    for figure in found["better against plain"].values():
        assert figure["shown"] == comparison.NO_DIFFERENCE
        assert figure["interval"] == [0, 0]


@pytest.mark.parametrize(
    ("figure", "difference", "expected"),
    [
        ("accuracy", (0.01, 0.001, 0.02), "better"),
        ("accuracy", (-0.01, -0.02, -0.001), "worse"),
        ("log_loss", (0.01, 0.001, 0.02), "worse"),
        ("log_loss", (-0.01, -0.02, -0.001), "better"),
        ("log_loss", (-0.01, -0.02, 0.001), "no difference shown"),
    ],
)
def test_the_sign_of_a_difference_is_told_in_words(
    figure: str, difference: tuple[float, float, float], expected: str
) -> None:
    assert comparison.verdict(figure, Interval(*difference)) == expected


def test_a_class_without_an_image_leaves_out_the_areas() -> None:
    given, _ = predictions(3, 1.0)
    label = np.arange(400) % 2
    found = of_subset(given, label, CLASSES)
    assert "roc_auc" not in found["plain"]
    assert "average_precision" not in found["better against plain"]
    assert found["plain"]["per_class"]["fox"]["recall"] == [0, 1]
