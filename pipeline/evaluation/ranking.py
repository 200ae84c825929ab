"""Areas and curves of more than `MANY_CLASSES` classes, where scikit-learn takes minutes.

The areas are means over one class against the rest, and equal scikit-learn's. To resample them, an
area is replaced by its linear approximation in the weights of the images, so that a resample is one
sum: the infinitesimal jackknife, B. Efron, "The Jackknife, the Bootstrap and Other Resampling
Plans" (1982), chapter 6.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.probabilities import Floats, Ints

MANY_CLASSES = 30
POINTS = 1_000  # of a curve
AREAS = ("roc_auc", "average_precision")

Doubles = NDArray[np.float64]


class _Ranked(NamedTuple):
    """One class's images among all, ascending by score: (n_positives,) but for `rows`."""

    score: Floats
    rows: Ints  # of the class's images, ascending
    beaten: Doubles  # images of other classes with a lower score, ties counted half
    above: Ints  # images with the same or a higher score
    precision: Doubles  # share of the class among these


def areas(log_probability: Floats, label: Ints) -> dict[str, float]:
    """Return the areas under the ROC and the precision-recall curve; every class has an image."""
    found = [
        (one.beaten.mean() / (len(label) - len(one.rows)), one.precision.mean())
        for one in _ranked(log_probability, label)
    ]
    return dict(zip(AREAS, np.mean(found, axis=0).tolist(), strict=True))


def linearized_areas(log_probability: Floats, label: Ints) -> dict[str, Doubles]:
    """Return a value of each image, float64 (n,), by area; their weighted mean approximates it.

    NaN if a class has no image, or one, whose weight cannot show how much the area varies.
    """
    n, n_classes = log_probability.shape
    if np.bincount(label, minlength=n_classes).min() < 2:
        return {name: np.full(n, np.nan) for name in AREAS}
    values = np.zeros((len(AREAS), n))
    for number, one in enumerate(_ranked(log_probability, label)):
        positives, negatives = len(one.rows), n - len(one.rows)
        score = log_probability[:, number]
        lower, up_to = (np.searchsorted(one.score, score, side) for side in ("left", "right"))
        at = lower[one.rows]

        roc = one.beaten.mean() / negatives
        of_image = (1 - (lower + up_to) / (2 * positives) - roc) / negatives
        of_image[one.rows] = (one.beaten[at] / negatives - roc) / positives
        values[0] += roc + n * _unbiased(of_image, one.rows)

        precision = one.precision.mean()
        rises, falls = (np.r_[0, np.cumsum(of / one.above)] for of in (1, one.precision))
        of_image = -falls[up_to] / positives
        of_image[one.rows] += (one.precision[at] - precision + rises[up_to[one.rows]]) / positives
        values[1] += precision + n * _unbiased(of_image, one.rows)
    return dict(zip(AREAS, values / n_classes, strict=True))


def _unbiased(of_image: Doubles, rows: Ints) -> Doubles:
    """Spread the values of a class's images so that few of them do not vary too little.

    E. DeLong, D. DeLong and D. Clarke-Pearson, "Comparing the Areas under Two or More Correlated
    Receiver Operating Characteristic Curves" (1988).
    """
    mean = of_image[rows].mean()
    of_image[rows] = mean + (of_image[rows] - mean) * np.sqrt(len(rows) / (len(rows) - 1))
    return of_image


def curves(log_probability: Floats, label: Ints) -> dict[str, tuple[Doubles, Doubles]]:
    """Return x and y of the curves over all pairs of image and class, at `POINTS` of the labels."""
    every = np.sort(log_probability, axis=None)
    own = np.sort(log_probability[np.arange(len(label)), label])
    chosen = np.unique(np.linspace(len(own) - 1, 0, POINTS).round().astype(np.int64))[::-1]
    found = len(own) - np.searchsorted(own, own[chosen])
    above = len(every) - np.searchsorted(every, own[chosen])
    recall = found / len(own)
    false_rate = (above - found) / (len(every) - len(own))
    return {
        "roc": (np.r_[0, false_rate, 1], np.r_[0, recall, 1]),
        "precision_recall": (np.r_[0, recall], np.r_[1, found / above]),
    }


def _ranked(log_probability: Floats, label: Ints) -> Iterator[_Ranked]:
    """Yield each class's images among all."""
    counts = np.bincount(label, minlength=log_probability.shape[1])
    by_class = np.split(np.argsort(label, kind="stable"), np.cumsum(counts)[:-1])
    for column, rows in zip(log_probability.T, by_class, strict=True):
        every, score = np.sort(column), np.sort(column[rows])
        lower, up_to = (np.searchsorted(every, score, side) for side in ("left", "right"))
        own_lower, own_up_to = (np.searchsorted(score, score, side) for side in ("left", "right"))
        above = len(every) - lower
        yield _Ranked(
            score=score,
            rows=rows,
            beaten=(lower + up_to - own_lower - own_up_to) / 2,
            above=above,
            precision=(len(rows) - own_lower) / above,
        )
