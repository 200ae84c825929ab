"""`evaluate` in this process, on predictions that are made up."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.storage import arrays, ledger, tables
from pipeline.training.history import COLUMNS
from stages import evaluate

SUBSETS = ["valid"] * 30 + ["test"] * 30
CONFIDENT = [0.999] * 24 + [0.001] * 6  # in its six errors, too


@pytest.fixture(autouse=True)
def run(write_params: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    write_params()
    monkeypatch.setattr(sys, "argv", ["stage"])


def read(name: str) -> Any:
    return json.loads(Path(f"metrics/{name}.json").read_text(encoding="utf-8"))


def evaluated(head: list[float], fine_tune: list[float], subsets: list[str]) -> Any:
    """Run the stage on cats and dogs in these subsets and the true class's probabilities."""
    rows = [
        ledger.LedgerRow(
            f"{name}.{i}", "train", f"{name}.{i}.jpg", name, index, subset, f"{name}{i}", 9, 9,
            "RGB", "", "",
        )
        for i, subset in enumerate(subsets)
        for index, name in enumerate(["cat", "dog"])
    ]  # fmt: skip
    shutil.rmtree("data", ignore_errors=True)
    ledger.write_ledger(Path("data/split.csv"), rows)
    for folder, given in (("head", head), ("model", fine_tune)):
        right = np.repeat(given, 2)
        probability = np.stack([right, 1 - right], axis=1)
        probability[1::2] = probability[1::2, ::-1]
        arrays.write(
            Path("data", folder, "predictions.zarr"),
            [np.log(probability)],
            shape=probability.shape,
            dtype=np.float32,
            fingerprint=ledger.fingerprint(rows),
        )
    for name in ("head", "fine_tune"):
        epochs = [(0, 0.7, 0.5, 0.7, 0.5), (1, 0.6, 0.6, 0.6, 0.6)]
        tables.write_csv(Path(f"metrics/{name}_history.csv"), COLUMNS, epochs)
    assert evaluate.main() == 0
    return read("evaluate")


def test_valid_selects_the_final_model_before_rounding(
    write_params: Callable[..., None],
) -> None:
    assert evaluated([0.9, 0.6], [0.8, 0.99], ["valid", "test"])["chosen"] == "head"
    write_params(evaluate={"decimals": 2})
    metrics = evaluated([0.957], [0.965], ["valid"])
    losses = [metrics[name]["valid"]["log_loss"] for name in ("head", "fine_tune")]
    assert (losses, metrics["chosen"]) == ([0.04, 0.04], "fine_tune")


