"""Which images stand for what a model does: right and wrong ones, sure and unsure ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.losses import Floats, Ints

Bools = NDArray[np.bool_]
MOST_CLASSES = 6  # that have galleries of their own


def galleries(
    log_probability: Floats,
    label: Ints,
    rows: Ints,
    classes: Sequence[str],
    count: int,
    seed: int,
) -> dict[str, Ints]:
    """Choose images for each of these galleries; one without images is left out.

        right, wrong                          drawn at random
        surely right: C, surely wrong: C      of true class C, highest probability of what is said
        unsure                                highest entropy, also of images without a label

    Of more than `MOST_CLASSES` classes with images, C is one of those with the most wrong ones, of
    equal ones the first.

    Args:
        log_probability: float (n, n_classes), natural logarithms.
        label: int (n,), -1 for none.
        rows: int (m,), of the images to choose from, no row twice.
        classes: their names.
        count: of images in a gallery, at most.
        seed: of the draws.

    Returns:
        Rows, int (count or fewer,), by the gallery's name: drawn ones by row, others with the
        surest or least sure first, of equal ones the first row.
    """
    rows = np.sort(rows)
    given, true = log_probability[rows].astype(np.float64), label[rows]
    said, sure = given.argmax(axis=1), given.max(axis=1)
    right, wrong = said == true, (said != true) & (true >= 0)
    rng = np.random.default_rng(seed)

    def drawn(of: Bools) -> Ints:
        return np.sort(rng.permutation(rows[of])[:count])

    found = {"right": drawn(right), "wrong": drawn(wrong)}
    for index in _shown(true, wrong, len(classes)):
        for name, kind in (("surely right", right), ("surely wrong", wrong)):
            of = np.flatnonzero(kind & (true == index))
            found[f"{name}: {classes[index]}"] = rows[_highest(sure[of], of, count)]
    found["unsure"] = rows[_highest(entropy(given), np.arange(len(rows)), count)]
    return {name: chosen for name, chosen in found.items() if len(chosen)}


def entropy(log_probability: Floats) -> NDArray[np.float64]:
    """-sum p log p of each image, in nats, float64 (n,); 0 log 0 is 0."""
    log_probability = log_probability.astype(np.float64)
    finite = np.where(np.isneginf(log_probability), 0, log_probability)
    return np.asarray(-(np.exp(log_probability) * finite).sum(axis=1))


def _shown(true: Ints, wrong: Bools, n_classes: int) -> Ints:
    """The classes that have galleries of their own, in their order."""
    present = np.unique(true[true >= 0])
    mistakes = np.bincount(true[wrong], minlength=n_classes)[present]
    return np.sort(_highest(mistakes, present, MOST_CLASSES))


def _highest(value: NDArray[Any], of: Ints, count: int) -> Ints:
    """Those `of` the things whose values are highest, of equal ones the first."""
    return of[np.argsort(-value, kind="stable")[:count]]
