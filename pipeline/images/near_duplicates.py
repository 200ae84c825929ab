"""Images that are nearly the same: recompressed, resized, cropped a little, mirrored. Pure.

An image is known by the gradients of a tiny grey thumbnail, two are compared by the correlation of
these, one of them as it is or mirrored. Of 8,000 photos of cats and dogs (32 million pairs) no two
different ones correlate by more than 0.82; of 400 copies each, those of a JPEG quality of 50, of
half the size and mirrored correlate by 0.998 or more, those cropped by 3 % of both sides by 0.95,
cropped by 3 % on every side by 0.85, and 99 % of the last by 0.88.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.images import resize

SIDE = 10  # pixels of a thumbnail: more tell a crop from its original, fewer tell less apart
FLATTEST = 4  # grey levels, squared, of an average gradient; below, there is nothing to compare
BLOCK = 2**23  # correlations held at a time
PAIRS = 2**14  # candidates that are looked at closely at a time
LUMA = np.array([299, 587, 114])  # of R, G, B, in thousandths: ITU-R BT.601

Ints = NDArray[np.int64]


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Grey, uint8 (`SIDE`, `SIDE`), of an RGB image."""
    pixels = resize.resize(image, SIDE, "squash", "bicubic").astype(np.int64)
    return np.asarray((pixels @ LUMA + 500) // 1000, dtype=np.uint8)


def group(thumbnails: NDArray[np.uint8], least: float) -> Ints:
    """Of each image, (n,), the first one that it is nearly the same as: itself if there is none.

    Images are one group that correlate by `least` or more, and what these correlate with, and so
    on. Candidates are found in float32 and decided in integers, so that every processor decides
    alike. Time grows with the square of n.

    Args:
        thumbnails: uint8 (n, `SIDE`, `SIDE`), of different images.
    """
    count = len(thumbnails)
    gradients = _gradients(thumbnails)
    squares = np.square(gradients, dtype=np.int64).sum(axis=1)
    known = np.flatnonzero(squares >= FLATTEST * gradients.shape[1])
    unit = (gradients[known] / np.sqrt(squares[known, None])).astype(np.float32)
    groups = np.arange(count)
    each = max(1, BLOCK // max(1, len(known)))
    for start in range(0, len(known), each):
        of_block = slice(start, start + each)
        for turned in (False, True):
            block = _turned(unit[of_block]) if turned else unit[of_block]
            near = np.nonzero(block @ unit[start:].T >= least - 1e-3)
            for at in range(0, len(near[0]), PAIRS):
                one, other = (known[places[at : at + PAIRS] + start] for places in near)
                apart = (one < other) & (groups[one] != groups[other])
                one, other = one[apart], other[apart]
                first = _turned(gradients[one]) if turned else gradients[one]
                products = (first.astype(np.int64) * gradients[other]).sum(axis=1)
                # Whole numbers below 2**53 are exact in float64; IEEE 754 rounds all after them.
                alike = products >= least * np.sqrt((squares[one] * squares[other]).astype(float))
                if alike.any():
                    groups = _joined(groups, one[alike], other[alike])
    _, first_of, of_image = np.unique(groups, return_index=True, return_inverse=True)
    return np.asarray(first_of[of_image], dtype=np.int64)


def _joined(groups: Ints, one: Ints, other: Ints) -> Ints:
    """The group of each image, (n,), once those of each pair are one."""
    pairs = (groups[one], groups[other])
    graph = coo_array((np.ones(len(one), np.int8), pairs), shape=(len(groups), len(groups)))
    _, joined = connected_components(graph, directed=False)
    return np.asarray(joined[groups], dtype=np.int64)


def _gradients(thumbnails: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Differences of neighbours, across and down, int16 (n, 2 SIDE (SIDE - 1))."""
    grey = thumbnails.astype(np.int16)
    across, down = np.diff(grey, axis=2), np.diff(grey, axis=1)
    half = SIDE * (SIDE - 1)
    return np.concatenate([part.reshape(-1, half) for part in (across, down)], axis=1)


def _turned(gradients: NDArray[np.number]) -> NDArray[np.number]:
    """Those of the mirror images: what goes across changes its sign, too."""
    half = gradients.shape[1] // 2
    across = -gradients[:, :half].reshape(-1, SIDE, SIDE - 1)[:, :, ::-1]
    down = gradients[:, half:].reshape(-1, SIDE - 1, SIDE)[:, :, ::-1]
    return np.concatenate([part.reshape(-1, half) for part in (across, down)], axis=1)
