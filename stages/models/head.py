"""The classifier on top of features: dense layers as plain arrays, no Keras.

A head is a stack of kernels and biases with relu between them; its outputs are logits, one a class.
A logistic regression is a head of one layer. Stored as npz, never a pickle.
"""

import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from stages.errors import UserError

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """Dense layers.

    Attributes:
        kernels: float32, shapes (d, h1), (h1, h2), ..., (hk, n_classes).
        biases: float32, shapes (h1,), (h2,), ..., (n_classes,).
    """

    kernels: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]

    def logits(self, features: NDArray[Any]) -> FloatArray:
        """Features (n, d) to logits (n, n_classes), float32."""
        x = features.astype(np.float32, copy=False)
        for kernel, bias in zip(self.kernels[:-1], self.biases[:-1], strict=True):
            x = np.maximum(x @ kernel + bias, 0)
        return np.asarray(x @ self.kernels[-1] + self.biases[-1], dtype=np.float32)

    def save(self, path: Path) -> None:
        """Write `path`, an npz: kernel_0, bias_0, kernel_1, ... The same bytes every time."""
        arrays: dict[str, Any] = {}
        for number, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            arrays |= {f"kernel_{number}": kernel, f"bias_{number}": bias}
        np.savez(path, **arrays)


def load(path: Path) -> Head:
    """Read what `Head.save` wrote.

    Raises:
        UserError: not such a file.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            count = max(1, len(file.files) // 2)
            kernels = tuple(file[f"kernel_{i}"] for i in range(count))
            biases = tuple(file[f"bias_{i}"] for i in range(count))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: expected the arrays of a head, got {error}; run `dvc repro train_head` again"
        ) from None
    return Head(kernels, biases)


def log_softmax(logits: NDArray[Any]) -> FloatArray:
    """Logits (n, n_classes) to natural logarithms of probabilities, float32."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    normal = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.asarray(shifted - normal, dtype=np.float32)


def mean_log_probability(logits: Sequence[NDArray[Any]]) -> FloatArray:
    """Logits (n, n_classes) of several views to the logarithm of their mean probability, float32.

    log((p1 + ... + pk) / k) = logsumexp(log p1, ..., log pk) - log k, so that nothing underflows.
    """
    log_probability = [log_softmax(view) for view in logits]
    if len(log_probability) == 1:
        return log_probability[0]
    total = np.logaddexp.reduce(np.stack(log_probability).astype(np.float64))
    return np.asarray(total - np.log(len(log_probability)), dtype=np.float32)


def loss_and_accuracy(logits: NDArray[Any], label: NDArray[np.int64]) -> tuple[float, float]:
    """Mean negative log likelihood in nats, and the fraction whose largest logit is the label's."""
    chosen = log_softmax(logits)[np.arange(len(label)), label]
    return float(-chosen.mean(dtype=np.float64)), float((logits.argmax(axis=1) == label).mean())


def fit_logistic(
    features: FloatArray,
    label: NDArray[np.int64],
    n_classes: int,
    *,
    inverse_regularization: float,
    max_iterations: int,
) -> tuple[Head, int]:
    """Fit a multinomial logistic regression on standardised features.

    Every view is an example of its image's label, and the views of an image weigh as much as one
    example. The scaler is folded into the coefficients, so the head takes features as they are.
    `features` is standardised in place, to hold them in memory only once.

    Args:
        features: float32 (n, views, d), contiguous; overwritten.
        label: int64 (n,), every class at least once.
        inverse_regularization: scikit-learn's C; smaller is smoother.
        max_iterations: of L-BFGS.

    Returns:
        The head, and how many iterations it took.
    """
    n, views, d = features.shape
    features = features.reshape(n * views, d)
    mean, spread = _mean_and_spread(features)
    features -= mean
    features /= spread
    model = LogisticRegression(C=inverse_regularization / views, max_iter=max_iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, np.repeat(label, views))
    kernel = _per_class(model.coef_, n_classes).astype(np.float64)
    bias = _per_class(model.intercept_[:, None], n_classes).astype(np.float64)[0]
    kernel /= spread[:, None]
    bias -= mean @ kernel
    head = Head((kernel.astype(np.float32),), (bias.astype(np.float32),))
    return head, int(np.max(model.n_iter_))


def _mean_and_spread(features: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each column, float32 (d,); a spread of 0 is given as 1.

    In blocks of rows, since a float64 copy of all of `features` would be the largest array here.
    """
    blocks = range(0, len(features), 4096)
    total = sum(features[at : at + 4096].sum(axis=0, dtype=np.float64) for at in blocks)
    mean = np.asarray(total / len(features), dtype=np.float64)
    squares = sum(np.square(features[at : at + 4096] - mean).sum(axis=0) for at in blocks)
    spread = np.sqrt(squares / len(features)).astype(np.float32)
    return mean.astype(np.float32), np.where(spread == 0, np.float32(1), spread)


def _per_class(coefficients: NDArray[Any], n_classes: int) -> NDArray[Any]:
    """scikit-learn's (n_classes or 1, d) to (d, n_classes); the first of two classes is 0."""
    if n_classes == 2:
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
    return coefficients.T
