"""How good predictions are: pure functions of log-probabilities and labels.

Throughout, `log_probability` is float (n, n_classes), natural logarithms; `label` is int (n,), an
index into the classes. Works for any number of classes from two on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from pipeline.evaluation.losses import Floats, Ints, brier_scores, log_loss

BINS = 15  # of confidence, as C. Guo et al., "On Calibration of Modern Neural Networks" (2017)


def expected_calibration_error(log_probability: Floats, label: Ints) -> float:
    """How far confidence and accuracy are apart, on average over `BINS` bins of confidence.

    Confidence is the probability of the class that is said. C. Guo et al. (2017), section 2.
    """
    confidence = np.exp(log_probability.max(axis=1)).astype(np.float64)
    right = log_probability.argmax(axis=1) == label
    gaps = np.bincount(calibration_bins(confidence), confidence - right, BINS)
    return float(np.abs(gaps).sum() / len(label))


def calibration_bins(confidence: NDArray[np.float64]) -> Ints:
    """The bin of each confidence, int64 (n,); 0 to 1 in `BINS` bins, each with its upper edge."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def scores_and_truths(
    log_probability: Floats, label: Ints
) -> list[tuple[Floats, NDArray[np.bool_]]]:
    """What ranks the images, and which of them are true: of the second class of two, else of each.

    For two classes the log-odds: finer than a probability near 0 and 1.
    """
    n_classes = log_probability.shape[1]
    if n_classes == 2:
        return [(score_of_second(log_probability), label == 1)]
    return [(log_probability[:, index], label == index) for index in range(n_classes)]


def average_precision(log_probability: Floats, label: Ints) -> float | None:
    """Area under the precision-recall curve, of the second class of two, else the classes' mean.

    None where a class has no image, since it is not defined there.
    """
    return _area(average_precision_score, log_probability, label)


def roc_auc_score_of(log_probability: Floats, label: Ints) -> float | None:
    """Area under the ROC curve, for more classes the mean of one against the rest.

    None where a class has no image, since it is not defined there.
    """
    return _area(roc_auc_score, log_probability, label)


def _area(
    score: Callable[[NDArray[np.bool_], Floats], float], log_probability: Floats, label: Ints
) -> float | None:
    if len(np.unique(label)) < log_probability.shape[1]:
        return None
    pairs = scores_and_truths(log_probability, label)
    return float(np.mean([score(truth, ranking) for ranking, truth in pairs]))


def score_of_second(log_probability: Floats) -> Floats:
    """For two classes, the log-odds of the second: finer than its probability near 0 and 1."""
    return log_probability[:, 1] - log_probability[:, 0]


def roc_points(log_probability: Floats, label: Ints) -> tuple[Floats, Floats]:
    """False and true positive rates, from (0, 0) to (1, 1).

    Of the second class of two; of more, all pairs of image and class are pooled (micro-average).
    No points where one of two classes has no image, since a rate is not defined there.
    """
    n_classes = log_probability.shape[1]
    if n_classes == 2:
        truth, score = label == 1, score_of_second(log_probability)
    else:
        truth = (label[:, None] == np.arange(n_classes)).ravel()
        score = log_probability.ravel()
    if truth.all() or not truth.any():
        return np.empty(0), np.empty(0)
    fpr, tpr, _ = roc_curve(truth, score)
    return fpr, tpr


def precision_points(log_probability: Floats, label: Ints) -> tuple[Floats, Floats]:
    """Recalls, rising, and the precision at each; of classes pooled as in `roc_points`.

    No points where one of two classes has no image.
    """
    scored = scores_and_truths(log_probability, label)
    score, truth = (np.concatenate(parts) for parts in zip(*scored, strict=True))
    if truth.all() or not truth.any():
        return np.empty(0), np.empty(0)
    precision, recall, _ = precision_recall_curve(truth, score)
    return recall[::-1], precision[::-1]


def reliability(log_probability: Floats, label: Ints) -> tuple[Floats, Floats, Ints]:
    """Of each bin of confidence with an image: mean confidence, accuracy, how many images."""
    confidence = np.exp(log_probability.max(axis=1)).astype(np.float64)
    right = log_probability.argmax(axis=1) == label
    bins = calibration_bins(confidence)
    images = np.bincount(bins, minlength=BINS)
    held = images > 0
    sums = (np.bincount(bins, values, BINS)[held] for values in (confidence, right))
    mean, accuracy = (total / images[held] for total in sums)
    return mean, accuracy, images[held].astype(np.int64)


def confusion(log_probability: Floats, label: Ints) -> Ints:
    """Counts, int64 (n_classes, n_classes): rows are true classes, columns predicted ones."""
    n_classes = log_probability.shape[1]
    counts = confusion_matrix(label, log_probability.argmax(axis=1), labels=range(n_classes))
    return np.asarray(counts, dtype=np.int64)


def figures(log_probability: Floats, label: Ints) -> dict[str, float]:
    """What is told of all classes together; areas only where every class has an image."""
    found = {
        "accuracy": float(accuracy_score(label, log_probability.argmax(axis=1))),
        "log_loss": log_loss(log_probability, label),
        "brier": float(brier_scores(log_probability, label).mean()),
        "expected_calibration_error": expected_calibration_error(log_probability, label),
        "roc_auc": roc_auc_score_of(log_probability, label),
        "average_precision": average_precision(log_probability, label),
    }
    return {name: value for name, value in found.items() if value is not None}


def summary(
    log_probability: Floats, label: Ints, classes: Sequence[str], decimals: int
) -> dict[str, Any]:
    """All figures of one model on one subset, rounded to `decimals`, ready for JSON."""
    precision, recall, f1, support = precision_recall_fscore_support(
        label, log_probability.argmax(axis=1), labels=range(len(classes)), zero_division=0.0
    )
    wrong = support - np.diag(confusion(log_probability, label))
    told = figures(log_probability, label)
    return {
        **{name: round(value, decimals) for name, value in told.items()},
        "images": len(label),
        "misclassified": int(wrong.sum()),
        "per_class": {
            name: {
                "precision": round(float(precision[i]), decimals),
                "recall": round(float(recall[i]), decimals),
                "f1": round(float(f1[i]), decimals),
                "images": int(support[i]),
                "misclassified": int(wrong[i]),
            }
            for i, name in enumerate(classes)
        },
    }
