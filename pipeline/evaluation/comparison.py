"""Confidence intervals of metrics, and paired differences between models or runs.

Results for JSON are rounded to `decimals`; an interval there is [low, high], or None where the
images do not give one. Metrics are computed for many resamples at once, where scikit-learn would
take minutes; beyond `MANY_CLASSES` the areas are linearized for that (`ranking.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from pipeline.evaluation import bootstrap, classification, ranking
from pipeline.evaluation.bootstrap import Interval, bca_interval, wilson
from pipeline.evaluation.probabilities import Bools, Floats, Ints, Names, losses
from pipeline.evaluation.selected_model import Run
from pipeline.runtime.parallel import in_order

OUT_OF_FOLD = "out_of_fold"  # the subset of all images of train and valid, of a run with folds
NO_DIFFERENCE = "no difference shown"
CALIBRATION = "expected_calibration_error"
LOWER_IS_BETTER = ("log_loss", "brier", CALIBRATION)
COMPARED = ("accuracy", "roc_auc", "average_precision", *LOWER_IS_BETTER)
DECIMALS = 6  # of differences between runs

Weights = bootstrap.Floats  # (k, n): how often each image is in each of k resamples
Samples = dict[str, bootstrap.Floats]  # (k,), of "f1" (k, n_classes), by metric
Values = Mapping[str, float]  # of `classification.metrics`


@dataclass(frozen=True)
class Scored:
    """Log-probabilities (n, n_classes) by model, and labels (n,), of a subset."""

    predictions: Mapping[str, Floats]
    label: Ints

    @cached_property
    def values(self) -> dict[str, Values]:
        """The metrics of every model."""
        return {
            name: classification.metrics(of, self.label) for name, of in self.predictions.items()
        }


def intervals_and_differences(
    scored: Mapping[str, Scored], classes: Names, pairs: Sequence[Names], decimals: int
) -> dict[str, Any]:
    """Return the intervals of each model on each subset, and the differences of `pairs`."""
    differences: dict[str, Any] = {f"{new} against {old}": {} for old, new in pairs}
    report: dict[str, Any] = {}
    for subset, one in scored.items():
        samples = samples_of(one)
        for model in one.predictions:
            bounds = metric_intervals(one, model, samples[model], classes, decimals)
            report.setdefault(model, {})[subset] = bounds
        for old, new in pairs:
            difference = paired_differences(one.values, samples, old, new, decimals)
            differences[f"{new} against {old}"][subset] = difference
    report |= {"confidence": bootstrap.CONFIDENCE, "resamples": bootstrap.RESAMPLES}
    return report | {"differences": differences}


def metric_intervals(
    scored: Scored, model: str, samples: Samples, classes: Names, decimals: int
) -> dict[str, Any]:
    """Return one model's intervals, keyed like `classification.summary`: Wilson's or resampled."""
    correct, actual, predicted = classification.counts(scored.predictions[model], scored.label)
    f1, values = 2 * correct / np.maximum(actual + predicted, 1), scored.values[model]
    intervals = {name: _interval(value, samples[name]) for name, value in values.items()}
    error = _interval(values[CALIBRATION], samples[CALIBRATION], bootstrap.symmetric_interval)
    intervals |= {CALIBRATION: error, "accuracy": wilson(correct.sum(), len(scored.label))}
    per_class = {
        name: {
            "precision": _bounds(wilson(correct[i], predicted[i]), decimals),
            "recall": _bounds(wilson(correct[i], actual[i]), decimals),
            "f1": _bounds(_interval(f1[i], samples["f1"][:, i]), decimals),
        }
        for i, name in enumerate(classes)
    }
    bounds = {name: _bounds(interval, decimals) for name, interval in intervals.items()}
    return bounds | {"per_class": per_class}


def _interval(
    value: float,
    samples: bootstrap.Floats,
    method: Callable[[float, bootstrap.Floats], Interval] = bca_interval,
) -> Interval:
    """Return the interval by `method`, or none if the resamples do not give one."""
    return method(value, samples) if bootstrap.varies(samples) else Interval(value, np.nan, np.nan)


def _bounds(interval: Interval, decimals: int) -> list[float] | None:
    _, *bounds = interval
    return None if np.isnan(bounds).any() else [round(float(bound), decimals) for bound in bounds]


def paired_differences(
    values: Mapping[str, Values], samples: Mapping[str, Samples], old: str, new: str, decimals: int
) -> dict[str, dict[str, Any]]:
    """Return the new model's metrics minus the old one's, paired by image, with a verdict each."""
    before, after, found = values[old], values[new], {}
    for name in filter(before.__contains__, COMPARED):
        differences = samples[new][name] - samples[old][name]
        change = _interval(after[name] - before[name], differences)
        if not np.nan_to_num(differences).any():  # equal in each resample
            change = Interval(change.value, 0.0, 0.0)
        better = (change.value < 0) == (name in LOWER_IS_BETTER)
        is_shown = change.low > 0 or change.high < 0
        shown = ("worse", "better")[better] if is_shown else NO_DIFFERENCE
        found[name] = {
            "difference": round(change.value, decimals),
            "interval": _bounds(change, decimals),
            "shown": shown,
        }
    return found


def compare_runs(old: Run, new: Run, subset: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Compare the final models of two runs on the images of a subset with one label in both.

    Return their number, and by metric the old and new value beside `paired_differences`.
    """
    in_old, in_new = (_first_rows(run, subset) for run in (old, new))
    shared = [key for key in in_new if key in in_old]
    if not shared:
        return 0, {}
    rows = [in_new[key] for key in shared]
    predictions = {
        "old": old.log_probability[[in_old[key] for key in shared]],
        "new": new.log_probability[rows],
    }
    both = Scored(predictions, np.array([new.rows[row].index for row in rows], dtype=np.int64))
    metrics = both.values
    differences = paired_differences(metrics, samples_of(both), "old", "new", DECIMALS)
    return len(shared), {
        name: {side: metrics[side][name] for side in metrics} | difference
        for name, difference in differences.items()
    }


