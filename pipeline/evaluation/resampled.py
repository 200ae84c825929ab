"""Figures of many resamples at a time, where scikit-learn would take minutes.

`weight` is float64 (resamples, n): how often each image is in a resample (`intervals.weights`).
Each function here prepares what is the same for all resamples, and returns a function from
`weight` to the figure of each, float64 (resamples,) if nothing else is said.
A figure is NaN in a resample without the images that it needs.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import bootstrap, classification, losses
from pipeline.evaluation.bootstrap import Samples
from pipeline.evaluation.losses import Ints

Floats = NDArray[np.float64]
Figure = Callable[[Floats], Floats]
Sampled = dict[str, Samples]  # by the figure's name


def samples(predictions: Mapping[str, losses.Floats], label: Ints) -> dict[str, Sampled]:
    """Of each model, by its log-probabilities (n, n_classes), samples of each figure by its name.

    All models are scored on the same resamples, so that their differences are paired.
    """
    of_model = {name: figures(given, label) for name, given in predictions.items()}

    def computed(blocks: Iterable[Floats]) -> dict[str, dict[str, Floats]]:
        found: dict[str, list[dict[str, Floats]]] = {name: [] for name in of_model}
        for weight in blocks:
            for name, compute in of_model.items():
                found[name].append(compute(weight))
        return {
            name: {figure: np.concatenate([one[figure] for one in each]) for figure in each[0]}
            for name, each in found.items()
        }

    drawn = computed(bootstrap.weights(len(label)))
    without = computed(bootstrap.left_out(len(label)))
    return {
        name: {figure: Samples(values, without[name][figure]) for figure, values in found.items()}
        for name, found in drawn.items()
    }


def figures(log_probability: losses.Floats, label: Ints) -> Callable[[Floats], dict[str, Floats]]:
    """Those of `metrics.summary` that a bootstrap can tell more of, by their names there."""
    n_classes = log_probability.shape[1]
    guess = log_probability.argmax(axis=1)
    right = (guess == label).astype(np.float64)
    confidence = np.exp(log_probability.max(axis=1)).astype(np.float64)
    ranked = [areas(*pair) for pair in classification.scores_and_truths(log_probability, label)]
    simple = {
        "accuracy": mean(right),
        "log_loss": mean(losses.losses(log_probability, label)),
        "brier": mean(losses.brier_scores(log_probability, label)),
        "expected_calibration_error": calibration_error(confidence, right),
        "f1": f1(guess, label, n_classes),
    }

    def compute(weight: Floats) -> dict[str, Floats]:
        of_classes = np.mean([of_class(weight) for of_class in ranked], axis=0)
        found = {"roc_auc": of_classes[0], "average_precision": of_classes[1]}
        return found | {name: figure(weight) for name, figure in simple.items()}

    return compute


def mean(values: losses.Floats) -> Figure:
    """The mean of one value an image, (n,)."""
    return lambda weight: weight @ values / weight.sum(axis=1)


def areas(score: losses.Floats, truth: NDArray[np.bool_]) -> Figure:
    """Areas under the ROC curve and under the precision-recall curve, (2, resamples).

    The first tells how often a true image has the higher score, ties as a half; the second is the
    mean of precision over the steps of recall, without interpolation, as scikit-learn's.
    """
    order = np.argsort(-score, kind="stable")
    falling, true = score[order], truth[order]
    starts = np.flatnonzero(np.r_[True, falling[1:] != falling[:-1]])  # of each new score

    def compute(weight: Floats) -> Floats:
        drawn = weight[:, order]
        positive = np.add.reduceat(drawn * true, starts, axis=1)
        drawn = np.add.reduceat(drawn, starts, axis=1)
        found, taken = positive.cumsum(axis=1), drawn.cumsum(axis=1)
        positives, negatives = found[:, -1], taken[:, -1] - found[:, -1]
        others = drawn - positive
        above = found - positive / 2
        precision = found / np.maximum(taken, 1)  # before the first image drawn, nothing counts
        with np.errstate(invalid="ignore"):  # a class that was not drawn: NaN
            return np.stack(
                [
                    (others * above).sum(axis=1) / (positives * negatives),
                    (positive * precision).sum(axis=1) / positives,
                ]
            )

    return compute


def calibration_error(confidence: Floats, right: Floats) -> Figure:
    """As `metrics.expected_calibration_error`."""
    bins = classification.calibration_bins(confidence)
    gaps = np.zeros((len(confidence), classification.BINS))
    gaps[np.arange(len(confidence)), bins] = confidence - right
    return lambda weight: np.abs(weight @ gaps).sum(axis=1) / weight.sum(axis=1)


def f1(guess: Ints, label: Ints, n_classes: int) -> Figure:
    """Of each class, (resamples, n_classes); 0 where it was neither drawn nor guessed."""
    classes = np.arange(n_classes)
    said, true = (guess[:, None] == classes), (label[:, None] == classes)
    both, either = (said & true).astype(np.float64), said.astype(np.float64) + true

    def compute(weight: Floats) -> Floats:
        return np.asarray(2 * (weight @ both) / np.maximum(weight @ either, 1))

    return compute
