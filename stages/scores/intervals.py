"""How far a figure may be off by the luck of the images it was measured on."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
BLOCK = 2**22  # numbers drawn at a time


class Interval(NamedTuple):
    """A mean, and the bounds of its interval of 95 %."""

    mean: float
    low: float
    high: float


def bootstrap(values: NDArray[np.floating], seed: int = 0) -> Interval:
    """The mean of one value an image, (n,), and its percentile bootstrap interval of 95 %.

    Given the differences of two models on the same images it is a paired interval. B. Efron and
    R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    rng = np.random.default_rng(seed)
    each = max(1, BLOCK // len(values))
    means = [
        values[rng.integers(len(values), size=(min(each, RESAMPLES - at), len(values)))].mean(
            axis=1
        )
        for at in range(0, RESAMPLES, each)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))
