"""A layer that resizes images with the arithmetic of Pillow."""

from typing import Any

import keras
import numpy as np
from keras import ops


class Resize(keras.layers.Layer):  # type: ignore[misc]
    """Resize images to `size` by `size` pixels with the arithmetic of Pillow's Resample.c.

    Input uint8 (n, height, width, 3), output float32 (n, size, size, 3) of integers 0 to 255. Each
    output row and column is a weighted mean of input pixels, with a wider filter where an image
    shrinks, rounded after the columns and after the rows.
    """

    def __init__(self, size: int, fit: str, interpolation: str) -> None:
        super().__init__(name="resize", dtype="float32", trainable=False)
        self.size, self.fit, self.interpolation = size, fit, interpolation

    def call(self, images: Any) -> Any:
        shape = ops.shape(images)
        height, width = (ops.cast(side, "int32") for side in shape[1:3])
        longer, shorter = ops.maximum(height, width), ops.minimum(height, width)
        x = ops.transpose(ops.cast(images, "float32"), (0, 1, 3, 2))  # (n, height, 3, width)
        x = _rounded(ops.matmul(x, self._weights(width, longer, shorter)))
        x = ops.transpose(x, (0, 2, 3, 1))  # (n, 3, size, height)
        x = _rounded(ops.matmul(x, self._weights(height, longer, shorter)))
        return ops.transpose(x, (0, 3, 2, 1))

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return shape[0], self.size, self.size, 3

    def _weights(self, side: Any, longer: Any, shorter: Any) -> Any:
        """Return the weight of each input pixel along a side in each output pixel, (side, size)."""
        size = self.size
        begin, length, into = ops.zeros_like(side), side, ops.full_like(side, size)
        if self.fit == "crop":
            begin, length = (side - shorter) // 2, shorter
        elif self.fit == "pad":
            into = ops.maximum(1, (side * size + longer // 2) // longer)
        place = ops.arange(size, dtype="int32") - (size - into) // 2  # among the `into` pixels
        # The center of an output pixel, (place + 1/2) * length / into, as an integer and a
        # fraction, so that float32 is exact.
        doubled = (2 * place + 1) * length
        integer = doubled // (2 * into)
        fraction = ops.cast(doubled - integer * 2 * into, "float32") / ops.cast(2 * into, "float32")
        pixel = ops.expand_dims(ops.arange(side, dtype="int32"), 1) - begin - integer
        if self.interpolation == "nearest":
            weight = ops.cast(pixel == 0, "float32")
        else:
            wide = ops.maximum(ops.cast(length, "float32") / ops.cast(into, "float32"), 1.0)
            distance = (ops.cast(pixel, "float32") + 0.5 - fraction) / wide
            weight = _filter(self.interpolation, distance)
            weight = weight / ops.maximum(ops.sum(weight, axis=0, keepdims=True), 1e-6)
        inside = ops.logical_and(place >= 0, place < into)  # the padding is black
        return weight * ops.cast(inside, "float32")


def _rounded(values: Any) -> Any:
    return ops.clip(ops.floor(values + 0.5), 0, 255)


def _filter(interpolation: str, x: Any) -> Any:
    """Evaluate one of Pillow's filters; `x` is in pixels of the smaller image."""
    if interpolation == "box":
        return ops.cast(ops.logical_and(x > -0.5, x <= 0.5), "float32")
    x = ops.abs(x)
    if interpolation == "bilinear":
        return ops.maximum(1 - x, 0)
    if interpolation == "bicubic":  # R. Keys (1981), a = -1/2
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        return ops.where(x < 1, near, ops.where(x < 2, far, 0.0))
    return ops.where(x < 3, _sinc(x) * _sinc(x / 3), 0.0)


def _sinc(x: Any) -> Any:
    angle = float(np.pi) * ops.maximum(x, 1e-6)
    return ops.sin(angle) / angle