def test_without_a_test_subset_curves_and_plots_are_those_of_valid() -> None:
    metrics = evaluated([0.9, 0.4], [0.8, 0.7], ["valid", "valid"])
    assert metrics["head"].keys() == {"valid"}
    assert (metrics["head"]["valid"]["accuracy"], metrics["chosen"]) == (0.5, "fine_tune")
    lines = Path("metrics/curves/head_confusion.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["actual,predicted", "cat,cat", "dog,dog", "cat,dog", "dog,cat"]
    curves = {"precision_recall", "reliability", "roc", "thresholds"}
    plots = {path.stem for path in Path("metrics/pictures").glob("*.png")}
    assert plots == {"confusion", "learning_curves", "scores"} | curves
    points = Path("metrics/curves/final_thresholds.csv").read_text(encoding="utf-8").splitlines()
    assert (points[:2], len(points)) == (["threshold,accuracy", "0.0,0.5"], 202)


def test_the_final_model_is_the_chosen_one_at_the_temperature_that_valid_requires() -> None:
    metrics = evaluated([0.2] * 60, CONFIDENT * 2, SUBSETS)
    assert metrics["chosen"] == "fine_tune"
    # Of 60 images 48 are right, at odds of 999; the prior is normal in the logarithm of T.
    log = np.linspace(0, 2, 200_001)
    odds = np.log(999) / np.exp(log)
    cost = 60 * np.log1p(np.exp(-odds)) + 12 * odds + (log / 0.3) ** 2 / 2
    assert metrics["temperature"] == pytest.approx(np.exp(log[cost.argmin()]), rel=1e-4)
    for subset in ("valid", "test"):
        raw, calibrated = metrics["fine_tune"][subset], metrics["final"][subset]
        assert calibrated["accuracy"] == raw["accuracy"] == 0.8
        assert calibrated["log_loss"] < raw["log_loss"]
        error = "expected_calibration_error"
        assert calibrated[error] < raw[error] / 2


def test_without_calibration_the_final_model_is_the_chosen_one(
    write_params: Callable[..., None],
) -> None:
    write_params(evaluate={"calibration": "none"})
    metrics = evaluated([0.6, 0.4] * 30, CONFIDENT * 2, SUBSETS)
    assert (metrics["temperature"], metrics["final"]) == (1, metrics[metrics["chosen"]])
    difference = read("intervals")["differences"]["final against head"]["test"]["log_loss"]
    assert difference == {"difference": 0, "interval": [0, 0], "shown": "no difference shown"}


def test_metrics_have_intervals_pairs_differences_and_thresholds_and_all_repeats() -> None:
    predictions = [0.9, 0.4] * 30, [0.95, 0.7] * 30
    metrics, bounds = evaluated(*predictions, SUBSETS), read("intervals")
    for model in ("head", "fine_tune", "final"):
        for subset in ("valid", "test"):
            measured = metrics[model][subset].keys() - {"images", "misclassified"}
            assert bounds[model][subset].keys() == measured
    assert bounds["differences"].keys() == {"fine_tune against head", "final against fine_tune"}
    better = bounds["differences"]["fine_tune against head"]["test"]["accuracy"]
    assert (better["difference"], better["shown"]) == (0.5, "better")
    half = metrics["thresholds"]["half"]
    assert half["test"] == {"accuracy": 1, "error_rate": {"cat": 0, "dog": 0}}
    before = {path: path.read_bytes() for path in Path("metrics").rglob("*.*")}
    evaluated(*predictions, SUBSETS)
    assert {path: path.read_bytes() for path in Path("metrics").rglob("*.*")} == before


def test_test_is_also_scored_as_if_label_fixes_held() -> None:
    assert evaluated([0.9, 0.4], [0.95, 0.7], ["valid", "test"])["head"].keys() == {"valid", "test"}
    rows = ledger.read_ledger(Path("data/split.csv"))
    rows.replace("fix", np.array([2, 3]), ["dog", "exclude"])
    ledger.write_ledger(Path("data/split.csv"), rows)
    assert evaluate.main() == 0
    found = {
        model: {
            name: (one["images"], one["accuracy"]) for name, one in read("evaluate")[model].items()
        }
        for model in ("head", "fine_tune")
    }
    assert found == {
        "head": {"valid": (2, 1), "test": (2, 0), "test_with_label_fixes": (1, 1)},
        "fine_tune": {"valid": (2, 1), "test": (2, 1), "test_with_label_fixes": (1, 0)},
    }
    assert "test_with_label_fixes" in read("intervals")["head"]


def test_with_folds_all_images_of_train_and_valid_choose_and_are_measured(
    write_params: Callable[..., None],
) -> None:
    write_params(train_head={"folds": 2}, fine_tune=None)
    right = [0.9, 0.8, 0.3, 0.7, 0.6]
    subsets = ["train", "train", "valid", "test", "train"]
    metrics = evaluated(right, right, subsets)
    assert metrics["final"].keys() == {"out_of_fold", "valid", "test"}
    found = metrics["head"]["out_of_fold"]
    assert (found["images"], found["accuracy"]) == (8, 0.75)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.8, 0.3, 0.6]).mean(), abs=1e-6)
    assert metrics["head"]["valid"]["accuracy"] == 0
    alone = evaluated([0.9, 0.8, 0.3, 0.6], [0.9, 0.8, 0.3, 0.6], ["train"] * 3 + ["valid"])
    assert alone["temperature"] == metrics["temperature"]
    assert alone["thresholds"]["accurate"].keys() == {"threshold", "out_of_fold", "valid"}
