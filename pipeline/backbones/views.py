"""Views of an image: itself, its mirror image, and seeded augmentations of it.

Input and output: uint8 (n, size, size, 3), RGB. A view is a function of seed, image and number
alone, so it is the same in every batch and every run. View 0 is the image, view 1 its mirror image,
left and right; from view 2 on, one affine change, drawn within ranges that mean what they mean to
Keras' layers (RandomRotation, RandomTranslation, RandomShear, RandomZoom, RandomFlip).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ranges:
    """How far an augmentation may go: degrees to either side, the others fractions."""

    rotation: float
    shift: float
    shear: float
    zoom: float
    flip: bool


def make(
    images: NDArray[np.uint8], digests: Sequence[bytes], view: int, ranges: Ranges, seed: int
) -> NDArray[np.uint8]:
    """View number `view` of each image; `digests` tell the images apart, the sha256 of each."""
    if view == 0:
        return images
    if view == 1:
        return images[:, :, ::-1]
    size = images.shape[1]
    changes = np.stack([_change(digest, view, ranges, seed, size) for digest in digests])
    moved = keras.ops.image.affine_transform(
        images.astype(np.float32), changes, interpolation="bilinear", fill_mode="nearest"
    )
    pixels: NDArray[np.float32] = keras.ops.convert_to_numpy(moved)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _change(digest: bytes, view: int, ranges: Ranges, seed: int, size: int) -> NDArray[np.float32]:
    """From a pixel of the view to its place in the image, float32 (8,) as Keras takes it.

    The change turns, shears, zooms and mirrors about the centre, then shifts.
    """
    drawn = hashlib.sha256(digest + view.to_bytes(4) + seed.to_bytes(4)).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(drawn[:16])))
    angle, right, down, across, along, zoom = rng.uniform(-1, 1, 6)
    mirror = -1.0 if ranges.flip and rng.random() < 0.5 else 1.0
    angle *= np.deg2rad(ranges.rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1, across * ranges.shear], [along * ranges.shear, 1]])
    scale = np.diag([mirror, 1.0]) * (1 + zoom * ranges.zoom)
    linear = turn @ shear @ scale
    centre = np.array([size - 1, size - 1]) / 2
    offset = centre - linear @ centre + np.array([right, down]) * ranges.shift * size
    (a, b), (c, d) = linear
    return np.array([a, b, offset[0], c, d, offset[1], 0, 0], dtype=np.float32)
