"""The classifier on top of features: dense layers as plain arrays, no Keras.

A head is a stack of kernels and biases with relu between them; its outputs are logits, one a class.
A head with a single output is one of two classes: the output is the logit of class 1, that of class
0 is 0. A logistic regression is a head of one layer. Stored as npz, never a pickle.

scikit-learn takes half a second to import, so only what fits does it.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.probabilities import log_softmax, mean_log_probability
from pipeline.runtime.errors import UserError, of_the_machine
from pipeline.training import npz

FloatArray = NDArray[np.float32]

# What cross-validation tries: half-decades where pooled features of thousands of images do best.
STRENGTHS = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
FOLDS = 3
FOLD_ITERATIONS = 15  # at most, for each strength: it starts from the solution of the one before


@dataclass(frozen=True)
class Head:
    """Dense layers.

    Attributes:
        kernels: float32, shapes (d, h1), (h1, h2), ..., (hk, n_classes), the last one (hk, 1) for
            two classes and one sigmoid output.
        biases: float32, shapes (h1,), (h2,), ..., (n_classes,) or (1,).
    """

    kernels: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(array.size for array in self.kernels + self.biases)

    def require(self, n_features: int, n_classes: int) -> None:
        """Refuse to go on with a head that was trained on something else.

        Raises:
            UserError: it takes another number of features, or knows another number of classes.
        """
        own_features, own_classes = self.kernels[0].shape[0], max(2, len(self.biases[-1]))
        if (own_features, own_classes) != (n_features, n_classes):
            raise UserError(
                f"head: expected one on {n_features:,} features for {n_classes} classes, got one "
                f"on {own_features:,} for {own_classes}; run `dvc repro train_head` again"
            )

    def logits(self, features: NDArray[Any]) -> FloatArray:
        """Features (n, d) to logits (n, n_classes), float32.

        A single output z gives [0, z], since softmax([0, z]) = [1 - sigmoid(z), sigmoid(z)].
        """
        x = features.astype(np.float32, copy=False)
        for kernel, bias in zip(self.kernels[:-1], self.biases[:-1], strict=True):
            x = np.maximum(x @ kernel + bias, 0)
        x = x @ self.kernels[-1] + self.biases[-1]
        if x.shape[1] == 1:
            x = np.concatenate([np.zeros_like(x), x], axis=1)
        return np.asarray(x, dtype=np.float32)

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
        arrays = npz.read(path)
        layers = range(max(1, len(arrays) // 2))
        if arrays.keys() != {f"{kind}_{i}" for i in layers for kind in ("kernel", "bias")}:
            raise ValueError(f"{', '.join(arrays) or 'none'} in place of kernel_0, bias_0, ...")
        kernels = tuple(arrays[f"kernel_{i}"] for i in layers)
        biases = tuple(arrays[f"bias_{i}"] for i in layers)
    except Exception as error:  # numpy, zipfile and zlib trip over damage in a dozen ways
        if of_the_machine(error, path):
            raise
        raise UserError(
            f"{path}: expected the arrays of a head, got {error}; run `dvc repro train_head` again"
        ) from None
    inputs = [kernel.shape[:1] for kernel in kernels[1:]] + [biases[-1].shape]
    for kernel, bias, following in zip(kernels, biases, inputs, strict=True):
        if kernel.ndim != 2 or not bias.shape == kernel.shape[1:] == following or 0 in kernel.shape:
            raise UserError(
                f"{path}: expected layers that fit each other, got a kernel {kernel.shape} with a "
                f"bias {bias.shape}; run `dvc repro train_head` again"
            )
    if {array.dtype for array in kernels + biases} != {np.dtype(np.float32)}:
        raise UserError(
            f"{path}: expected arrays of float32, got others; run `dvc repro train_head` again"
        )
    return Head(kernels, biases)


def predictions(
    batches: Iterable[NDArray[Any]], views: int, logits: Callable[[NDArray[Any]], FloatArray]
) -> Iterator[FloatArray]:
    """Log-probabilities (n, n_classes) of batches (n, views or more, ...), averaged over views."""
    for batch in batches:
        yield mean_log_probability([logits(batch[:, view]) for view in range(views)])


def loss_and_accuracy(logits: NDArray[Any], label: NDArray[np.int64]) -> tuple[float, float]:
    """Mean negative log likelihood in nats, and the fraction whose largest logit is the label's."""
    chosen = log_softmax(logits)[np.arange(len(label)), label]
    return float(-chosen.mean(dtype=np.float64)), float((logits.argmax(axis=1) == label).mean())


