"""Group images that are nearly the same: recompressed, resized, cropped a little, mirrored. Pure.

The feature of an image is the gradient of a tiny gray thumbnail; two images are compared by the
correlation of these, one of them as it is or mirrored. `docs/data.md` has the measurements.

Candidates are compared by coordinates of the gradients, a cosine transform. Mirroring an image
changes the sign of every second one: with e and o, the sums of products over the others and over
these, the correlations are e + o and e - o. Coordinates are rounded to integers so that float32
holds all sums exactly, in whatever order they are added: all processors find the same candidates.
"""

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, TypeVar

import numpy as np
import threadpoolctl
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.images import resize
from pipeline.runtime.parallel import in_order

SIDE = 10  # pixels of a thumbnail: more separate a crop from its original, fewer merge others
MIN_MEAN_SQUARE = 4  # gray levels squared, of the gradients; below, there is nothing to compare
LENGTH = 4_000  # of an image's coordinates; with their rounding, its square is below 2**24
MARGIN = 3e-3  # of a correlation; rounding changes it by SIDE / LENGTH = 2.5e-3 at most
FEW_IMAGES = 20_000  # up to so many, all pairs are compared
VISITED = 32  # cells: an image is compared with those of the nearest, more than `FEW_IMAGES`
BLOCK = 2**19  # correlations in memory at a time, in each thread
CHUNK = 2**16  # images whose visits are sorted by cell at a time
PAIRS = 2**14  # candidates decided exactly at a time
NO_PAIRS = np.empty((2, 0), np.int64)
LUMA = np.array([299, 587, 114])  # of R, G, B, in thousandths: ITU-R BT.601

Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Visits = NDArray[np.int32] | NDArray[np.int64]  # (2, k)
T = TypeVar("T")


