"""Classification metrics and curves. scikit-learn is slow to import; few functions do."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import ranking
from pipeline.evaluation.probabilities import Bools, Floats, Ints, Names, log_loss

BINS = 15  # of confidence, as in C. Guo et al., "On Calibration of Modern Neural Networks" (2017)

Curve = tuple[NDArray[Any], ...]  # x, y


def metrics(log_probability: Floats, label: Ints) -> dict[str, float]:
    """Return the metrics over all classes; the areas only if every class has an image."""
    return {
        "accuracy": float((log_probability.argmax(axis=1) == label).mean()),
        "log_loss": log_loss(log_probability, label),
        "brier": float(brier_scores(log_probability, label).mean()),
        "expected_calibration_error": expected_calibration_error(log_probability, label),
        **areas(log_probability, label),
    }


def summary(
    log_probability: Floats,
    label: Ints,
    classes: Names,
    decimals: int,
    overall: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return all metrics of one model on one subset, rounded to `decimals`, ready for JSON.

    `overall` are its `metrics`, if they have been computed.
    """
    correct, actual, predicted = counts(log_probability, label)
    of_class = {  # 0 where a class has no image or no prediction
        "precision": correct / np.maximum(predicted, 1),
        "recall": correct / np.maximum(actual, 1),
        "f1": 2 * correct / np.maximum(actual + predicted, 1),
        "images": actual,
        "misclassified": actual - correct,
    }
    per_class = {
        class_name: {name: round(values[i].item(), decimals) for name, values in of_class.items()}
        for i, class_name in enumerate(classes)
    }
    overall = metrics(log_probability, label) if overall is None else overall
    return {
        **{name: round(value, decimals) for name, value in overall.items()},
        "images": len(label),
        "misclassified": int((actual - correct).sum()),
        "per_class": per_class,
    }


def confusion(log_probability: Floats, label: Ints) -> Ints:
    """Return counts, int64 (n_classes, n_classes): rows are true classes, columns predicted."""
    n_classes = log_probability.shape[1]
    pairs = label * n_classes + log_probability.argmax(axis=1)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def counts(log_probability: Floats, label: Ints) -> tuple[Ints, Ints, Ints]:
    """Return each class's correct, true and predicted images, int64 (n_classes,) each."""
    matrix = confusion(log_probability, label)
    return np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)


def brier_scores(log_probability: Floats, label: Ints) -> NDArray[np.float64]:
    """Return each image's squared error summed over classes, float64 (n,); of two classes, half."""
    error = np.exp(log_probability.astype(np.float64))
    error[np.arange(len(label)), label] -= 1
    squares = np.square(error, out=error).sum(axis=1)
    return np.asarray(squares / 2 if log_probability.shape[1] == 2 else squares)


def expected_calibration_error(log_probability: Floats, label: Ints) -> float:
    """Return the mean gap between confidence and accuracy over `BINS`: C. Guo, section 2."""
    confidence, correct, bins = binned(log_probability, label)
    return float(np.abs(np.bincount(bins, confidence - correct, BINS)).sum() / len(label))


def binned(log_probability: Floats, label: Ints) -> tuple[NDArray[np.float64], Bools, Ints]:
    """Return the predicted class's probability, whether it is the label, and its bin, (n,) each."""
    confidence = np.exp(log_probability.max(axis=1)).astype(np.float64)
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return confidence, log_probability.argmax(axis=1) == label, bins


def one_vs_rest(log_probability: Floats, label: Ints) -> tuple[Floats, Bools]:
    """Return scores and truths of the second of two classes (n, 1), or of all (n, n_classes).

    For two classes the score is the log-odds, finer than a probability near 0 and 1.
    """
    if log_probability.shape[1] == 2:
        return log_probability[:, 1:] - log_probability[:, :1], label[:, None] == 1
    return log_probability, label[:, None] == np.arange(log_probability.shape[1])


def areas(log_probability: Floats, label: Ints) -> dict[str, float]:
    """Return the areas under two curves, means of one-vs-rest; empty if a class has no image."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    if len(np.unique(label)) < log_probability.shape[1]:
        return {}
    if log_probability.shape[1] > ranking.MANY_CLASSES:
        return ranking.areas(log_probability, label)
    score, truth = map(np.squeeze, one_vs_rest(log_probability, label))
    area, precision = roc_auc_score(truth, score), average_precision_score(truth, score)
    return {"roc_auc": float(area), "average_precision": float(precision)}


def curves(log_probability: Floats, label: Ints) -> dict[str, Curve]:
    """Return x and y of "roc" and "precision_recall", empty if one of two classes has no image.

    Of more classes, all pairs of image and class are pooled (micro-average), and beyond
    `MANY_CLASSES` a curve has at most `ranking.POINTS` points. "reliability" has the number of
    images in each bin as a third column.
    """
    pooled = _pooled if log_probability.shape[1] <= ranking.MANY_CLASSES else ranking.curves
    confidence, correct, bins = binned(log_probability, label)
    images = np.bincount(bins, minlength=BINS)
    filled = images > 0
    means = [np.bincount(bins, one, BINS)[filled] / images[filled] for one in (confidence, correct)]
    return {
        **pooled(log_probability, label),
        "reliability": (*means, images[filled]),
    }


def _pooled(log_probability: Floats, label: Ints) -> dict[str, Curve]:
    from sklearn.metrics import precision_recall_curve, roc_curve

    score, truth = map(np.ravel, one_vs_rest(log_probability, label))
    false_rate = true_rate = precision = recall = np.empty(0)
    if truth.any() and not truth.all():
        false_rate, true_rate, _ = roc_curve(truth, score)
        precision, recall, _ = precision_recall_curve(truth, score)
    return {"roc": (false_rate, true_rate), "precision_recall": (recall[::-1], precision[::-1])}
