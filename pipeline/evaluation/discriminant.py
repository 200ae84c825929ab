"""Fit linear discriminant analysis: one linear solve, however many classes.

One Gaussian per class, all with one covariance. Few images do not determine it, so it is shrunk
towards the same variance in each direction: Y. Chen et al., "Shrinkage Algorithms for MMSE
Covariance Estimation" (2010), equation 23 (OAS).
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.evaluation.probabilities import Floats, Ints, log_softmax

Features = NDArray[np.float32]


def fit(features: Features, label: Ints) -> Callable[[Features], Floats]:
    """Return a function of features (m, d) to log-probabilities, float32 (m, n_classes).

    `features` are (n, d), and overwritten; `label` is (n,), every class from 0 on at least once.
    """
    (n, d), counts = features.shape, np.bincount(label)
    center, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread == 0] = 1
    features -= center
    features /= spread
    of_class = csr_array((np.ones(n, np.float32), label, np.arange(n + 1)))
    means = (of_class.T @ features) / counts[:, None].astype(np.float32)  # (n_classes, d)
    covariance = features.T @ features
    free = n - len(counts)
    if free:  # otherwise there is one image a class, and only the covariance of the classes
        weighted = means * np.sqrt(counts, dtype=np.float32)[:, None]
        covariance -= weighted.T @ weighted
    covariance = covariance.astype(np.float64) / max(1, free)
    shrinkage, variance = _shrinkage(covariance, max(1, free))
    covariance *= 1 - shrinkage
    covariance[np.diag_indices(d)] += shrinkage * variance
    kernel = scipy.linalg.solve(covariance, means.T.astype(np.float64), assume_a="pos")
    bias = np.log(counts / n) - (means.T * kernel).sum(axis=0) / 2
    kernel /= spread[:, None]
    bias -= center @ kernel
    weights = kernel.astype(np.float32), bias.astype(np.float32)
    return lambda others: log_softmax(others @ weights[0] + weights[1])


def _shrinkage(covariance: NDArray[np.float64], free: int) -> tuple[float, float]:
    """Return the weight of the mean variance, above 0 to 1, and that variance, by `free` images."""
    d = len(covariance)
    variance = float(np.trace(covariance)) / d
    if variance <= 0:
        return 1.0, 1.0
    square = float(np.square(covariance).mean())
    excess = (free + 1) * (square - variance**2 / d)
    return (1.0 if excess <= 0 else min(1.0, (square + variance**2) / excess)), variance
