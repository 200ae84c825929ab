"""Fit a logistic regression on features, as a head of one layer.

scikit-learn takes half a second to import, so only the functions that fit import it.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.probabilities import log_softmax
from pipeline.runtime.errors import UserError
from pipeline.training.head import FloatArray, Head

# Candidates of cross-validation: half-decades where pooled features of thousands of images do best.
STRENGTHS = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
FOLDS = 3
FOLD_ITERATIONS = 15  # at most, for each strength: it starts from the solution of the previous one


class Logistic(NamedTuple):
    """A fitted logistic regression."""

    head: Head
    iterations: int
    inverse_regularization: float  # scikit-learn's C


def fit(
    features: FloatArray,
    label: NDArray[np.int64],
    n_classes: int,
    *,
    inverse_regularization: float | None,
    max_iterations: int,
) -> Logistic:
    """Fit a multinomial logistic regression on standardized features.

    Every view is an example of its image's label; all views of an image weigh as much as one
    example. The scaler is folded into the coefficients, so the head takes raw features.

    Args:
        features: float32 (n, views, d), contiguous; overwritten, to keep them in memory only once.
        label: int64 (n,), every class at least once.
        inverse_regularization: smaller is smoother; None for the one of `STRENGTHS` with the lowest
            log loss in cross-validation, which needs a class of two images (`UserError`).
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
    kernel = _per_class(model.coef_, n_classes)
    bias = _per_class(model.intercept_[:, None], n_classes)[0]
    kernel /= spread[:, None]
    bias -= mean @ kernel
    head = Head((kernel.astype(np.float32),), (bias.astype(np.float32),))
    return Logistic(head, int(np.max(model.n_iter_)), inverse_regularization)


def folds(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fold, below `FOLDS`, that holds out each image; -1 for the only one of its class.

    The images of a class are assigned in turn, so folds differ by at most one image of a class.
    """
    order = np.lexsort((np.random.default_rng(0).permutation(len(label)), label))
    fold = np.empty(len(label), np.int64)
    fold[order] = np.arange(len(label)) % FOLDS
    fold[np.bincount(label)[label] == 1] = -1
    return fold


def _cross_validated(features: FloatArray, label: NDArray[np.int64]) -> float:
    """Walk up `STRENGTHS` until two in a row are no better than the best; return that one."""
    from sklearn.linear_model import LogisticRegression

    fold = folds(label)
    if (fold == -1).all():
        raise UserError(
            "train_head.inverse_regularization: expected a number, since no class has two train "
            "images to cross-validate with, got null; set it"
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
            weight = (~held_out).astype(np.float32)  # rather than a copy of the other rows
            model.fit(features, label, sample_weight=weight)
            logits = Head((model.coef_.T,), (model.intercept_,)).logits(features)[held_out]
            chosen = log_softmax(logits)[np.arange(len(logits)), label[held_out]]
            losses[-1] -= float(chosen.sum(dtype=np.float64))
        if int(np.argmin(losses)) == len(losses) - 3:
            break
    return STRENGTHS[int(np.argmin(losses))]


def _mean_and_spread(features: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of each column, float32 (d,); 1 for a deviation of 0."""
    blocks = range(0, len(features), 4096)  # a float64 copy of all would be the largest array here
    total = sum(features[at : at + 4096].sum(axis=0, dtype=np.float64) for at in blocks)
    mean = np.asarray(total / len(features), dtype=np.float64)
    squares = sum(np.square(features[at : at + 4096] - mean).sum(axis=0) for at in blocks)
    spread = np.sqrt(squares / len(features)).astype(np.float32)
    return mean.astype(np.float32), np.where(spread == 0, np.float32(1), spread)


def _per_class(coefficients: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
    """Turn scikit-learn's (n_classes or 1, d) into (d, n_classes); the first of two is 0."""
    if n_classes == 2:
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
    return coefficients.T.astype(np.float64)
