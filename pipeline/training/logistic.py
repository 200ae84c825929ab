"""Fit a logistic regression on features, as a head of one layer.

Features are read in blocks, from memory or from disk, with the same bytes as the result: once for
each value of the loss and its gradient, in all folds of the cross-validation together. L-BFGS takes
few steps, in coordinates in which the loss curves about equally in every direction.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
import threadpoolctl
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from pipeline.runtime.errors import UserError
from pipeline.runtime.parallel import in_order
from pipeline.training.head import FloatArray, Head

# Candidates of cross-validation: half-decades where pooled features of thousands of images do best.
STRENGTHS = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
FOLDS = 3
FOLD_ITERATIONS = 15  # at most, for each strength: it starts from the solution of the previous one
BLOCK = 2_048  # examples at a time, about
TOLERANCE, FOLD_TOLERANCE = 1e-5, 3e-4  # of the gradient, in the coordinates of L-BFGS
SAMPLE = 8_192  # examples, about, whose covariance gives the coordinates
MOST_FEATURES = 4_096  # beyond, the coordinates are the standardized features

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Blocks = Callable[[], Iterable[FloatArray]]
NO_FOLD = -1


class Logistic(NamedTuple):
    """A fitted logistic regression."""

    head: Head
    iterations: int
    inverse_regularization: float  # scikit-learn's C


def fit(
    features: FloatArray | Blocks,
    label: Ints,
    n_classes: int,
    *,
    inverse_regularization: float | None,
    max_iterations: int,
) -> Logistic:
    """Fit a multinomial logistic regression on standardized features.

    Every view is an example of its image's label; all views of an image weigh as much as one
    example. The scaler is folded into the coefficients, so the head takes raw features.

    Args:
        features: float32 (n, views, d), overwritten; or a function that yields it, each time it is
            called, in parts of `images_in_a_block` images.
        label: int64 (n,), every class at least once.
        inverse_regularization: smaller is smoother; None for the one of `STRENGTHS` with the lowest
            log loss in cross-validation, which needs a class of two images (`UserError`).
    """
    with threadpoolctl.threadpool_limits(1, user_api="blas"):  # there is a thread per block
        examples = _Examples(features, label)
        if inverse_regularization is None:
            inverse_regularization = _cross_validated(examples, n_classes)
        fold = np.full(len(label), NO_FOLD)
        problem = _Problem(examples, fold, 1, n_classes)
        weights, iterations = problem.minimize(
            problem.start(), inverse_regularization, max_iterations, TOLERANCE
        )
    kernel, bias = weights[:-1, 0] / examples.spread[:, None], weights[-1, 0]
    bias = bias - examples.mean @ kernel
    if n_classes == 2:
        kernel = np.concatenate([np.zeros_like(kernel), kernel], axis=1)
        bias = np.concatenate([[0.0], bias])
    head = Head((kernel.astype(np.float32),), (bias.astype(np.float32),))
    return Logistic(head, iterations, inverse_regularization)


def images_in_a_block(views: int) -> int:
    """Return the number of images whose features are read together."""
    return max(1, BLOCK // views)


def folds(label: Ints) -> Ints:
    """Return the fold, below `FOLDS`, that holds out each image; -1 for the only one of its class.

    The images of a class are assigned in turn, so folds differ by at most one image of a class.
    """
    order = np.lexsort((np.random.default_rng(0).permutation(len(label)), label))
    fold = np.empty(len(label), np.int64)
    fold[order] = np.arange(len(label)) % FOLDS
    fold[np.bincount(label)[label] == 1] = NO_FOLD
    return fold


def _cross_validated(examples: "_Examples", n_classes: int) -> float:
    """Walk up `STRENGTHS` until two in a row are no better than the best; return that one."""
    fold = folds(examples.label)
    if (fold == NO_FOLD).all():
        raise UserError(
            "train_head.inverse_regularization: expected a number, since no class has two train "
            "images to cross-validate with, got null; set it"
        )
    problem = _Problem(examples, fold, FOLDS, n_classes)
    weights, held_out = problem.start(), list[float]()
    for strength in STRENGTHS:
        weights, _ = problem.minimize(weights, strength, FOLD_ITERATIONS, FOLD_TOLERANCE)
        held_out.append(problem.loss_and_gradient(weights)[2])
        if int(np.argmin(held_out)) == len(held_out) - 3:
            break
    return STRENGTHS[int(np.argmin(held_out))]


class _Examples:
    """Standardized features in blocks of examples, float32 (k, d), and the label of each image.

    Features in memory are overwritten, so that they are there once.
    """

    def __init__(self, features: FloatArray | Blocks, label: Ints) -> None:
        self.label, self.count = label, 0
        total: Doubles | float = 0.0
        self._features, self._standardized = features, False
        for block in self._blocks():
            self.count += len(block)
            total = total + block.sum(axis=0, dtype=np.float64)
        self.views = self.count // len(label)
        mean, squares = np.asarray(total / self.count), np.zeros(np.shape(total))
        step, sample = max(1, self.count // SAMPLE), []
        for number, block in enumerate(self._blocks()):
            squares += np.square(block - mean).sum(axis=0)
            sample += [block[number % step :: step].copy()] if len(mean) <= MOST_FEATURES else []
        spread = np.sqrt(squares / self.count).astype(np.float32)
        spread[spread == 0] = 1
        self.mean, self.spread = mean.astype(np.float32), spread
        self.covariance: Doubles | None = None  # (d, d), of a sample
        if sample:
            some = (np.concatenate(sample) - self.mean) / self.spread
            self.covariance = (some.T @ some).astype(np.float64) / len(some)
        if isinstance(features, np.ndarray):
            features -= self.mean
            features /= self.spread
            self._standardized = True

    def _blocks(self) -> Iterator[FloatArray]:
        features = self._features
        if isinstance(features, np.ndarray):
            step = images_in_a_block(features.shape[1])
            parts: Iterable[FloatArray] = (
                features[at : at + step] for at in range(0, len(features), step)
            )
        else:
            parts = features()
        return (part.reshape(-1, part.shape[-1]) for part in parts)

    def numbered(self) -> Iterator[tuple[FloatArray, Ints]]:
        """Yield examples and the place of their images."""
        at = 0
        for block in self._blocks():
            places = np.arange(at, at + len(block)) // self.views
            at += len(block)
            yield block, places

    def standardized(self, block: FloatArray) -> FloatArray:
        """Return what `numbered` yields with mean 0 and variance 1."""
        return block if self._standardized else (block - self.mean) / self.spread


class _Problem:
    """The losses of several regressions, number f without the images of fold f, added up.

    Weights are float64 (d + 1, fits, outputs), the biases last. There is one output for two
    classes, as the logit of class 0 is 0. Penalty and strength are scikit-learn's.
    """

    def __init__(self, examples: _Examples, fold: Ints, fits: int, n_classes: int) -> None:
        self.examples, self.fold, self.fits = examples, fold, fits
        self.outputs = 1 if n_classes == 2 else n_classes
        part = np.bincount(examples.label, minlength=n_classes) / len(examples.label)
        self.curvature = float((part * (1 - part)).mean())  # of the loss of one example, at 0

    def start(self) -> Doubles:
        """Return weights of 0."""
        return np.zeros((len(self.examples.mean) + 1, self.fits, self.outputs))

    def minimize(
        self, start: Doubles, strength: float, most: int, tolerance: float
    ) -> tuple[Doubles, int]:
        """Return the weights with the lowest loss, found from `start`, and the iterations."""
        penalty = self.examples.views / strength / self.examples.count
        turned = _Coordinates(self.examples.covariance, self.curvature, penalty)

        def value(coordinates: Doubles) -> tuple[float, Doubles]:
            weights = turned.weights(coordinates.reshape(len(start), -1)).reshape(start.shape)
            loss, gradient, _ = self.loss_and_gradient(weights)
            loss += penalty / 2 * float(np.square(weights[:-1]).sum())
            gradient[:-1] += penalty * weights[:-1]
            return loss, turned.gradient(gradient.reshape(len(start), -1)).ravel()

        found = scipy.optimize.minimize(
            value,
            turned.coordinates(start.reshape(len(start), -1)).ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": most, "gtol": tolerance, "ftol": 1e-10, "maxcor": 20},
        )
        weights = turned.weights(found.x.reshape(len(start), -1)).reshape(start.shape)
        return weights, int(found.nit)

    def loss_and_gradient(self, weights: Doubles) -> tuple[float, Doubles, float]:
        """Return loss and gradient without penalty, and the loss of the images held out."""
        flat = weights.reshape(len(weights), -1).astype(np.float32)

        def of_block(block: tuple[FloatArray, Ints]) -> tuple[float, float, FloatArray, Doubles]:
            examples, places = self.examples.standardized(block[0]), block[1]
            label = self.examples.label[places]
            logits = examples @ flat[:-1] + flat[-1]
            loss, rest = _losses(logits.reshape(len(label), self.fits, -1), label)
            left_out = self.fold[places][:, None] == np.arange(self.fits)
            rest[left_out] = 0
            flat_rest = np.ascontiguousarray(rest.reshape(len(label), -1).T)
            losses = float(loss[~left_out].sum()), float(loss[left_out].sum())
            return *losses, flat_rest @ examples, flat_rest.sum(axis=1, dtype=np.float64)

        gradient, loss, held_out = np.zeros(flat.shape), 0.0, 0.0
        for inside, outside, kernel, bias in in_order(of_block, self.examples.numbered()):
            loss += inside
            held_out += outside
            gradient[:-1] += kernel.T
            gradient[-1] += bias
        count = self.examples.count
        return loss / count, gradient.reshape(weights.shape) / count, held_out / count


def _losses(logits: FloatArray, label: Ints) -> tuple[Doubles, FloatArray]:
    """Return the loss of each example in each fit, and its derivative by the logits."""
    if logits.shape[2] == 1:
        value, truth = logits[:, :, 0].astype(np.float64), label[:, None]
        rest = (expit(value) - truth)[:, :, None].astype(np.float32)
        return np.logaddexp(0, value) - truth * value, rest
    every, value = np.arange(len(label)), logits.astype(np.float64)
    logarithm = value - logsumexp(value, axis=2, keepdims=True)
    probability = np.exp(logarithm)
    probability[every, :, label] -= 1
    return -logarithm[every, :, label], probability.astype(np.float32)


class _Coordinates:
    """A linear map from coordinates to weights, (d + 1, k) both: the loss curves by about 1.

    `curvature` is that of the loss without penalty, for features of variance 1.
    """

    def __init__(self, covariance: Doubles | None, curvature: float, penalty: float) -> None:
        self.bias = np.sqrt(curvature)
        if covariance is None:
            self.scale, self.factor = np.sqrt(curvature + penalty), None
            return
        curved = curvature * covariance + penalty * np.eye(len(covariance))
        self.factor = scipy.linalg.cholesky(curved, lower=True)

    def weights(self, coordinates: Doubles) -> Doubles:
        """Return the weights at some coordinates."""
        return self._divided(coordinates, "T")

    def gradient(self, gradient: Doubles) -> Doubles:
        """Return the gradient by the coordinates, from that by the weights."""
        return self._divided(gradient, "N")

    def coordinates(self, weights: Doubles) -> Doubles:
        """Return the coordinates of some weights."""
        kernel = weights[:-1]
        kernel = kernel * self.scale if self.factor is None else self.factor.T @ kernel
        return np.concatenate([kernel, weights[-1:] * self.bias])

    def _divided(self, values: Doubles, transposed: str) -> Doubles:
        kernel = values[:-1]
        if self.factor is None:
            kernel = kernel / self.scale
        else:
            kernel = scipy.linalg.solve_triangular(
                self.factor, kernel, trans=transposed, lower=True
            )
        return np.concatenate([kernel, values[-1:] / self.bias])
