"""How good predictions are: pure functions of log-probabilities and labels.

Throughout, `log_probability` is float (n, n_classes), natural logarithms; `label` is int (n,), an
index into the classes. Works for any number of classes from two on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]


def log_loss(log_probability: Floats, label: Ints) -> float:
    """Mean negative log likelihood of the labels, in nats; nothing is clipped."""
    chosen = log_probability[np.arange(len(label)), label]
    return float(-chosen.mean(dtype=np.float64))


def roc_auc_score_of(log_probability: Floats, label: Ints) -> float | None:
    """Area under the ROC curve, for more classes the mean of one against the rest.

    None where a class has no image, since it is not defined there.
    """
    n_classes = log_probability.shape[1]
    if len(np.unique(label)) < n_classes:
        return None
    if n_classes == 2:
        return float(roc_auc_score(label, score_of_second(log_probability)))
    columns = [
        roc_auc_score(label == index, log_probability[:, index]) for index in range(n_classes)
    ]
    return float(np.mean(columns))


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


def confusion(log_probability: Floats, label: Ints) -> Ints:
    """Counts, int64 (n_classes, n_classes): rows are true classes, columns predicted ones."""
    n_classes = log_probability.shape[1]
    counts = confusion_matrix(label, log_probability.argmax(axis=1), labels=range(n_classes))
    return np.asarray(counts, dtype=np.int64)


def summary(
    log_probability: Floats, label: Ints, classes: Sequence[str], decimals: int
) -> dict[str, Any]:
    """All figures of one model on one subset, rounded to `decimals`, ready for JSON."""
    guess = log_probability.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        label, guess, labels=range(len(classes)), zero_division=0.0
    )
    wrong = support - np.diag(confusion(log_probability, label))
    figures: dict[str, Any] = {
        "images": len(label),
        "accuracy": round(float(accuracy_score(label, guess)), decimals),
        "log_loss": round(log_loss(log_probability, label), decimals),
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
    auc = roc_auc_score_of(log_probability, label)
    if auc is not None:
        figures["roc_auc"] = round(auc, decimals)
    return figures
