"""Classification metrics and curves: pure functions of log-probabilities and labels.

Any number of classes from two on. scikit-learn takes half a second to import, so only the functions
that rank images import it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.probabilities import Floats, Ints, log_loss

BINS = 15  # of confidence, as in C. Guo et al., "On Calibration of Modern Neural Networks" (2017)

Curve = tuple[Floats, Floats]
Bools = NDArray[np.bool_]


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
    log_probability: Floats, label: Ints, classes: Sequence[str], decimals: int
) -> dict[str, Any]:
    """Return all metrics of one model on one subset, rounded to `decimals`, ready for JSON."""
    counts = confusion(log_probability, label)
    correct, actual, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    per_class = {  # 0 where a class has no image or no prediction
        "precision": correct / np.maximum(predicted, 1),
        "recall": correct / np.maximum(actual, 1),
        "f1": 2 * correct / np.maximum(actual + predicted, 1),
    }
    overall = metrics(log_probability, label).items()
    return {
        **{name: round(value, decimals) for name, value in overall},
        "images": len(label),
        "misclassified": int((actual - correct).sum()),
        "per_class": {
            class_name: {
                **{name: round(float(values[i]), decimals) for name, values in per_class.items()},
                "images": int(actual[i]),
                "misclassified": int(actual[i] - correct[i]),
            }
            for i, class_name in enumerate(classes)
        },
    }


def confusion(log_probability: Floats, label: Ints) -> Ints:
    """Return counts, int64 (n_classes, n_classes): rows are true classes, columns predicted."""
    n_classes = log_probability.shape[1]
    pairs = label * n_classes + log_probability.argmax(axis=1)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def brier_scores(log_probability: Floats, label: Ints) -> NDArray[np.float64]:
    """Return each image's squared error summed over classes, float64 (n,).

    For two classes only the second one counts, half the sum, as in scikit-learn.
    """
    error = np.exp(log_probability.astype(np.float64))
    error[np.arange(len(label)), label] -= 1
    squares = np.square(error).sum(axis=1)
    return np.asarray(squares / 2 if log_probability.shape[1] == 2 else squares)


def expected_calibration_error(log_probability: Floats, label: Ints) -> float:
    """Return the mean gap between confidence and accuracy over `BINS` bins of confidence.

    Confidence is the probability of the predicted class. C. Guo et al. (2017), section 2.
    """
    confidence, correct = confidence_and_correct(log_probability, label)
    gaps = np.bincount(calibration_bins(confidence), confidence - correct, BINS)
    return float(np.abs(gaps).sum() / len(label))


def confidence_and_correct(
    log_probability: Floats, label: Ints
) -> tuple[NDArray[np.float64], Bools]:
    """Return the predicted class's probability, and whether it is the label, both (n,)."""
    confidence = np.exp(log_probability.max(axis=1)).astype(np.float64)
    return confidence, log_probability.argmax(axis=1) == label


def calibration_bins(confidence: NDArray[np.float64]) -> Ints:
    """Return the bin of each confidence, int64 (n,): `BINS` bins that include their upper edge."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def one_vs_rest(log_probability: Floats, label: Ints) -> list[tuple[Floats, Bools]]:
    """Return (score, truth) of the second of two classes, or else of each class, both (n,).

    For two classes the score is the log-odds, finer than a probability near 0 and 1.
    """
    n_classes = log_probability.shape[1]
    if n_classes == 2:
        return [(log_probability[:, 1] - log_probability[:, 0], label == 1)]
    return [(log_probability[:, index], label == index) for index in range(n_classes)]


def areas(log_probability: Floats, label: Ints) -> dict[str, float]:
    """Return the areas under the ROC and the precision-recall curve, the mean of one-vs-rest.

    Empty if a class has no image: the areas are undefined then.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if len(np.unique(label)) < log_probability.shape[1]:
        return {}
    pairs = one_vs_rest(log_probability, label)
    areas = {"roc_auc": roc_auc_score, "average_precision": average_precision_score}
    return {
        name: float(np.mean([area(truth, score) for score, truth in pairs]))
        for name, area in areas.items()
    }


def roc_curve(log_probability: Floats, label: Ints) -> Curve:
    """Return false and true positive rates, from (0, 0) to (1, 1).

    For more than two classes all pairs of image and class are pooled (micro-average). Empty if one
    of two classes has no image.
    """
    return _pooled_curve("roc_curve", log_probability, label)


def precision_recall_curve(log_probability: Floats, label: Ints) -> Curve:
    """Return rising recalls and the precision at each, pooled and possibly empty like the ROC."""
    precision, recall = _pooled_curve("precision_recall_curve", log_probability, label)
    return recall[::-1], precision[::-1]


def _pooled_curve(name: str, log_probability: Floats, label: Ints) -> Curve:
    """Return what scikit-learn's function of that name does, without the thresholds."""
    from sklearn import metrics as sklearn_metrics

    score, truth = map(np.concatenate, zip(*one_vs_rest(log_probability, label), strict=True))
    if truth.all() or not truth.any():
        return np.empty(0), np.empty(0)
    first, second, _ = getattr(sklearn_metrics, name)(truth, score)
    return first, second


def reliability_curve(log_probability: Floats, label: Ints) -> tuple[Floats, Floats, Ints]:
    """Return mean confidence, accuracy and number of images of each non-empty bin."""
    confidence, correct = confidence_and_correct(log_probability, label)
    bins = calibration_bins(confidence)
    images = np.bincount(bins, minlength=BINS)
    filled = images > 0
    mean_confidence, accuracy = (
        np.bincount(bins, values, BINS)[filled] / images[filled] for values in (confidence, correct)
    )
    return mean_confidence, accuracy, images[filled].astype(np.int64)
