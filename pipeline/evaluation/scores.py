"""Select the final model on `valid`, and score all models on every subset with labels.

Models are MODELS and FINAL, the selected one after calibration; all have log-probabilities
(n, n_classes).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation import calibration, classification
from pipeline.evaluation.comparison import Scored
from pipeline.evaluation.probabilities import Floats, Ints, log_loss
from pipeline.evaluation.selected_model import Selection
from pipeline.images.label_fixes import EXCLUDE
from pipeline.storage import ledger

MODELS = ("head", "fine_tune")
FINAL = "final"
WITH_FIXES = "test_with_label_fixes"


def select(
    predictions: Mapping[str, Floats], label: Ints, calibrate: bool, decimals: int
) -> Selection:
    """Select the model with the lowest log loss, its temperature and the best clip.

    Args:
        predictions: of the images of `valid`, by model.
        label: of the same images.
    """
    name = min(MODELS, key=lambda model: log_loss(predictions[model], label))
    fit = calibration.fit_temperature
    temperature = round(fit(predictions[name], label), decimals) if calibrate else 1.0
    clip = calibration.best_clip(calibration.scaled(predictions[name], temperature), label)
    return Selection(name, temperature, round(clip, 6))


def subsets(
    predictions: Mapping[str, Floats], rows: Sequence[ledger.LedgerRow], labels: ledger.Labels
) -> dict[str, Scored]:
    """Return the predictions and labels of each subset that has images.

    If there are label fixes of test images, `WITH_FIXES` is `test` after applying them.
    """
    selected = {name: (at := labels.rows(name), labels.label[at]) for name in ("valid", "test")}
    fixes = [row.fix for row in rows if row.accepted]
    test = labels.rows("test")
    if any(fixes[i] for i in test):
        kept = np.array([i for i in test if fixes[i] != EXCLUDE], dtype=np.int64)
        label = [labels.classes.index(fixes[i]) if fixes[i] else labels.label[i] for i in kept]
        selected[WITH_FIXES] = kept, np.array(label, dtype=np.int64)
    return {
        name: Scored({model: values[at] for model, values in predictions.items()}, label)
        for name, (at, label) in selected.items()
        if len(at)
    }


def summary(
    selection: Selection, scored: Mapping[str, Scored], classes: Sequence[str], decimals: int
) -> dict[str, Any]:
    """Return the selection and the metrics of each model on each subset, ready for JSON."""
    metrics = {
        model: {
            name: classification.summary(subset.predictions[model], subset.label, classes, decimals)
            for name, subset in scored.items()
        }
        for model in (*MODELS, FINAL)
    }
    chosen = {"chosen": selection.name, "temperature": selection.temperature}
    return {**chosen, "clip": selection.clip, **metrics}


def of_second_class(scored: Mapping[str, Scored]) -> dict[str, tuple[Floats, Ints]]:
    """Return the final probability of the second of two classes, and the label, by subset."""
    return {
        name: (np.exp(subset.predictions[FINAL][:, 1]), subset.label)
        for name, subset in scored.items()
    }


def curves(predictions: Mapping[str, Floats], label: Ints) -> dict[str, dict[str, Any]]:
    """Return the curves of all models to plot, by kind and legend.

    "images" has the number of images behind each point of "reliability". FINAL has only that one,
    because it ranks images like the selected model.
    """
    kinds = ("roc", "precision_recall", "reliability", "images")
    drawn: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for model, predicted in predictions.items():
        metrics = classification.metrics(predicted, label)
        if model != FINAL:
            legends = [model, model]
            if "roc_auc" in metrics:
                legends[0] += f", area {metrics['roc_auc']:.4f}"
                legends[1] += f", {metrics['average_precision']:.4f}"
            drawn["roc"][legends[0]] = classification.roc_curve(predicted, label)
            points = classification.precision_recall_curve(predicted, label)
            drawn["precision_recall"][legends[1]] = points
        legend = f"{model}, error {metrics['expected_calibration_error']:.4f}"
        confidence, accuracy, images = classification.reliability_curve(predicted, label)
        drawn["reliability"][legend] = confidence, accuracy
        drawn["images"][legend] = images
    return drawn


def summary_lines(
    summary: Mapping[str, Any], intervals: Mapping[str, Any], subsets: Sequence[str]
) -> Iterator[str]:
    """Yield accuracy and log loss of each model on each subset, and the selection, as text."""
    for model in (*MODELS, FINAL):
        for subset in subsets:
            metrics, bounds = summary[model][subset], intervals[model][subset]
            accuracy, loss = (
                f"{metrics[name]:.4f} ({bounds[name][0]:.4f}..{bounds[name][1]:.4f})"
                for name in ("accuracy", "log_loss")
            )
            yield (
                f"{model:9} on {subset}: accuracy {accuracy}, log loss {loss}, "
                f"{metrics['misclassified']} of {metrics['images']} wrong"
            )
    yield (
        f"{summary['chosen']} has the lower log loss on valid and is selected, at a temperature of "
        f"{summary['temperature']:.3f}"
    )
