"""What is wrong with the data itself, seen in the features of a trained network. Pure.

`features` are float32 (n, d), `label` is int (n,), `log_probability` float (n, n_classes).
"""

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from pipeline.evaluation.losses import Floats, Ints

FOLDS = 5
NEVER = -30.0  # logarithm of the probability of a class that a model has not seen
NEIGHBOURS = 10
BLOCK = 2**23  # similarities held at a time
# Seen on 8,000 photos of cats and dogs: of their mirror images, as MobileNetV2 sees them, all but 3
# lie below; of all pairs of photos one, of the same dog in the same room.
ALIKE = 0.5
BLANK, DARK = 8.0, 30.0  # grey levels: of the spread, of the mean from black and white
BLURRED = 16.0  # grey levels, squared: of the Laplacian; of these photos, at 224 px, 9 lie below

Features = NDArray[np.float32]
Predict = Callable[[Features], Floats]  # features to log-probabilities
Done = Callable[[int], object]


def out_of_fold(
    features: Features,
    label: Ints,
    group: Ints,
    held_out: NDArray[np.bool_],
    fit: Callable[[Features, Ints], Predict],
    done: Done = lambda images: None,
) -> Floats:
    """What models say of each image that were fitted without it, (n, n_classes).

    Images of one `group`, (n,), are never on both sides: a copy would vouch for its own label.
    Those `held_out`, (n,), such as test images, never fit a model, so that what is said of the
    others owes nothing to them. Of an image without others of its class nothing is known: each
    class is as likely as any.

    Args:
        fit: from features, which it may overwrite, and labels of some images to a function that
            predicts others; labels are numbered from 0 without a gap, and there are two at least.
        done: told how many images are through.
    """
    n_classes = int(label.max()) + 1
    found = np.full((len(label), n_classes), -np.log(n_classes), np.float32)
    for others, judged in _splits(label, group, held_out):
        known = np.unique(label[others])
        done(len(judged))
        judged = judged[np.isin(label[judged], known)]
        if len(known) < 2 or not len(judged):
            continue
        predict = fit(features[others], np.searchsorted(known, label[others]))
        found[judged] = NEVER
        found[np.ix_(judged, known)] = predict(features[judged])
    return found


def _splits(label: Ints, group: Ints, held_out: NDArray[np.bool_]) -> Iterator[tuple[Ints, Ints]]:
    """Rows that fit a model, and rows that it judges: each fold, and those held out from all."""
    inside, outside = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if len(outside):
        known = np.isin(group[inside], group[outside])  # copies of test images
        yield inside[~known], outside
    label, group = label[inside], group[inside]
    groups = [len(np.unique(group[label == index])) for index in np.unique(label)]
    count = min(FOLDS, max(groups, default=0), len(np.unique(group)))
    if count < 2:
        return
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer images than folds
        splits = list(folds.split(label, label, group))
    for others, judged in splits:
        yield inside[others], inside[judged]


class Suspicion(NamedTuple):
    """Of labels, (n,) each.

    Attributes:
        margin: logarithm of how much less probable the label is than the likeliest other class;
            the larger, the more suspicious.
        suggested: the likeliest other class.
        likely: whether confident learning takes the label for wrong.
    """

    margin: NDArray[np.float64]
    suggested: Ints
    likely: NDArray[np.bool_]


def suspicious_labels(
    log_probability: Floats, label: Ints, held_out: NDArray[np.bool_]
) -> Suspicion:
    """How suspicious each label is, from what models without the image say of it.

    What is usual for a label is told by images that are not `held_out`, (n,).

    Likely wrong is a label where another class is both the likeliest and as probable as it is,
    on average, for images labelled so: C. Northcutt, L. Jiang and I. Chuang, "Confident Learning"
    (2021), section 3.1. The package `cleanlab` does the same, and brings a data frame library;
    here it is a few lines.
    """
    rows = np.arange(len(label))
    others = log_probability.astype(np.float64)
    own = others[rows, label]
    others[rows, label] = -np.inf
    suggested = others.argmax(axis=1)
    probability = np.exp(log_probability.astype(np.float64))
    usual = np.array(
        [
            probability[of_class, index].mean() if of_class.any() else np.inf
            for index in range(log_probability.shape[1])
            for of_class in [(label == index) & ~held_out]
        ]
    )
    margin = others[rows, suggested] - own
    likely = (margin > 0) & (probability[rows, suggested] >= usual[suggested])
    return Suspicion(margin, suggested.astype(np.int64), likely)


class Neighbours(NamedTuple):
    """Of images, (n,) each.

    Attributes:
        isolation: how unlike all others it is: 1 minus the mean cosine of its `NEIGHBOURS` nearest.
        nearest: the image that is most like it.
        likeness: how far that one is, as a fraction of how far these neighbours are on average;
            below `ALIKE` two images may well be copies, whatever network the features are from.
    """

    isolation: NDArray[np.float64]
    nearest: Ints
    likeness: NDArray[np.float64]


def neighbours(features: Features, done: Done = lambda images: None) -> Neighbours:
    """Which images are like which, by the cosines of features about their mean.

    Time grows with the square of n; `done` is told how many images are through.
    """
    about = features - features.mean(axis=0)
    about /= np.maximum(np.linalg.norm(about, axis=1, keepdims=True), np.float32(1e-12))
    count = min(NEIGHBOURS, len(features) - 1)
    closest = np.empty((len(features), count))
    nearest = np.empty(len(features), np.int64)
    each = max(1, BLOCK // len(features))
    for start in range(0, len(features), each):
        alike = about[start : start + each] @ about.T
        rows = np.arange(len(alike))
        alike[rows, rows + start] = -np.inf  # not itself
        nearest[start : start + each] = alike.argmax(axis=1)
        alike.partition(alike.shape[1] - count, axis=1)
        closest[start : start + each] = alike[:, -count:]
        done(len(alike))
    isolation = 1 - closest.mean(axis=1)
    distance = np.maximum(1 - closest.max(axis=1), 0)
    return Neighbours(isolation, nearest, distance / np.maximum(isolation, 1e-6))


class Light(NamedTuple):
    """Of images' grey values, 0 to 255, (n,) each.

    Attributes:
        mean: how light it is.
        spread: standard deviation; near 0 the image is blank.
        sharpness: variance of the Laplacian, of J. Pech-Pacheco et al., "Diatom autofocusing in
            brightfield microscopy" (2000); near 0 the image is blurred.
    """

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    sharpness: NDArray[np.float64]


def light(images: NDArray[np.uint8]) -> Light:
    """Of images uint8 (n, size, size, 3), RGB."""
    grey = images @ np.array([0.299, 0.587, 0.114], np.float32)
    inner = grey[:, 1:-1, 1:-1]
    laplacian = (
        grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * inner
    )
    return Light(
        *(
            np.asarray(values, dtype=np.float64)
            for values in (
                grey.mean(axis=(1, 2)),
                grey.std(axis=(1, 2)),
                laplacian.var(axis=(1, 2)),
            )
        )
    )


def faults_of_light(found: Light) -> dict[str, NDArray[np.bool_]]:
    """Which images are blank, dark, light or blurred, each (n,)."""
    blank = found.spread < BLANK
    return {
        "blank": blank,
        "dark": (found.mean < DARK) & ~blank,
        "light": (found.mean > 255 - DARK) & ~blank,
        "blurred": (found.sharpness < BLURRED) & ~blank,
    }
