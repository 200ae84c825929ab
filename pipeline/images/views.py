"""Views of an image, uint8 (n, size, size, 3), RGB, like the images. Pure.

A view depends on seed, image and view number only. View 0 is the image, view 1 its mirror image
(left and right); from view 2 on it is one affine map, drawn within the ranges of Keras'
RandomRotation, -Translation, -Shear, -Zoom and -Flip.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.schema import Extract

IMAGE, MIRROR_IMAGE = 0, 1  # numbers of views


def view(
    options: Extract, images: NDArray[np.uint8], digests: Sequence[bytes], number: int
) -> NDArray[np.uint8]:
    """Return view `number` of each image; `digests` are the sha256 of each image's pixels."""
    if number == IMAGE:
        return images
    if number == MIRROR_IMAGE:
        return images[:, :, ::-1]
    from scipy import ndimage  # takes longer to import than one image to predict

    ranges, seed = options.changes()
    views = np.empty_like(images)
    for image, digest, out in zip(images, digests, views, strict=True):
        linear, offset = _transform(digest, number, ranges, seed, images.shape[1])
        for channel in range(images.shape[3]):
            # Between pixels linear, beyond the border the nearest pixel.
            moved = ndimage.affine_transform(
                image[..., channel], linear, offset, output=np.float32, order=1, mode="nearest"
            )
            out[..., channel] = np.rint(moved)
    return views


def _transform(
    digest: bytes, view: int, ranges: Mapping[str, float], seed: int, size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the map from a pixel (row, column) of the view to its position in the image.

    That is linear @ pixel + offset, with a matrix (2, 2) and a vector (2,). It rotates, shears,
    zooms and mirrors about the center, then shifts.
    """
    key = hashlib.sha256(digest + view.to_bytes(4) + seed.to_bytes(4)).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16])))
    angle, right, down, across, along, zoom = rng.uniform(-1, 1, 6)
    mirror = -1.0 if ranges["flip"] and rng.random() < 0.5 else 1.0
    angle *= np.deg2rad(ranges["rotation"])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1, across * ranges["shear"]], [along * ranges["shear"], 1]])
    scale = np.diag([mirror, 1.0]) * (1 + zoom * ranges["zoom"])
    linear = rotation @ shear @ scale  # of (column, row)
    center = np.array([size - 1, size - 1]) / 2
    offset = center - linear @ center + np.array([right, down]) * ranges["shift"] * size
    return linear[::-1, ::-1], offset[::-1]