def _first_rows(run: Run, subset: str) -> dict[tuple[str, str], int]:
    """Return the first row number of each content and label in a subset."""
    first: dict[tuple[str, str], int] = {}
    subsets: tuple[str, ...] = (subset,)
    if subset == OUT_OF_FOLD and run.has_folds:
        subsets = "train", "valid"
    for number, row in enumerate(run.rows):
        if row.subset in subsets:
            first.setdefault((row.sha256, row.label), number)
    return first


def samples_of(scored: Scored) -> dict[str, Samples]:
    """Return samples of every metric of every model, all with the same weights: paired."""

    def prepared(of: Floats) -> Callable[[Weights], Samples]:
        return resampled(of, scored.label)

    def computed(weight: Weights) -> list[Samples]:
        return [compute(weight) for compute in computes]

    computes = list(in_order(prepared, scored.predictions.values()))
    parts = list(in_order(computed, bootstrap.weights(len(scored.label))))
    return {
        name: {
            metric: np.concatenate([sample[metric] for sample in samples]) for metric in samples[0]
        }
        for name, *samples in zip(scored.predictions, *parts, strict=True)
    }


def resampled(log_probability: Floats, label: Ints) -> Callable[[Weights], Samples]:
    """Return a function of weights to all of `classification.metrics`, and F1 of each class.

    F1 is 0 for a class that is neither drawn nor predicted, an area NaN if a class is not drawn;
    beyond `MANY_CLASSES`, where one is missing in most resamples, if a class has a single image.
    """
    predicted, n_classes = log_probability.argmax(axis=1), log_probability.shape[1]
    values = {
        "accuracy": (predicted == label).astype(np.float64),
        "log_loss": losses(log_probability, label),
        "brier": classification.brier_scores(log_probability, label),
    }
    confidence, correct, bins = classification.binned(log_probability, label)
    gaps = np.eye(classification.BINS)[bins] * (confidence - correct)[:, None]
    is_predicted, is_true = (_one_hot(index, n_classes) for index in (predicted, label))
    both, either = is_predicted * is_true, is_predicted + is_true
    ranked = []
    if n_classes > ranking.MANY_CLASSES:
        values |= ranking.linearized_areas(log_probability, label)
    else:
        score, truth = classification.one_vs_rest(log_probability, label)
        ranked = [areas(*pair) for pair in zip(score.T, truth.T, strict=True)]

    def compute(weight: Weights) -> Samples:
        images = weight.sum(axis=1)
        samples = {name: weight @ of_image / images for name, of_image in values.items()}
        if ranked:
            means = np.mean([of_class(weight) for of_class in ranked], axis=0)
            samples |= zip(ranking.AREAS, means, strict=True)
        return samples | {
            CALIBRATION: np.abs(weight @ gaps).sum(axis=1) / images,
            "f1": 2 * (weight @ both) / np.maximum(weight @ either, 1),
        }

    return compute


def _one_hot(index: Ints, n_classes: int) -> csr_array:
    """Return float64 (n, n_classes), sparse: its sums of weights are integers, thus exact."""
    images = len(index)
    return csr_array((np.ones(images), index, np.arange(images + 1)), shape=(images, n_classes))


def areas(score: Floats, truth: Bools) -> Callable[[Weights], bootstrap.Floats]:
    """Return a function of weights to the areas under the ROC and precision-recall curve, (2, k).

    The first is the probability that a positive image has the higher score, ties counted half; the
    second is the mean precision over the steps of recall, not interpolated, as in scikit-learn.
    """
    order = np.argsort(-score, kind="stable")
    falling, true = score[order], truth[order]
    starts = np.flatnonzero(np.r_[True, falling[1:] != falling[:-1]])  # of each distinct score

    def compute(weight: Weights) -> bootstrap.Floats:
        at_score = weight[:, order]
        positive = np.add.reduceat(at_score * true, starts, axis=1)
        every = np.add.reduceat(at_score, starts, axis=1)
        positives_above, above = positive.cumsum(axis=1), every.cumsum(axis=1)
        positives, negatives = positives_above[:, -1], above[:, -1] - positives_above[:, -1]
        ranked_higher = positives_above - positive / 2
        precision = positives_above / np.maximum(above, 1)  # 0 / 1 before the first drawn image
        with np.errstate(invalid="ignore"):
            roc = ((every - positive) * ranked_higher).sum(axis=1) / (positives * negatives)
            return np.stack([roc, (positive * precision).sum(axis=1) / positives])

    return compute
