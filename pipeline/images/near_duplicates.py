"""Group images that are nearly the same: recompressed, resized, cropped a little, mirrored. Pure.

The feature of an image is the gradient of a tiny gray thumbnail; two images are compared by the
correlation of these, one of them as it is or mirrored. `docs/data.md` has the measurements.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.images import resize

SIDE = 10  # pixels of a thumbnail: more separate a crop from its original, fewer merge others
MIN_MEAN_SQUARE = 4  # gray levels squared, of the gradients; below, there is nothing to compare
BLOCK = 2**23  # correlations in memory at a time
PAIRS = 2**14  # candidates decided exactly at a time
LUMA = np.array([299, 587, 114])  # of R, G, B, in thousandths: ITU-R BT.601


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Return an RGB image in gray, uint8 (`SIDE`, `SIDE`)."""
    pixels = resize.resize(image, SIDE, "squash", "bicubic").astype(np.int64)
    return np.asarray((pixels @ LUMA + 500) // 1000, dtype=np.uint8)


def group(thumbnails: NDArray[np.uint8], threshold: float) -> NDArray[np.int64]:
    """Return for each image the index of the first image of its group, int64 (n,).

    `thumbnails` are uint8 (n, `SIDE`, `SIDE`). Images that correlate by `threshold` or more are in
    one group, transitively. Candidates are found in float32 and decided in integers, so that every
    processor decides alike. Time grows with the square of n.
    """
    gradients, mirrored = _gradients(thumbnails), _gradients(thumbnails[:, :, ::-1])
    squares = np.square(gradients, dtype=np.int64).sum(axis=1)
    textured = np.flatnonzero(squares >= MIN_MEAN_SQUARE * gradients.shape[1])
    norms = np.sqrt(squares[textured, None])
    unit = (gradients[textured] / norms).astype(np.float32)
    n = len(thumbnails)
    groups = np.arange(n)
    rows = max(1, BLOCK // max(1, len(textured)))
    for start in range(0, len(textured), rows):
        block = slice(start, start + rows)
        for first in (gradients, mirrored):
            unit_first = (first[textured[block]] / norms[block]).astype(np.float32)
            near = np.nonzero(unit_first @ unit[start:].T >= threshold - 1e-3)
            for at in range(0, len(near[0]), PAIRS):
                one, other = (textured[indices[at : at + PAIRS] + start] for indices in near)
                apart = (one < other) & (groups[one] != groups[other])
                one, other = one[apart], other[apart]
                products = (first[one].astype(np.int64) * gradients[other]).sum(axis=1)
                # Integers below 2**53 are exact in float64; IEEE 754 fixes the rounding after that.
                norm = np.sqrt((squares[one] * squares[other]).astype(float))
                alike = products >= threshold * norm
                if alike.any():
                    pairs = groups[one[alike]], groups[other[alike]]
                    graph = coo_array((np.ones(len(pairs[0]), np.int8), pairs), shape=(n, n))
                    groups = connected_components(graph, directed=False)[1][groups]
    _, first_of, of_image = np.unique(groups, return_index=True, return_inverse=True)
    return np.asarray(first_of[of_image], dtype=np.int64)


def _gradients(thumbnails: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return differences of neighbors, across and down, int16 (n, 2 SIDE (SIDE - 1))."""
    gray = thumbnails.astype(np.int16)
    parts = np.diff(gray, axis=2), np.diff(gray, axis=1)
    return np.concatenate([part.reshape(-1, SIDE * (SIDE - 1)) for part in parts], axis=1)
