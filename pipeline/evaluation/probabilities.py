"""Log-probabilities: softmax, mean over views, and log loss. Pure NumPy.

Throughout this package `log_probability` is float (n, n_classes), natural logarithms, and `label`
is int (n,), an index into the classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]
Names = Sequence[str]  # of classes, in order


def log_softmax(logits: NDArray[Any], dtype: type[np.floating[Any]] = np.float32) -> NDArray[Any]:
    """Return log-probabilities of logits (n, n_classes), computed in float64, as `dtype`."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype)


def mean_log_probability(logits: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Return the log of the mean probability over views, each with logits (n, n_classes); float32.

    log((p1 + ... + pk) / k) = logsumexp(log p1, ..., log pk) - log k, so nothing underflows.
    """
    views = [log_softmax(view) for view in logits]
    if len(views) == 1:
        return views[0]
    total = np.logaddexp.reduce(np.stack(views).astype(np.float64))
    return np.asarray(total - np.log(len(views)), dtype=np.float32)


def losses(log_probability: Floats, label: Ints) -> NDArray[np.float64]:
    """Return the negative log-likelihood of each label in nats, float64 (n,)."""
    return -log_probability[np.arange(len(label)), label].astype(np.float64)


def log_loss(log_probability: Floats, label: Ints) -> float:
    """Return the mean negative log-likelihood in nats; nothing is clipped."""
    return float(losses(log_probability, label).mean())
