"""Select the final model on `valid`, and score all models on every subset with labels.

With folds, `OUT_OF_FOLD`, all images of `train` and `valid`, takes the place of `valid`.
Models are MODELS and FINAL, the selected one after calibration; all have log-probabilities
(n, n_classes). Decision thresholds, for two classes, are on the second one's probability: an image
is assigned the second class from there on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import calibration, classification
from pipeline.evaluation.classification import Curve
from pipeline.evaluation.comparison import OUT_OF_FOLD, Scored
from pipeline.evaluation.probabilities import Floats, Ints, Names, log_loss
from pipeline.evaluation.selected_model import Selection
from pipeline.images.label_fixes import EXCLUDE
from pipeline.storage import ledger

MODELS = ("head", "fine_tune")
FINAL = "final"
WITH_FIXES = "test_with_label_fixes"
LEGENDS = {  # a word and the metric in the legend of each kind of curve
    "roc": (" area", "roc_auc"),
    "precision_recall": ("", "average_precision"),
    "reliability": (" error", "expected_calibration_error"),
}

Doubles = NDArray[np.float64]
TwoClasses = tuple[Floats, Ints]  # the second class's probability and the label, 0 or 1, (n,) each


def select(
    predictions: Mapping[str, Floats], label: Ints, calibrate: bool, decimals: int
) -> Selection:
    """Select the model with the lowest log loss on `valid`, its temperature and the best clip."""
    name = min(MODELS, key=lambda model: log_loss(predictions[model], label))
    predicted = predictions[name]
    temperature = calibration.fit_temperature(predicted, label) if calibrate else 1.0
    temperature = round(temperature, decimals)
    clip = calibration.best_clip(calibration.scaled(predicted, temperature), label)
    return Selection(name, temperature, round(clip, 6))


def subsets(
    predictions: Mapping[str, Floats],
    rows: Sequence[ledger.LedgerRow],
    labels: ledger.Labels,
    chosen_on: str,
) -> dict[str, Scored]:
    """Return each subset that has images, `chosen_on` first.

    `WITH_FIXES` is `test` after label fixes, if any.
    """
    names = dict.fromkeys((chosen_on, "valid", "test"))
    selected = {name: (at := rows_of(name, labels), labels.label[at]) for name in names}
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


def rows_of(subset: str, labels: ledger.Labels) -> Ints:
    """Return the rows of a subset, ascending."""
    if subset != OUT_OF_FOLD:
        return labels.rows(subset)
    return np.sort(np.concatenate([labels.rows("train"), labels.rows("valid")]))


def summary(
    selection: Selection, scored: Mapping[str, Scored], classes: Names, decimals: int
) -> dict[str, Any]:
    """Return the selection and the metrics of each model on each subset, ready for JSON."""
    metrics: dict[str, Any] = {
        model: {
            name: classification.summary(
                subset.predictions[model], subset.label, classes, decimals, subset.values[model]
            )
            for name, subset in scored.items()
        }
        for model in (*MODELS, FINAL)
    }
    name, temperature, clip = selection
    chosen = {"chosen": name, "temperature": temperature, "clip": clip}
    return {**metrics, **chosen, "classes": list(classes)}


def curves(scored: Scored) -> dict[str, dict[str, Curve]]:
    """Return all curves to plot, by kind and legend; FINAL ranks images like the selected model."""
    drawn: dict[str, dict[str, Curve]] = {kind: {} for kind in LEGENDS}
    for model, predicted in scored.predictions.items():
        metrics = scored.values[model]
        for kind, curve in classification.curves(predicted, scored.label).items():
            word, metric = LEGENDS[kind]
            legend = f"{model},{word} {metrics[metric]:.4f}" if metric in metrics else model
            if model != FINAL or kind == "reliability":
                drawn[kind][legend] = curve
    return drawn


def accuracy_and_errors(probability: Floats, label: Ints, threshold: Doubles) -> list[Doubles]:
    """Return accuracy and both classes' error rates (of no image: 0) by threshold, float64."""
    first, second = (np.sort(probability[label == index].astype(np.float64)) for index in (0, 1))
    wrong_of_first = len(first) - np.searchsorted(first, threshold)
    wrong_of_second = np.searchsorted(second, threshold)
    accuracy = 1 - (wrong_of_first + wrong_of_second) / len(label)
    return [accuracy, wrong_of_first / max(1, len(first)), wrong_of_second / max(1, len(second))]


def choose_thresholds(probability: Floats, label: Ints, decimals: int) -> dict[str, float]:
    """Choose a threshold by each criterion, rounded to `decimals`.

    "half" is 0.5, "symmetric" balances the error rates of both classes, "accurate" has the highest
    accuracy. Candidates lie midway between neighboring probabilities; ties go to the one nearest
    to 0.5.
    """
    values = np.unique(probability.astype(np.float64))
    candidates = np.unique(np.round([0.5, *(values[1:] + values[:-1]) / 2], decimals))
    candidates = candidates[np.argsort(np.abs(candidates - 0.5), kind="stable")]
    accuracy, of_first, of_second = accuracy_and_errors(probability, label, candidates)
    symmetric, accurate = np.argmin(np.abs(of_first - of_second)), np.argmax(accuracy)
    best = {"symmetric": candidates[symmetric], "accurate": candidates[accurate]}
    return {"half": 0.5} | {name: float(threshold) for name, threshold in best.items()}


def thresholds(
    subsets: Mapping[str, TwoClasses], chosen_on: str, classes: Names, decimals: int
) -> dict[str, Any]:
    """Choose thresholds on one subset and measure them on all, ready for JSON."""
    found: dict[str, Any] = {}
    for name, threshold in choose_thresholds(*subsets[chosen_on], decimals).items():
        found[name] = {"threshold": threshold}
        for subset, images in subsets.items():
            measured = accuracy_and_errors(*images, np.array([threshold]))
            accuracy, *errors = (round(rate.item(), decimals) for rate in measured)
            error_rate = dict(zip(classes, errors, strict=True))
            found[name][subset] = {"accuracy": accuracy, "error_rate": error_rate}
    return found
