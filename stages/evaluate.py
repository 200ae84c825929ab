"""Stage `evaluate`: how good head and fine-tuned model are, and which one predicts from here on.

Reads the ledger_at, both models' log-probabilities and histories; writes figures, their intervals,
curves and pictures.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config, paths
from pipeline.evaluation import calibration, classification, comparison, probabilities, thresholds
from pipeline.evaluation.comparison import Scored
from pipeline.evaluation.probabilities import Floats, Ints
from pipeline.images.label_fixes import EXCLUDE
from pipeline.reporting import plots
from pipeline.runtime import atomic_files
from pipeline.stage import stage
from pipeline.storage import arrays, ledger, tables

MODELS = ("head", "fine_tune")
FINAL = "final"  # the better of both on valid, calibrated
FIXED = "test_with_label_fixes"
GRID = np.linspace(0, 1, 201)  # thresholds that curves are drawn at


@stage
def main() -> None:
    """Score both models on valid and test; choose and calibrate on valid; draw."""
    params = config.read()
    decimals = params.evaluate.decimals
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    labels = ledger.labels(rows)
    classes = labels.classes
    predictions = {
        name: _log_probabilities(folder, name if name == "fine_tune" else "train_head", rows)
        for name, folder in zip(MODELS, (paths.HEAD, paths.MODEL), strict=True)
    }
    valid = labels.rows("valid")
    chosen = min(
        MODELS,
        key=lambda name: probabilities.log_loss(predictions[name][valid], labels.label[valid]),
    )
    temperature = 1.0
    if params.evaluate.calibration == "temperature":
        temperature = round(
            calibration.fit_temperature(predictions[chosen][valid], labels.label[valid]), decimals
        )
    predictions[FINAL] = calibration.scaled(predictions[chosen], temperature)
    scored = {
        name: Scored({model: given[at] for model, given in predictions.items()}, label)
        for name, (at, label) in _subsets(rows, labels).items()
        if len(at)
    }
    summary = {
        "chosen": chosen,
        "temperature": temperature,
        "clip": round(calibration.best_clip(predictions[FINAL][valid], labels.label[valid]), 6),
        **{
            model: {
                name: classification.summary(
                    subset.predictions[model], subset.label, classes, decimals
                )
                for name, subset in scored.items()
            }
            for model in (*MODELS, FINAL)
        },
    }
    of_second = _of_second(scored) if len(classes) == 2 else {}
    named: dict[str, float] = {}
    if of_second:
        told = thresholds.report("valid", of_second, classes, decimals)
        named = {name: float(about["threshold"]) for name, about in told.items()}
        summary["thresholds"] = told
    tables.write_json(paths.EVALUATION, summary)
    pairs = [MODELS, (chosen, FINAL)]
    sure = comparison.intervals_and_differences(scored, classes, pairs, decimals)
    tables.write_json(paths.INTERVALS, sure)
    shown = "test" if "test" in scored else "valid"
    with atomic_files.replacing(paths.CURVES) as partial:
        partial.mkdir()
        for model in MODELS:
            _write_curves(partial, model, scored[shown], classes, decimals)
        at = GRID if of_second else GRID[:0]
        by_threshold = thresholds.curves(*of_second[shown], at)[0] if of_second else at
        _write_points(
            partial / "final_thresholds.csv",
            ("threshold", "accuracy"),
            (at, by_threshold),
            decimals,
        )
    with atomic_files.replacing(paths.PLOTS) as partial:
        partial.mkdir()
        plots.learning_curves(
            partial / "learning_curves.png",
            {
                "head": tables.read_numbers(paths.HEAD_HISTORY, "train_head"),
                "fine-tuned": tables.read_numbers(paths.FINE_TUNE_HISTORY, "fine_tune"),
            },
        )
        _draw(partial, shown, scored[shown], chosen, classes)
        if of_second:
            _draw_thresholds(partial, shown, of_second, named, classes)
    _print_summary(summary, sure, list(scored))


def _subsets(rows: Sequence[ledger.Row], labels: ledger.Labels) -> dict[str, tuple[Ints, Ints]]:
    """Of what is scored, by name: which rows of the store, and their labels.

    Where label fixes speak of test images, test is also scored as if it were fixed.
    """
    found = {name: (at := labels.rows(name), labels.label[at]) for name in ("valid", "test")}
    fixes = [row.fix for row in rows if row.accepted]
    at = labels.rows("test")
    if any(fixes[place] for place in at):
        kept = np.array([place for place in at if fixes[place] != EXCLUDE], dtype=np.int64)
        label = [
            labels.classes.index(fixes[place]) if fixes[place] else labels.label[place]
            for place in kept
        ]
        found[FIXED] = (kept, np.array(label, dtype=np.int64))
    return found


def _of_second(scored: dict[str, Scored]) -> dict[str, tuple[Floats, Ints]]:
    """Of each subset the final probability of the second of two classes, and the label."""
    return {
        name: (np.exp(subset.predictions[FINAL][:, 1]), subset.label)
        for name, subset in scored.items()
    }


def _log_probabilities(folder: Path, writer: str, rows: list[ledger.Row]) -> Floats:
    path = atomic_files.require(folder / "predictions.zarr", writer)
    array = arrays.Rows(path, ledger.fingerprint(rows))
    return array.read(0, len(array))


def _write_curves(
    folder: Path, model: str, subset: Scored, classes: tuple[str, ...], decimals: int
) -> None:
    """For DVC's plots: points of curves, and every image's true and predicted class."""
    predicted, label = subset.predictions[model], subset.label

    for what, header, points in (
        ("roc", ("fpr", "tpr"), classification.roc_curve(predicted, label)),
        (
            "precision_recall",
            ("recall", "precision"),
            classification.precision_recall_curve(predicted, label),
        ),
        (
            "reliability",
            ("confidence", "accuracy"),
            classification.reliability_curve(predicted, label)[:2],
        ),
    ):
        _write_points(folder / f"{model}_{what}.csv", header, points, decimals)
    tables.write_csv(
        folder / f"{model}_confusion.csv",
        ("actual", "predicted"),
        (
            (classes[true], classes[said])
            for true, said in zip(label, predicted.argmax(axis=1), strict=True)
        ),
    )


def _write_points(
    path: Path, header: tuple[str, str], columns: Sequence[Sequence[float] | Floats], decimals: int
) -> None:
    rounded = (np.asarray(column, np.float64).round(decimals).tolist() for column in columns)
    tables.write_csv(path, header, zip(*rounded, strict=True))


def _draw(folder: Path, name: str, subset: Scored, chosen: str, classes: tuple[str, ...]) -> None:
    curves: dict[str, plots.Curve] = {}
    precisions: dict[str, plots.Curve] = {}
    reliabilities: dict[str, plots.Curve] = {}
    images = {}
    for model, predicted in subset.predictions.items():
        metrics = classification.metrics(predicted, subset.label)
        if model != FINAL:  # it ranks the images like the selected model
            area = f", area {metrics['roc_auc']:.4f}" if "roc_auc" in metrics else ""
            curves[model + area] = classification.roc_curve(predicted, subset.label)
            area = f", {metrics['average_precision']:.4f}" if "roc_auc" in metrics else ""
            precisions[model + area] = classification.precision_recall_curve(
                predicted, subset.label
            )
        legend = f"{model}, error {metrics['expected_calibration_error']:.4f}"
        confidence, accuracy, images[legend] = classification.reliability_curve(
            predicted, subset.label
        )
        reliabilities[legend] = confidence, accuracy
    plots.curves(folder / "roc.png", "roc", curves)
    plots.curves(folder / "precision_recall.png", "precision_recall", precisions)
    plots.curves(folder / "reliability.png", "reliability", reliabilities, images)
    predicted, truth = subset.predictions[FINAL], subset.label
    title = f"{FINAL} ({chosen}) on {name}"
    counts = classification.confusion(predicted, truth)
    plots.confusion(folder / "confusion.png", counts, classes, title)
    if len(classes) > 2:  # of two, the picture has thresholds
        given = np.exp(predicted[np.arange(len(truth)), truth])
        plots.probabilities(folder / "scores.png", given, truth, classes, title)


def _draw_thresholds(
    folder: Path,
    shown: str,
    of_second: dict[str, tuple[Floats, Ints]],
    named: dict[str, float],
    classes: tuple[str, ...],
) -> None:
    probability, label = of_second[shown]
    title = f"{FINAL} on {shown}"
    plots.probabilities(folder / "scores.png", probability, label, classes, title, named)
    curves = {
        name: (GRID, thresholds.curves(*scored, GRID)[0])
        for name, scored in of_second.items()
        if name != FIXED
    }
    plots.accuracy_by_threshold(folder / "thresholds.png", curves, named, classes[1])


def _print_summary(summary: dict[str, Any], sure: dict[str, Any], scored: list[str]) -> None:
    for model in (*MODELS, FINAL):
        for subset in scored:
            figures, bounds = summary[model][subset], sure[model][subset]
            accuracy, loss = (
                f"{figures[name]:.4f} ({bounds[name][0]:.4f}..{bounds[name][1]:.4f})"
                for name in ("accuracy", "log_loss")
            )
            print(
                f"evaluate: {model:9} on {subset}: accuracy {accuracy}, log loss {loss}, "
                f"{figures['misclassified']} of {figures['images']} wrong"
            )
    print(
        f"evaluate: {summary['chosen']} has the lower log loss on valid and predicts from here on, "
        f"at a temperature of {summary['temperature']:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
