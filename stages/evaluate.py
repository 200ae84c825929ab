"""Stage `evaluate`: how good head and fine-tuned model are, and which one predicts from here on.

Reads the ledger, both models' log-probabilities and histories; writes figures, curves and pictures.
    python -m stages.evaluate data/split.csv data/head data/model metrics/head_history.csv \\
        metrics/fine_tune_history.csv metrics/evaluate.json metrics/curves metrics/pictures
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages import params as parameters
from stages.pictures import plots
from stages.scores import metrics
from stages.scripts import arguments, stage
from stages.store import arrays, files, tables

MODELS = ("head", "fine_tune")


@stage
def main() -> None:
    """Score both models on valid and test, choose on valid, draw."""
    ledger, *folders, head_csv, tune_csv, figures, curves, pictures = map(
        Path, arguments(__doc__, count=8)
    )
    params = parameters.read()
    decimals = params.evaluate.decimals
    rows = tables.read_ledger(files.require(ledger, "split"))
    labels = tables.labels(rows)
    predictions = {
        name: _log_probabilities(folder, name if name == "fine_tune" else "train_head", rows)
        for name, folder in zip(MODELS, folders, strict=True)
    }
    scored = [name for name in ("valid", "test") if len(labels.rows(name))]
    summary: dict[str, Any] = {
        name: {
            subset: metrics.summary(
                predicted[labels.rows(subset)],
                labels.label[labels.rows(subset)],
                labels.classes,
                decimals,
            )
            for subset in scored
        }
        for name, predicted in predictions.items()
    }
    valid = labels.rows("valid")
    final = min(
        MODELS, key=lambda name: metrics.log_loss(predictions[name][valid], labels.label[valid])
    )
    summary["final"] = final
    files.write_json(figures, summary)
    shown = scored[-1]
    chosen = labels.rows(shown)
    truth = labels.label[chosen]
    shown_predictions = {name: predicted[chosen] for name, predicted in predictions.items()}
    with files.replacing(curves) as partial:
        partial.mkdir()
        for name, predicted in shown_predictions.items():
            _write_curves(partial, name, predicted, truth, labels.classes, decimals)
    with files.replacing(pictures) as partial:
        partial.mkdir()
        histories = {
            "head": files.require(head_csv, "train_head"),
            "fine-tuned": files.require(tune_csv, "fine_tune"),
        }
        plots.learning_curves(
            partial / "learning_curves.png",
            {name: tables.read_numbers(path) for name, path in histories.items()},
        )
        _draw(partial, shown, shown_predictions, final, truth, labels.classes)
    _print_summary(summary, scored, final)


def _log_probabilities(folder: Path, writer: str, rows: list[tables.Row]) -> NDArray[np.float32]:
    path = files.require(folder / "predictions.zarr", writer)
    array = arrays.Rows(path, tables.fingerprint(rows))
    return array.read(0, len(array))


def _write_curves(
    folder: Path,
    name: str,
    predicted: NDArray[np.float32],
    truth: NDArray[np.int64],
    classes: tuple[str, ...],
    decimals: int,
) -> None:
    """The points of the ROC curve, and every image's true and predicted class, for DVC's plots."""
    points = zip(*metrics.roc_points(predicted, truth), strict=True)
    tables.write_csv(
        folder / f"{name}_roc.csv",
        ("fpr", "tpr"),
        ((round(float(fpr), decimals), round(float(tpr), decimals)) for fpr, tpr in points),
    )
    guess = predicted.argmax(axis=1)
    tables.write_csv(
        folder / f"{name}_confusion.csv",
        ("actual", "predicted"),
        ((classes[true], classes[said]) for true, said in zip(truth, guess, strict=True)),
    )


def _draw(
    folder: Path,
    subset: str,
    predictions: dict[str, NDArray[np.float32]],
    final: str,
    truth: NDArray[np.int64],
    classes: tuple[str, ...],
) -> None:
    curves = {}
    for name, predicted in predictions.items():
        area = metrics.roc_auc_score_of(predicted, truth)
        legend = name if area is None else f"{name}, area {area:.4f}"
        curves[name] = (*metrics.roc_points(predicted, truth), legend)
    plots.roc(folder / "roc.png", curves)
    predicted = predictions[final]
    title = f"{final} on {subset}"
    counts = metrics.confusion(predicted, truth)
    plots.confusion(folder / "confusion.png", counts, classes, title)
    given = np.exp(predicted[np.arange(len(truth)), truth])
    plots.scores(folder / "scores.png", given, truth, classes, title)


def _print_summary(summary: dict[str, Any], scored: list[str], final: str) -> None:
    for name in MODELS:
        for subset in scored:
            figures = summary[name][subset]
            print(
                f"evaluate: {name:9} on {subset:5}: accuracy {figures['accuracy']:.4f}, "
                f"log loss {figures['log_loss']:.4f}, {figures['misclassified']} of "
                f"{figures['images']} wrong"
            )
    print(f"evaluate: {final} has the lower log loss on valid and predicts from here on")


if __name__ == "__main__":
    sys.exit(main())