def thumbnail(image: Image.Image) -> Pixels:
    """Return an RGB image in gray, uint8 (`SIDE`, `SIDE`)."""
    pixels = resize.resize(image, SIDE, "squash", "bicubic").astype(np.int64)
    return np.asarray((pixels @ LUMA + 500) // 1000, dtype=np.uint8)


def group(thumbnails: Pixels, threshold: float) -> Ints:
    """Return for each image the index of the first image of its group, int64 (n,).

    `thumbnails` are uint8 (n, `SIDE`, `SIDE`). Images that correlate by `threshold` or more are in
    one group, transitively. Beyond `FEW_IMAGES`, time grows with n to the power of 1.5, and a pair
    can be missed. Neither the order of the images nor the processor changes the groups.
    """
    n = len(thumbnails)
    content = np.ascontiguousarray(thumbnails).reshape(n, SIDE * SIDE).view(f"S{SIDE * SIDE}")[:, 0]
    order = np.argsort(content, kind="stable")
    is_first = np.ones(n, np.bool_)
    for at in range(1, n, PAIRS):
        block = content[order[at - 1 : at + PAIRS]]
        is_first[at : at + PAIRS] = block[1:] != block[:-1]
    first, of_image = order[is_first], np.empty(n, np.int64)
    of_image[order] = np.cumsum(is_first) - 1
    del order, is_first
    squares = np.empty(len(first), np.int64)
    for at in range(0, len(first), PAIRS):
        gradients = _gradients(thumbnails[first[at : at + PAIRS]])
        squares[at : at + PAIRS] = _products(gradients, gradients)
    textured = squares >= MIN_MEAN_SQUARE * 2 * SIDE * (SIDE - 1)
    groups = np.zeros(len(first), np.int64)
    with threadpoolctl.threadpool_limits(1, user_api="blas"):  # there is a thread per processor
        search = _Search(thumbnails, first[textured], squares[textured], threshold)
        groups[textured] = search.groups()
    groups = np.where(textured[of_image], groups[of_image], n + np.arange(n))
    _, first, of_image = np.unique(groups, return_index=True, return_inverse=True)
    return np.asarray(first[of_image], dtype=np.int64)


class _Search:
    """A search among m textured thumbnails, all different, in an order that content decides.

    `places` are those of the images in `thumbnails`, (m,); `group` numbers the group of each, as
    far as known, (m,).
    """

    def __init__(self, thumbnails: Pixels, places: Ints, squares: Ints, threshold: float) -> None:
        self.thumbnails, self.places = thumbnails, places
        self.squares, self.threshold = squares, threshold
        self.coordinates = _coordinates(thumbnails, places, squares)
        self.group = np.arange(len(places))

    def groups(self) -> Ints:
        """Compare all pairs of few images, and otherwise each image with those of some cells.

        A cell has the images to which the same one of the centers, images at regular intervals, is
        the most similar. An image visits the cells of the `VISITED` centers most similar to it.
        """
        every = np.arange(len(self.places))
        if len(every) <= FEW_IMAGES:
            self._join(lambda rows: self._alike(rows, every[rows[0] :]), _blocks(every, len(every)))
            return self.group
        centers = every[:: len(every) // round((len(every) * VISITED / 2) ** 0.5)]
        cell = np.empty(len(every), np.int64)
        with tempfile.TemporaryFile(dir=".") as file:
            visits = _Kept(file)  # images, and centers of the cells that they visit

            def visit(rows: Ints) -> Ints:
                products = self._products(rows, centers)
                cell[rows] = products.argmax(axis=1)
                last = np.partition(products, -VISITED, axis=1)[:, -VISITED, None]
                row, visited = np.divmod(np.flatnonzero(products >= last), len(centers))
                visits.append(np.stack([rows[row], visited]).astype(np.int32))
                return self._pairs(rows, centers, products)

            self._join(lambda rows: self._alike(rows, centers), _blocks(centers, len(centers)))
            self._join(visit, _blocks(every, len(centers)))
            members = _by_cell([np.stack([every, cell])], len(centers))
            step = 1 + CHUNK * len(centers) // BLOCK
            for at in range(0, len(visits), step):
                visitors = _by_cell(visits.read(at, at + step), len(centers))
                cells = zip(visitors, members, strict=True)
                self._join(lambda both: self._alike(*both), cells)
        return self.group

    def _join(self, compare: Callable[[T], Ints], items: Iterable[T]) -> None:
        """Join the groups of the pairs of images, (2, k), that `compare` finds for each item."""
        waiting, count = [], 0
        for pairs in in_order(compare, items):
            waiting += [pairs] if pairs.size else []
            count += pairs.shape[1]
            if count > len(self.group):  # few are, after some of a large group
                self.group = _joined(self.group, waiting)
                waiting, count = [], 0
        self.group = _joined(self.group, waiting)

    def _alike(self, rows: Ints, columns: Ints) -> Ints:
        """Return pairs of images, (2, k), that join all groups of rows and columns to be joined."""
        group = self.group
        if len(columns) and (group[columns] == group[columns[0]]).all():
            rows = rows[group[rows] != group[columns[0]]]
        pairs = [
            self._pairs(block, columns, self._products(block, columns))
            for block in _blocks(rows, len(columns))
        ]
        return np.concatenate([NO_PAIRS, *pairs], axis=1)

    def _pairs(self, rows: Ints, columns: Ints, products: NDArray[np.float32]) -> Ints:
        group, least = self.group, (self.threshold - MARGIN) * LENGTH**2
        near = np.flatnonzero(products.ravel() >= least)
        one, other = rows[near // len(columns)], columns[near % len(columns)]
        apart = group[one] != group[other]
        one, other = one[apart], other[apart]
        alike = products.ravel()[near[apart]] >= least + 2 * MARGIN * LENGTH**2
        doubtful = np.flatnonzero(~alike)
        for at in range(0, len(doubtful), PAIRS):
            places = doubtful[at : at + PAIRS]
            alike[places] = self._decide(one[places], other[places])
        one, other = one[alike], other[alike]
        _, first = np.unique(group[one] * len(group) + group[other], return_index=True)
        return np.stack([one[first], other[first]])

    def _products(self, one: Ints, other: Ints) -> NDArray[np.float32]:
        """Return `LENGTH` squared times the higher one of two images' correlations."""
        first, second = (self.coordinates[images].astype(np.float32) for images in (one, other))
        half = SIDE * SIDE // 2
        products = first[:, half:] @ second[:, half:].T
        np.abs(products, out=products)
        products += first[:, :half] @ second[:, :half].T
        return products

    def _decide(self, one: Ints, other: Ints) -> NDArray[np.bool_]:
        """Return which pairs are alike, exactly."""
        gray, others = (self.thumbnails[self.places[images]] for images in (one, other))
        second = _gradients(others)
        both = [_products(_gradients(first), second) for first in (gray, gray[:, :, ::-1])]
        # Integers below 2**53 are exact in float64; IEEE 754 fixes the rounding after that.
        norm = np.sqrt((self.squares[one] * self.squares[other]).astype(float))
        return np.asarray(np.maximum(*both) >= self.threshold * norm)


class _Kept:
    """Arrays that lie in a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._starts, self._lock = file, list[int](), threading.Lock()

    def __len__(self) -> int:
        return len(self._starts)

    def append(self, array: Visits) -> None:
        with self._lock:
            self._starts.append(self._file.tell())
            np.save(self._file, array)

    def read(self, start: int, stop: int) -> list[Visits]:
        read = []
        for at in self._starts[start:stop]:
            self._file.seek(at)
            read.append(np.load(self._file))
        return read


def _joined(group: Ints, pairs: Sequence[Ints]) -> Ints:
    """Return `group`, (m,), with one number for the groups of each pair."""
    one, other = group[np.concatenate([NO_PAIRS, *pairs], axis=1)]
    shape = len(group), len(group)
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=shape)
    return np.asarray(connected_components(graph, directed=False)[1][group], np.int64)


def _blocks(rows: Ints, columns: int) -> Iterator[Ints]:
    """Cut rows into parts that have `BLOCK` products with so many columns."""
    step = max(1, BLOCK // max(1, columns))
    return (rows[at : at + step] for at in range(0, len(rows), step))


def _by_cell(visits: Sequence[Visits], cells: int) -> list[Ints]:
    """Return the images of each cell; `visits` are of images, and their cells, (2, k)."""
    image, cell = np.concatenate(visits, axis=1)
    order = np.argsort(cell, kind="stable")
    return np.split(image[order], np.searchsorted(cell[order], np.arange(1, cells)))


def _products(one: NDArray[np.int16], other: NDArray[np.int16]) -> Ints:
    """Return the sum of products of each pair of rows, int64 (k,)."""
    return np.asarray((one.astype(np.int64) * other).sum(axis=1))


def _gradients(thumbnails: Pixels) -> NDArray[np.int16]:
    """Return differences of neighbors, across and down, int16 (n, 2 SIDE (SIDE - 1))."""
    gray = thumbnails.astype(np.int16)
    parts = np.diff(gray, axis=2), np.diff(gray, axis=1)
    return np.concatenate([part.reshape(-1, SIDE * (SIDE - 1)) for part in parts], axis=1)


def _coordinates(thumbnails: Pixels, places: Ints, squares: Ints) -> NDArray[np.int16]:
    """Return the gradients of unit length in `SIDE`**2 coordinates, times `LENGTH`, rounded.

    The second half changes its sign when an image is mirrored. `squares` are squared lengths.
    """
    k, unit = np.arange(SIDE), 2.0**20
    cosines = (
        np.cos(np.pi / SIDE * np.outer(k, k + 0.5)) * np.sqrt(np.where(k, 2, 1) / SIDE)[:, None]
    )
    steps = (2 * np.sin(np.pi / 2 / SIDE * k)) ** 2  # squared length of a cosine's gradient
    length = np.sqrt(steps[:, None] + steps)
    basis = np.einsum("xi,yj,xy->xyji", cosines, cosines, length)[np.argsort(k % 2, kind="stable")]
    whole = np.rint(basis.reshape(SIDE * SIDE, -1).T * unit)  # so that its products are exact
    coordinates = np.empty((len(places), SIDE * SIDE), np.int16)
    for at in range(0, len(places), PAIRS):
        gray = thumbnails[places[at : at + PAIRS]].reshape(-1, SIDE * SIDE)
        sums = gray.astype(np.float64) @ whole
        coordinates[at : at + PAIRS] = np.rint(
            sums * (LENGTH / unit) / np.sqrt(squares[at : at + PAIRS, None])
        )
    return coordinates
