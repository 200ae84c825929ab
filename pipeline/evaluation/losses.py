"""What each image costs: pure functions of log-probabilities and labels.

Throughout, `log_probability` is float (n, n_classes), natural logarithms; `label` is int (n,), an
index into the classes.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]


class Scored(NamedTuple):
    """One subset: log-probabilities (n, n_classes) by model, and labels (n,)."""

    predictions: dict[str, Floats]
    label: Ints


def log_loss(log_probability: Floats, label: Ints) -> float:
    """Mean negative log likelihood of the labels, in nats; nothing is clipped."""
    return float(losses(log_probability, label).mean())


def losses(log_probability: Floats, label: Ints) -> NDArray[np.float64]:
    """Negative log likelihood of each label, in nats, float64 (n,)."""
    return -log_probability[np.arange(len(label)), label].astype(np.float64)


def brier_scores(log_probability: Floats, label: Ints) -> NDArray[np.float64]:
    """Squared error of each image's probabilities, float64 (n,): summed over the classes.

    For two classes it is that of the second alone, half the sum, as in scikit-learn.
    """
    off = np.exp(log_probability.astype(np.float64))
    off[np.arange(len(label)), label] -= 1
    squares = np.square(off).sum(axis=1)
    return np.asarray(squares / 2 if log_probability.shape[1] == 2 else squares)
