"""Extractors and views as `params.yaml` describes them. `keras_setup.start` comes first.

A view is uint8 (n, size, size, 3), RGB, like its images. It depends on seed, image and view number
only. View 0 is the image, view 1 its mirror image (left and right); from view 2 on it is one affine
map, drawn within the ranges of Keras' RandomRotation, -Translation, -Shear, -Zoom and -Flip.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.backbones import build
from pipeline.schema import Params


def extractor(
    params: Params, backbone: str, size: int, weights: Path, fold_for: str | None = None
) -> keras.Model:
    """Build the network with its weights, and `build.extractor` on it, `fold_for` passed on.

    Raises:
        UserError: a backbone, layer or weights that do not fit.
    """
    settings = params.backbones[backbone]
    logits = settings.pooling in build.PREDICTIONS
    base = build.network(backbone, size, settings.include_top, weights, logits=logits)
    return build.extractor(
        base, backbone, settings.layer, settings.pooling, fold_for, settings.preprocessing
    )


def view(
    params: Params, images: NDArray[np.uint8], digests: Sequence[bytes], number: int
) -> NDArray[np.uint8]:
    """Return view `number` of each image; `digests` are the sha256 of each image's pixels."""
    if number == 0:
        return images
    if number == 1:
        return images[:, :, ::-1]
    ranges, seed = params.extract.changes()
    size = images.shape[1]
    transforms = np.stack([_transform(digest, number, ranges, seed, size) for digest in digests])
    moved = keras.ops.image.affine_transform(
        images.astype(np.float32), transforms, interpolation="bilinear", fill_mode="nearest"
    )
    pixels: NDArray[np.float32] = keras.ops.convert_to_numpy(moved)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _transform(
    digest: bytes, view: int, ranges: Mapping[str, float], seed: int, size: int
) -> NDArray[np.float32]:
    """Return the map from a pixel of the view to its position in the image, (8,), as in Keras.

    It rotates, shears, zooms and mirrors about the center, then shifts.
    """
    key = hashlib.sha256(digest + view.to_bytes(4) + seed.to_bytes(4)).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16])))
    angle, right, down, across, along, zoom = rng.uniform(-1, 1, 6)
    mirror = -1.0 if ranges["flip"] and rng.random() < 0.5 else 1.0
    angle *= np.deg2rad(ranges["rotation"])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1, across * ranges["shear"]], [along * ranges["shear"], 1]])
    scale = np.diag([mirror, 1.0]) * (1 + zoom * ranges["zoom"])
    linear = rotation @ shear @ scale
    center = np.array([size - 1, size - 1]) / 2
    offset = center - linear @ center + np.array([right, down]) * ranges["shift"] * size
    (a, b), (c, d) = linear
    return np.array([a, b, offset[0], c, d, offset[1], 0, 0], dtype=np.float32)
