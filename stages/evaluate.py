"""Stage `evaluate`: score head and fine-tuned model, and select and calibrate one of them.

Reads the ledger, and log-probabilities and history of both models; writes metrics, confidence
intervals, curves and plots. Selection and calibration use `valid`, or with folds the predictions of
`train` and `valid`, which are out of fold.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline import config, paths
from pipeline.evaluation import calibration, classification, comparison, scores
from pipeline.evaluation.scores import FINAL, MODELS
from pipeline.evaluation.selected_model import FOLDERS, STAGES
from pipeline.reporting import plots
from pipeline.runtime import atomic_files
from pipeline.stage import stage
from pipeline.storage import arrays, ledger, tables

GRID = np.linspace(0, 1, 201)  # thresholds of the curves


@stage
def main() -> None:
    """Select and calibrate, score all models, write and plot."""
    params = config.read()
    decimals, calibrate = params.evaluate.decimals, params.evaluate.calibration == "temperature"
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    labels, fingerprint = ledger.labels(rows), ledger.fingerprint(rows)
    chosen_on = "valid" if params.train_head.folds is None else comparison.OUT_OF_FOLD
    classes = labels.classes
    predictions = {}
    for name in MODELS:
        path = atomic_files.require(paths.predictions(FOLDERS[name]), STAGES[name])
        predictions[name] = arrays.StoredArray(path, fingerprint).read(0, len(labels.label))
    scored = scores.subsets(predictions, rows, labels, chosen_on)
    del predictions  # of all images; those of the subsets are copies
    on_chosen = scored[chosen_on]
    selected = scores.select(on_chosen.predictions, on_chosen.label, calibrate, decimals)
    for name, one in scored.items():
        final = calibration.scaled(one.predictions[selected.name], selected.temperature)
        scored[name] = comparison.Scored({**one.predictions, FINAL: final}, one.label)
    shown = "test" if "test" in scored else chosen_on
    summary = scores.summary(selected, scored, classes, decimals)
    of_second = {}  # by subset, for two classes
    if len(classes) == 2:
        for name, one in scored.items():
            of_second[name] = np.exp(one.predictions[FINAL][:, 1]), one.label
        summary["thresholds"] = scores.thresholds(of_second, chosen_on, classes, decimals)
    tables.write_json(paths.EVALUATION, summary)
    pairs = [MODELS, (selected.name, FINAL)]
    intervals = comparison.intervals_and_differences(scored, classes, pairs, decimals)
    tables.write_json(paths.INTERVALS, intervals)
    by_threshold = {
        name: (GRID, scores.accuracy_and_errors(*images, GRID)[0])
        for name, images in of_second.items()
    }
    with atomic_files.replacing(paths.CURVES) as partial:
        partial.mkdir()
        for model in MODELS:
            _write_curves(partial, model, scored[shown], classes, decimals)
        points = by_threshold.get(shown, ((), ()))
        _write_points(partial / "final_thresholds.csv", "thresholds", points, decimals)
    with atomic_files.replacing(paths.PLOTS) as partial:
        partial.mkdir()
        histories = {
            "head": tables.read_numbers(paths.HEAD_HISTORY, "train_head"),
            "fine-tuned": tables.read_numbers(paths.FINE_TUNE_HISTORY, "fine_tune"),
        }
        plots.learning_curves(partial / "learning_curves.png", histories)
        _draw_models(partial, scored[shown], classes, f"{FINAL} ({selected.name}) on {shown}")
        if of_second:
            lines = {name: one["threshold"] for name, one in summary["thresholds"].items()}
            title = f"{FINAL} on {shown}"
            plots.probabilities(partial / "scores.png", *of_second[shown], classes, title, lines)
            by_threshold.pop(scores.WITH_FIXES, None)
            plots.accuracy_by_threshold(partial / "thresholds.png", by_threshold, lines, classes[1])
    final = summary[FINAL][shown]
    print(
        f"evaluate: {selected.name} has the lower log loss on {chosen_on} and is selected; on "
        f"{shown}: "
        f"accuracy {final['accuracy']:.4f}, log loss {final['log_loss']:.4f}, "
        f"{final['misclassified']} of {final['images']} wrong"
    )


def _write_curves(
    folder: Path, model: str, subset: comparison.Scored, classes: Sequence[str], decimals: int
) -> None:
    """Write one model's curves, and the true and predicted class of every image."""
    predicted, label = subset.predictions[model], subset.label
    for kind, points in classification.curves(predicted, label).items():
        _write_points(folder / f"{model}_{kind}.csv", kind, points, decimals)
    names = np.array(classes, dtype=object)
    lines = zip(names[label], names[predicted.argmax(axis=1)], strict=True)
    tables.write_csv(folder / f"{model}_confusion.csv", plots.COLUMNS["confusion"], lines)


def _write_points(path: Path, kind: str, points: plots.Curve, decimals: int) -> None:
    rounded = (np.asarray(values, np.float64).round(decimals).tolist() for values in points[:2])
    tables.write_csv(path, plots.COLUMNS[kind], zip(*rounded, strict=True))


def _draw_models(
    folder: Path, subset: comparison.Scored, classes: Sequence[str], title: str
) -> None:
    """Plot the curves of all models, and the final one's confusion matrix and probabilities."""
    for kind, by_legend in scores.curves(subset).items():
        plots.curves(folder / f"{kind}.png", kind, by_legend)
    predicted, label = subset.predictions[FINAL], subset.label
    counts = classification.confusion(predicted, label)
    plots.confusion(folder / "confusion.png", counts, classes, title)
    if len(classes) > 2:  # of two classes, the plot of probabilities has thresholds
        probability = np.exp(predicted[np.arange(len(label)), label])
        plots.probabilities(folder / "scores.png", probability, label, classes, title)


if __name__ == "__main__":
    sys.exit(main())
