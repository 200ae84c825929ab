"""Metrics of many bootstrap resamples at once, where scikit-learn would take minutes.

`weight` is float64 (resamples, n): how often each image is in a resample (`bootstrap.weights`).
Each function computes what all resamples share and returns a function from `weight` to the metric,
float64 (resamples,) unless stated otherwise; NaN in a resample that lacks the images it needs.
"""

from collections.abc import Callable, Mapping

import numpy as np

from pipeline.evaluation import bootstrap, classification, probabilities
from pipeline.evaluation.bootstrap import Floats
from pipeline.evaluation.probabilities import Ints

Metric = Callable[[Floats], Floats]
MetricSamples = dict[str, Floats]  # (resamples,) or (resamples, n_classes), by the metric's name


def samples(
    predictions: Mapping[str, probabilities.Floats], label: Ints
) -> dict[str, MetricSamples]:
    """Return samples of every metric of every model, from log-probabilities (n, n_classes).

    All models are scored with the same weights, so their differences are paired.
    """
    computes = {name: metrics(predicted, label) for name, predicted in predictions.items()}
    blocks: dict[str, list[MetricSamples]] = {name: [] for name in computes}
    for weight in bootstrap.weights(len(label)):
        for name, compute in computes.items():
            blocks[name].append(compute(weight))
    return {
        name: {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}
        for name, parts in blocks.items()
    }


def metrics(
    log_probability: probabilities.Floats, label: Ints
) -> Callable[[Floats], MetricSamples]:
    """Return all of `classification.metrics`, and F1 of each class, as one function."""
    n_classes = log_probability.shape[1]
    confidence, correct = classification.confidence_and_correct(log_probability, label)
    ranked = [areas(*pair) for pair in classification.one_vs_rest(log_probability, label)]
    simple = {
        "accuracy": mean(correct.astype(np.float64)),
        "log_loss": mean(probabilities.losses(log_probability, label)),
        "brier": mean(classification.brier_scores(log_probability, label)),
        "expected_calibration_error": calibration_error(confidence, correct.astype(np.float64)),
        "f1": f1(log_probability.argmax(axis=1), label, n_classes),
    }

    def compute(weight: Floats) -> MetricSamples:
        both = np.mean([areas_of_class(weight) for areas_of_class in ranked], axis=0)
        area = {"roc_auc": both[0], "average_precision": both[1]}
        return area | {name: metric(weight) for name, metric in simple.items()}

    return compute


def mean(values: Floats) -> Metric:
    """Return the mean of one value per image, (n,)."""
    return lambda weight: weight @ values / weight.sum(axis=1)


def areas(score: probabilities.Floats, truth: classification.Bools) -> Metric:
    """Return the areas under the ROC and the precision-recall curve, (2, resamples).

    The first is the probability that a positive image has the higher score, ties counted half; the
    second is the mean precision over the steps of recall, not interpolated, as in scikit-learn.
    """
    order = np.argsort(-score, kind="stable")
    falling, true = score[order], truth[order]
    starts = np.flatnonzero(np.r_[True, falling[1:] != falling[:-1]])  # of each distinct score

    def compute(weight: Floats) -> Floats:
        at_score = weight[:, order]
        positive = np.add.reduceat(at_score * true, starts, axis=1)
        every = np.add.reduceat(at_score, starts, axis=1)
        positives_above, above = positive.cumsum(axis=1), every.cumsum(axis=1)
        positives, negatives = positives_above[:, -1], above[:, -1] - positives_above[:, -1]
        ranked_higher = positives_above - positive / 2
        precision = positives_above / np.maximum(above, 1)  # 0 / 1 before the first drawn image
        with np.errstate(invalid="ignore"):  # NaN if a class was not drawn
            return np.stack(
                [
                    ((every - positive) * ranked_higher).sum(axis=1) / (positives * negatives),
                    (positive * precision).sum(axis=1) / positives,
                ]
            )

    return compute


def calibration_error(confidence: Floats, correct: Floats) -> Metric:
    """Return `classification.expected_calibration_error`."""
    bins = classification.calibration_bins(confidence)
    gaps = np.zeros((len(confidence), classification.BINS))
    gaps[np.arange(len(confidence)), bins] = confidence - correct
    return lambda weight: np.abs(weight @ gaps).sum(axis=1) / weight.sum(axis=1)


def f1(predicted: Ints, label: Ints, n_classes: int) -> Metric:
    """Return F1 of each class, (resamples, n_classes); 0 if neither drawn nor predicted."""
    classes = np.arange(n_classes)
    is_predicted, is_true = (predicted[:, None] == classes), (label[:, None] == classes)
    both = (is_predicted & is_true).astype(np.float64)
    either = is_predicted.astype(np.float64) + is_true
    return lambda weight: 2 * (weight @ both) / np.maximum(weight @ either, 1)
