"""Find likely label errors, outliers, near copies and badly exposed images. Pure functions.

`features` are float32 (n, d) from a trained network, `label` is int (n,), `log_probability` float
(n, n_classes). Only `calibrate` and `neighbors` change their input.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg
import threadpoolctl
from numpy.typing import NDArray

from pipeline.evaluation import calibration
from pipeline.evaluation.probabilities import Bools, Floats, Ints
from pipeline.runtime import environment
from pipeline.runtime.parallel import in_order
from pipeline.storage import array_views, ledger

FOLDS = 5
UNSEEN = -30.0  # log-probability of a class that a model was not trained on
CALIBRATED_ON = 2_000  # images
NEIGHBORS = 10
BLOCK = 2**23  # similarities in memory at a time
MANY_IMAGES = 25_000  # beyond, neighbors are searched among candidates
COMPONENTS, CANDIDATES = 128, 32  # principal components that these are nearest by; their number
VISITED, OF_A_CELL = 128, 16  # cells that candidates of an image come from; the most of each
CHUNK = 1_024  # images that are copied, or whose cells are searched, at a time
VISITORS = 128  # of a cell at a time, on average
ALIKE = 0.5  # with MobileNetV2, of 8,000 cats and dogs, all mirror images but 3 lie below
BLANK, DARK = 8.0, 30.0  # gray levels: standard deviation; mean's distance from black or white
BLURRED = 16.0  # variance of the Laplacian; of the same images, at 224 px, 9 lie below

Features = NDArray[np.float32]
Predict = Callable[[Features], Floats]  # features to log-probabilities


class LabelQuality(NamedTuple):  # (n,) each
    margin: NDArray[np.float64]  # log-probability of the likeliest other class minus the label's
    suggested: Ints  # the likeliest other class
    likely: Bools  # whether confident learning considers the label wrong


class Neighbors(NamedTuple):  # (n,) each
    isolation: NDArray[np.float64]  # 1 minus the mean cosine of the `NEIGHBORS` nearest images
    nearest: Ints  # the most similar image
    likeness: NDArray[np.float64]  # its distance, relative to the mean of the `NEIGHBORS`


def out_of_fold(
    features: Features,
    label: Ints,
    group: Ints,
    held_out: Bools,
    fit: Callable[[Features, Ints], Predict],
    progress: Callable[[int], object] = lambda images: None,
) -> Floats:
    """Predict each image with a model that was fitted without it and its group, (n, n_classes).

    Images that are `held_out`, (n,), fit no model at all. An image whose class has no other image
    gets equal probabilities. `fit` may overwrite its features; its labels are numbered from 0
    without a gap, at least two. `progress` takes the number of images just completed.
    """
    n_classes = int(label.max()) + 1
    log_probability = np.full((len(label), n_classes), -np.log(n_classes), np.float32)
    for fitted, predicted in _splits(label, group, held_out):
        seen = np.unique(label[fitted])
        progress(len(predicted))
        predicted = predicted[np.isin(label[predicted], seen)]
        if len(seen) < 2 or not len(predicted):
            continue
        predict = fit(_taken(features, fitted), np.searchsorted(seen, label[fitted]))
        log_probability[predicted] = UNSEEN
        log_probability[np.ix_(predicted, seen)] = predict(_taken(features, predicted))
    return log_probability


def _taken(features: Features, rows: Ints) -> Features:
    parts = (features[rows[at : at + CHUNK]] for at in range(0, len(rows), CHUNK))
    shape = len(rows), features.shape[1]
    return array_views.in_file_if_large(parts, shape, environment.memory_bytes())


def calibrate(log_probability: Floats, label: Ints, held_out: Bools) -> None:
    """Divide out-of-fold predictions by a temperature, in place; no `held_out` image decides it."""
    inside = np.flatnonzero(~held_out)
    if not len(inside):
        return
    sample = np.unique(inside[np.linspace(0, len(inside) - 1, CALIBRATED_ON).astype(np.int64)])
    temperature = calibration.fit_temperature(log_probability[sample], label[sample])
    step = max(1, BLOCK // log_probability.shape[1])
    for start in range(0, len(label), step):
        block = log_probability[start : start + step]
        scaled = calibration.scaled(block, temperature)
        block[...] = np.where(block == UNSEEN, UNSEEN, scaled)


def _splits(label: Ints, group: Ints, held_out: Bools) -> Iterator[tuple[Ints, Ints]]:
    """Yield (rows to fit, rows to predict): the held-out rows, then each fold of the others."""
    inside, outside = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if len(outside):
        copies = np.isin(group[inside], group[outside])
        yield inside[~copies], outside
    fold = ledger.dealt(label[inside], group[inside], FOLDS)
    for number in range(FOLDS):
        yield inside[fold != number], inside[fold == number]


def label_quality(log_probability: Floats, label: Ints, held_out: Bools) -> LabelQuality:
    """Rate labels by the predictions of models that were fitted without the image.

    A label is likely wrong if another class is the likeliest, and at least as probable as on
    average for its own images that are not `held_out`: C. Northcutt, L. Jiang and I. Chuang,
    "Confident Learning" (2021), section 3.1.
    """
    rows = np.arange(len(label))
    others = log_probability.astype(np.float64)
    own = others[rows, label]
    others[rows, label] = -np.inf
    suggested = others.argmax(axis=1)
    best, probability = others[rows, suggested], np.exp(own)
    usual = np.full(log_probability.shape[1], np.inf)
    for index in np.unique(label[~held_out]):
        usual[index] = probability[(label == index) & ~held_out].mean()
    margin = best - own
    likely = (margin > 0) & (np.exp(best) >= usual[suggested])
    return LabelQuality(margin, suggested.astype(np.int64), likely)


def neighbors(features: Features) -> Neighbors:
    """Compare images by the cosines of their centered features, which overwrite `features`.

    Each is compared with all others, or among more than `MANY_IMAGES` with its `CANDIDATES` only:
    time then grows with n to the power of 1.5.
    """
    features -= features.mean(axis=0)
    _scale_to_unit_length(features)
    n, d = features.shape
    count, search = min(NEIGHBORS, n - 1), _search(features) if n > MANY_IMAGES else None

    def of_block(rows: Ints) -> tuple[NDArray[np.float32], Ints]:
        """Return the highest cosines (rows, count), and the nearest image (rows,)."""
        every = np.arange(len(rows))
        if search:
            candidates = search(rows)
            cosines: Features = np.empty(candidates.shape, np.float32)
            for at in range(0, len(rows), step := max(1, BLOCK // (CANDIDATES * d))):
                part = slice(at, at + step)
                own = features[rows[part], :, None]
                cosines[part] = (features[candidates[part]] @ own)[:, :, 0]
            nearest = candidates[every, cosines.argmax(axis=1)]
        else:
            cosines = features[rows[0] : rows[-1] + 1] @ features.T
            cosines[every, rows] = -np.inf  # an image is not its own neighbor
            nearest = cosines.argmax(axis=1)
        cosines.partition(cosines.shape[1] - count, axis=1)
        return cosines[:, -count:].copy(), nearest

    step = VISITORS * _cells(n) // VISITED if search else max(1, BLOCK // n)
    parts = (np.arange(at, min(at + step, n)) for at in range(0, n, step))
    with threadpoolctl.threadpool_limits(1 if search else None, user_api="blas"):
        blocks = list(in_order(of_block, parts))
    closest, nearest = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    closest = closest.astype(np.float64)
    isolation = 1 - closest.mean(axis=1)
    distance = np.maximum(1 - closest.max(axis=1), 0)
    return Neighbors(isolation, nearest, distance / np.maximum(isolation, 1e-6))


def _cells(n: int) -> int:
    return int(4 * n**0.5)


def _search(features: Features) -> Callable[[Ints], Ints]:
    """Return a function of images (k,) to the nearest others by components, (k, `CANDIDATES`).

    They are searched in the cells of the `VISITED` nearest centers, images at regular intervals. A
    cell has the images that are nearest to its center.
    """
    compared = _principal_components(features)
    n = len(compared)
    centers = compared[:: n // _cells(n)]

    def visited(images: Ints) -> Ints:
        """Return cells, (k, `VISITED`); the last one is an image's own."""
        cells = np.empty((len(images), VISITED), np.int64)
        for at in range(0, len(images), CHUNK):
            cosines = compared[images[at : at + CHUNK]] @ centers.T
            order = np.argpartition(cosines, (-VISITED, -1), axis=1)
            cells[at : at + CHUNK] = order[:, -VISITED:]
        return cells

    parts = in_order(visited, np.split(np.arange(n), range(CHUNK, n, CHUNK)))
    own = [cells[:, -1].copy() for cells in parts]  # a view would keep the others in memory
    members = _by_cell(np.concatenate(own), len(centers))

    def search(images: Ints) -> Ints:
        cells = visited(images)
        shape = cells.size, OF_A_CELL
        cosines, found = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int32)
        for inside, places in zip(members, _by_cell(cells.ravel(), len(centers)), strict=True):
            for at in range(0, len(places), step := max(1, BLOCK // max(1, len(inside)))):
                visits = places[at : at + step]
                visitors = images[visits // VISITED]
                of_cell = compared[visitors] @ compared[inside].T
                of_cell[visitors[:, None] == inside] = -np.inf  # an image is not its own neighbor
                most = min(OF_A_CELL, len(inside))
                best = np.argpartition(of_cell, -most, axis=1)[:, -most:]
                found[visits, :most] = inside[best]
                cosines[visits, :most] = np.take_along_axis(of_cell, best, axis=1)
        cosines, found = cosines.reshape(len(images), -1), found.reshape(len(images), -1)
        best = np.argpartition(cosines, -CANDIDATES, axis=1)[:, -CANDIDATES:]
        return np.take_along_axis(found, best, axis=1).astype(np.int64)

    return search


def _by_cell(cell: Ints, cells: int) -> list[Ints]:
    """Return the places of each cell in `cell`."""
    order = np.argsort(cell, kind="stable")
    return np.split(order, np.searchsorted(cell[order], np.arange(1, cells)))


def _principal_components(centered: Features) -> Features:
    """Return the rows' `COMPONENTS` principal components, scaled to length 1."""
    d = centered.shape[1]
    highest = max(0, d - COMPONENTS), d - 1
    _, axes = scipy.linalg.eigh(centered.T @ centered, subset_by_index=highest)
    reduced: Features = centered @ axes
    _scale_to_unit_length(reduced)
    return reduced


def _scale_to_unit_length(rows: Features) -> None:
    for at in range(0, len(rows), step := max(1, BLOCK // rows.shape[1])):
        block = rows[at : at + step]
        block /= np.maximum(np.linalg.norm(block, axis=1, keepdims=True), np.float32(1e-12))


def light(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return mean, standard deviation and sharpness of the gray values, 0 to 255, (n, 3).

    `images` are (n, size, size, 3), RGB. Sharpness is the variance of the Laplacian, near 0 for a
    blurred image: J. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy" (2000).
    """
    gray = images @ np.array([0.299, 0.587, 0.114], np.float32)
    inner = gray[:, 1:-1, 1:-1]
    laplacian = (
        gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1] + gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:] - 4 * inner
    )
    measured = gray.mean(axis=(1, 2)), gray.std(axis=(1, 2)), laplacian.var(axis=(1, 2))
    return np.stack(measured, axis=1).astype(np.float64)


def light_faults(light: NDArray[np.float64]) -> dict[str, Bools]:
    """Return which images are blank, or else dark, light or blurred, each (n,)."""
    mean, spread, sharpness = light.T
    blank = spread < BLANK
    return {
        "blank": blank,
        "dark": (mean < DARK) & ~blank,
        "light": (mean > 255 - DARK) & ~blank,
        "blurred": (sharpness < BLURRED) & ~blank,
    }
