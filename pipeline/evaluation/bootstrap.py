"""How far a figure may be off by the luck of the images it was measured on: intervals of 95 %.

Wilson's for proportions; for all other figures the bootstrap, corrected for bias and skewness
(BCa): B. Efron and R. Tibshirani, "An Introduction to the Bootstrap" (1993), section 14.3.
Resamples stand here as weights: how often each image is drawn.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

RESAMPLES = 2_000
CONFIDENCE = 0.95
GROUPS = 200  # of images, of which the jackknife leaves out one at a time
BLOCK = 2**17  # weights held at a time

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A figure, and the bounds of its interval."""

    value: float
    low: float
    high: float

    @property
    def spans_zero(self) -> bool:
        return self.low <= 0 <= self.high


def wilson(count: int, total: int) -> Interval:
    """The share `count / total` and its score interval; of no image, all of 0 to 1.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (1927).
    """
    if not total:
        return Interval(0.0, 0.0, 1.0)
    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    share = count / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * ((share * (1 - share) + z * z / (4 * total)) / total) ** 0.5
    low = 0.0 if count == 0 else middle - half  # these are exact, but for the last bits
    high = 1.0 if count == total else middle + half
    return Interval(share, low, high)


def weights(images: int, seed: int = 0) -> Iterator[Floats]:
    """`RESAMPLES` resamples of so many images, in blocks of float64 (resamples, images).

    The same ones for the same number and seed, whatever the block.
    """
    rng = np.random.default_rng(seed)
    each = max(1, BLOCK // images)
    for at in range(0, RESAMPLES, each):
        resamples = min(each, RESAMPLES - at)
        drawn = rng.integers(images, size=(resamples, images))
        drawn += np.arange(resamples)[:, None] * images
        counts = np.bincount(drawn.ravel(), minlength=resamples * images)
        yield counts.reshape(resamples, images).astype(np.float64)


def left_out(images: int) -> Iterator[Floats]:
    """For the jackknife: every image once but one group, in blocks of float64 (groups, images).

    A group is one image, or, of more than `GROUPS`, every so many-th. An only image is left in.
    """
    if images == 1:
        yield np.ones((1, 1))
        return
    groups, each = min(images, GROUPS), max(1, BLOCK // images)
    for first in range(0, groups, each):
        block = np.arange(first, min(first + each, groups))
        yield (np.arange(images) % groups != block[:, None]).astype(np.float64)


class Samples(NamedTuple):
    """A figure in every resample, (resamples,), and without each group, (groups,).

    NaN where it is not defined (a class was not drawn); that one does not count.
    """

    drawn: Floats
    without: Floats

    def minus(self, other: "Samples") -> "Samples":
        """Of the difference of two figures of the same images."""
        return Samples(self.drawn - other.drawn, self.without - other.without)

    def column(self, index: int) -> "Samples":
        return Samples(self.drawn[:, index], self.without[:, index])


def around(value: float, samples: Samples) -> Interval:
    """A figure, and its interval."""
    drawn = samples.drawn[~np.isnan(samples.drawn)]
    below = ((drawn < value).sum() + (drawn == value).sum() / 2) / len(drawn)
    least = 0.5 / len(drawn)
    bias = norm.ppf(np.clip(below, least, 1 - least))
    without = samples.without[~np.isnan(samples.without)]
    apart = without.mean() - without if len(without) else without
    squares = (apart**2).sum()
    skew = (apart**3).sum() / (6 * squares**1.5) if squares else 0.0
    z = bias + norm.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(drawn, norm.cdf(bias + z / np.maximum(1 - skew * z, 1e-3)))
    return Interval(value, float(low), float(high))


def symmetric(value: float, samples: Samples) -> Interval:
    """A figure that is never below 0, and as many standard errors to either side.

    For one that resampling itself makes larger, as the expected calibration error.
    """
    half = float(norm.ppf((1 + CONFIDENCE) / 2) * np.nanstd(samples.drawn))
    return Interval(value, max(0.0, value - half), value + half)


def bootstrap(values: NDArray[np.floating], seed: int = 0) -> Interval:
    """The mean of one value an image, (n,), and its interval.

    Given the differences of two models on the same images it is a paired interval.
    """
    drawn = [weight @ values / len(values) for weight in weights(len(values), seed)]
    without = [weight @ values / weight.sum(axis=1) for weight in left_out(len(values))]
    samples = Samples(np.concatenate(drawn), np.concatenate(without))
    return around(float(values.mean()), samples)
