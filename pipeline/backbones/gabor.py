"""Build a fixed bank of Gabor filters: a baseline that needs no training.

Input: RGB images / 255, float32 (n, size, size, 3). Output: float32 (n, 4, 4, 144), the mean
response of each of `FILTERS`, in their order, in each cell of a 4 x 4 grid over the image. A filter
is a wave under a Gaussian (J. G. Daugman, JOSA A 2(7), 1985), x and y in pixels from its center:

    exp(-(x^2 + y^2) / (2 sigma^2)) * exp(2 pi i (x cos(angle) + y sin(angle)) / wavelength)

The response is the magnitude of its even real and odd imaginary part, which does not depend on the
position of an edge inside the filter. Mean responses are the texture features of B. S. Manjunath
and W. Y. Ma, IEEE PAMI 18(8), 1996. Longer waves use the same kernels on downsampled images.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

NAME = "gabor"
GRID = 4  # cells to a side
DEFAULT_SIZE = 224  # of images, in pixels; the weights are the same for all
MIN_SIZE = 32  # downsampled to 8 x 8 at last, the least that can be padded by `RADIUS` pixels
SCALES = (1, 2, 4)  # by which the images are downsampled
WAVELENGTHS = (4.0, 4 * 2**0.5)  # of the kernels, in pixels; half an octave apart
ORIENTATIONS = 8  # over 180 degrees
# In wavelengths: the response is half the maximum at 2/3 and 4/3 of a filter's frequency, an octave
# apart (Manjunath and Ma's sigma, with a = 2).
SIGMA = 3 * np.sqrt(2 * np.log(2)) / (2 * np.pi)  # 0.56
RADIUS = 7  # of kernels, in pixels; 2.2 sigma of the longest
# Weights of red, green, blue, orthonormal: K. van de Sande, T. Gevers and C. Snoek, "Evaluating
# Color Descriptors for Object and Scene Recognition", IEEE PAMI 32(9), 2010, section 3.1.
PLANES = {
    "intensity": np.array([1, 1, 1]) / np.sqrt(3),
    "red-green": np.array([1, -1, 0]) / np.sqrt(2),
    "yellow-blue": np.array([1, 1, -2]) / np.sqrt(6),
}
EPSILON = 1e-12  # under the square root, which has no derivative at 0


class Filter(NamedTuple):
    """The wave that one channel of the output responds to."""

    wavelength: float  # in pixels of the image
    plane: str  # one of `PLANES`
    angle: float  # of the wave's direction, in radians: 0 to the right, pi / 2 down


FILTERS = [
    Filter(scale * wavelength, plane, np.pi * number / ORIENTATIONS)
    for scale in SCALES
    for wavelength in WAVELENGTHS
    for plane in PLANES
    for number in range(ORIENTATIONS)
]


def network(size: int | None) -> keras.Model:
    """Build the bank for images of `size` x `size`; raise `ValueError` for too small a size."""
    size = size or DEFAULT_SIZE
    if size < MIN_SIZE:
        raise ValueError(f"at least {MIN_SIZE} pixels are needed")
    channels = len(FILTERS) // len(SCALES)
    cells = []
    x = images = keras.Input((size, size, 3), name="input")
    for scale in SCALES:
        if scale > 1:
            x = keras.layers.AveragePooling2D(2, name=f"shrunk{scale}")(x)
        padded = Mirrored(name=f"mirrored{scale}")(x)
        # The response changes slowly, so every second position gives nearly the same means.
        parts = [
            keras.layers.Conv2D(
                channels,
                2 * RADIUS + 1,
                strides=2,
                use_bias=False,
                kernel_initializer=keras.initializers.Constant(kernels(part)),
                name=f"{part}{scale}",
            )(padded)
            for part in ("even", "odd")
        ]
        response = Magnitude(name=f"magnitude{scale}")(parts)
        stride = response.shape[1] // GRID
        window = response.shape[1] - (GRID - 1) * stride  # the cells overlap if they must
        pool = keras.layers.AveragePooling2D(window, stride, name=f"cells{scale}")
        cells.append(pool(response))
    return keras.Model(images, keras.layers.Concatenate(name="filters")(cells), name=NAME)


def kernels(part: str) -> NDArray[np.float32]:
    """Return the "even" or "odd" kernels, float32 (15, 15, 3, 48), in the order of `FILTERS`.

    A wave of amplitude a in a filter's plane, with its wavelength and angle, gets the response a. A
    flat image gets 0, since the weighted mean is subtracted from the even kernels.
    """
    y, x = np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]
    bank = []
    for wavelength, plane, angle in FILTERS[: len(FILTERS) // len(SCALES)]:
        envelope = np.exp(-(x**2 + y**2) / (2 * (SIGMA * wavelength) ** 2))
        envelope *= 2 / envelope.sum()
        phase = 2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength
        if part == "even":
            wave = np.cos(phase)
            wave -= (envelope * wave).sum() / envelope.sum()
        else:
            wave = np.sin(phase)
        bank.append((envelope * wave)[..., None] * PLANES[plane])
    return np.stack(bank, axis=-1).astype(np.float32)


class Mirrored(keras.layers.Layer):  # type: ignore[misc]
    """Pad with `RADIUS` pixels of the mirror image, so that a border is no edge.

    The names of layer classes stand in weight files; renaming one changes their bytes.
    """

    def call(self, images: Any) -> Any:
        border = (RADIUS, RADIUS)
        return keras.ops.pad(images, ((0, 0), border, border, (0, 0)), mode="reflect")


class Magnitude(keras.layers.Layer):  # type: ignore[misc]
    """Absolute value of complex numbers, from a pair of real and imaginary parts."""

    def call(self, parts: Any) -> Any:
        real, imaginary = parts
        return keras.ops.sqrt(real * real + imaginary * imaginary + EPSILON)
