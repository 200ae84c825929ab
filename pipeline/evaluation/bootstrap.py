"""95 % confidence intervals of metrics, given the images they are measured on.

Wilson's interval for proportions; for other metrics the bootstrap, corrected for bias and skewness
(BCa): B. Efron and R. Tibshirani, "An Introduction to the Bootstrap" (1993), section 14.3.
A resample is represented by weights: how often each image is drawn.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

RESAMPLES = 2_000
CONFIDENCE = 0.95
GROUPS = 200  # of images; the jackknife leaves out one group at a time
BLOCK = 2**17  # weights in memory at a time
CONSTANT = 1e-12  # resamples of a metric that differ by no more differ by rounding only

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    value: float
    low: float  # NaN, as `high` is, if there is no interval
    high: float


@cache
def wilson(count: int, total: int) -> Interval:
    """Return the proportion `count / total` with its score interval; 0 to 1 if `total` is 0."""
    if not total:
        return Interval(0.0, 0.0, 1.0)
    share, z = count / total, float(ndtri((1 + CONFIDENCE) / 2))
    center = (2 * total * share + z**2) / (2 * (total + z**2))
    half = z / (2 * (total + z**2)) * np.sqrt(4 * total * share * (1 - share) + z**2)
    low = 0.0 if count == 0 else center - half
    high = 1.0 if count == total else center + half
    return Interval(share, float(low), float(high))


def weights(images: int) -> Iterator[Floats]:
    """Yield weights in blocks, float64 (rows, images): `RESAMPLES` resamples, then the jackknife.

    That leaves out each group of images once: one image, or every GROUPS-th; never the only image.
    """
    rng = np.random.default_rng(0)
    step = max(1, BLOCK // images)
    for start in range(0, RESAMPLES, step):
        resamples = min(step, RESAMPLES - start)
        drawn = rng.integers(images, size=(resamples, images))
        drawn += np.arange(resamples)[:, None] * images
        counts = np.bincount(drawn.ravel(), minlength=resamples * images)
        yield counts.reshape(resamples, images).astype(np.float64)
    groups = min(images, GROUPS)
    for start in range(0, groups, step):
        block = np.arange(start, min(start + step, groups))
        kept = (np.arange(images) % groups != block[:, None]) | (images == 1)
        yield kept.astype(np.float64)


def varies(samples: Floats) -> bool:
    """Return whether half of the resamples define a metric, and not all by the same value.

    Otherwise they say nothing about how far from its true value the metric is.
    """
    resampled = samples[:RESAMPLES]
    defined = resampled[~np.isnan(resampled)]
    return 2 * len(defined) >= RESAMPLES and bool(np.ptp(defined) > CONSTANT)


def bca_interval(value: float, samples: Floats) -> Interval:
    """Return the BCa interval from a metric's samples, (rows,), by row of weights; skip NaN.

    At least one resample has to define the metric.
    """
    resampled, jackknife = (part[~np.isnan(part)] for part in np.split(samples, [RESAMPLES]))
    below = ((resampled < value).sum() + (resampled == value).sum() / 2) / len(resampled)
    least = 0.5 / len(resampled)
    bias = ndtri(np.clip(below, least, 1 - least))
    deviation = jackknife.mean() - jackknife if len(jackknife) else jackknife
    squares = (deviation**2).sum()
    skew = (deviation**3).sum() / (6 * squares**1.5) if squares else 0.0
    z = bias + ndtri([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(resampled, ndtr(bias + z / np.maximum(1 - skew * z, 1e-3)))
    return Interval(value, float(low), float(high))


def symmetric_interval(value: float, samples: Floats) -> Interval:
    """Return an interval cut at 0, for an error that resampling itself inflates."""
    half = float(ndtri((1 + CONFIDENCE) / 2) * np.nanstd(samples[:RESAMPLES]))
    return Interval(value, max(0.0, value - half), value + half)


def mean_interval(values: NDArray[np.floating]) -> Interval:
    """Return the mean of one value per image, (n,); of two models' differences it is paired."""
    blocks = [weight @ values / weight.sum(axis=1) for weight in weights(len(values))]
    return bca_interval(float(values.mean()), np.concatenate(blocks))