def fold_batch_norm(
    kernel: NDArray[Any],
    bias: NDArray[Any],
    gamma: NDArray[Any],
    beta: NDArray[Any],
    mean: NDArray[Any],
    variance: NDArray[Any],
    epsilon: float,
) -> tuple[FloatArray, FloatArray]:
    """Fold the batch norm of a dense layer's linear output into the layer, for inference.

    Args:
        kernel: (d, h).
        bias: (h,), as are the arrays of the batch norm: gamma, beta, moving mean and variance.

    Returns:
        Kernel and bias of one dense layer with the output of both, computed in float64.
    """
    scale = np.asarray(gamma, np.float64) / np.sqrt(np.asarray(variance, np.float64) + epsilon)
    shift = (np.asarray(bias, np.float64) - mean) * scale + beta
    return (kernel * scale).astype(np.float32), shift.astype(np.float32)


class Logistic(NamedTuple):
    """A fitted logistic regression: iterations that it took, and scikit-learn's C."""

    head: Head
    iterations: int
    inverse_regularization: float


def fit_logistic(
    features: FloatArray,
    label: NDArray[np.int64],
    n_classes: int,
    *,
    inverse_regularization: float | None,
    max_iterations: int,
) -> Logistic:
    """Fit a multinomial logistic regression on standardised features.

    Every view is an example of its image's label, and the views of an image weigh as much as one
    example. The scaler is folded into the coefficients, so the head takes features as they are.
    `features` is standardised in place, to hold them in memory only once.

    Args:
        features: float32 (n, views, d), contiguous; overwritten.
        label: int64 (n,), every class at least once.
        inverse_regularization: scikit-learn's C; smaller is smoother. None: the one of `STRENGTHS`
            with the lowest log loss in cross-validation, see `folds`.
        max_iterations: of L-BFGS.

    Raises:
        UserError: cross-validation without a class of two images.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    n, views, d = features.shape
    features = features.reshape(n * views, d)
    mean, spread = _mean_and_spread(features)
    features -= mean
    features /= spread
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if inverse_regularization is None:
            inverse_regularization = _cross_validated(features, label)
        model = LogisticRegression(C=inverse_regularization / views, max_iter=max_iterations)
        model.fit(features, np.repeat(label, views))
    kernel = _per_class(model.coef_, n_classes).astype(np.float64)
    bias = _per_class(model.intercept_[:, None], n_classes).astype(np.float64)[0]
    kernel /= spread[:, None]
    bias -= mean @ kernel
    head = Head((kernel.astype(np.float32),), (bias.astype(np.float32),))
    return Logistic(head, int(np.max(model.n_iter_)), inverse_regularization)


def folds(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold, below `FOLDS`, that holds out each image, the same every time; -1 is none.

    The images of a class are dealt out in turn: folds differ by at most one image of a class, and
    none holds out the whole class. The only image of a class is never held out.
    """
    order = np.lexsort((np.random.default_rng(0).permutation(len(label)), label))
    fold = np.empty(len(label), np.int64)
    fold[order] = np.arange(len(label)) % FOLDS
    fold[np.bincount(label)[label] == 1] = -1
    return fold


def _cross_validated(features: FloatArray, label: NDArray[np.int64]) -> float:
    """The strength with the lowest log loss on held-out images, of standardised features (rows, d).

    Walks up `STRENGTHS` until two in a row are no better than the best. Held-out rows weigh nothing
    in the fit, which saves a copy of the others.
    """
    from sklearn.linear_model import LogisticRegression

    fold = folds(label)
    if (fold == -1).all():
        raise UserError(
            "train_head.logistic.inverse_regularization: expected a number, since no class has two "
            "train images to cross-validate with, got null; set it"
        )
    views = len(features) // len(label)
    fold, label = np.repeat(fold, views), np.repeat(label, views)
    models = [LogisticRegression(warm_start=True, max_iter=FOLD_ITERATIONS) for _ in range(FOLDS)]
    losses: list[float] = []
    for strength in STRENGTHS:
        losses.append(0)
        for number, model in enumerate(models):
            held_out = fold == number
            model.set_params(C=strength / views)
            model.fit(features, label, sample_weight=(~held_out).astype(np.float32))
            logits = Head((model.coef_.T,), (model.intercept_,)).logits(features)[held_out]
            chosen = log_softmax(logits)[np.arange(len(logits)), label[held_out]]
            losses[-1] -= float(chosen.sum(dtype=np.float64))
        if int(np.argmin(losses)) == len(losses) - 3:
            break
    return STRENGTHS[int(np.argmin(losses))]


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
