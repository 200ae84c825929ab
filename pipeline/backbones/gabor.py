"""A fixed bank of Gabor filters: features from before neural networks, a baseline without weights.

Input: RGB images / 255, float32 (n, size, size, 3). Output: float32 (n, 4, 4, 144), for each cell
of a 4 x 4 grid over the image the mean response of `FILTERS`, in their order. A filter is a wave
under a Gaussian (D. Gabor, "Theory of Communication", 1946; in two dimensions J. G. Daugman,
JOSA A 2(7), 1985), x and y in pixels from its centre:

    exp(-(x^2 + y^2) / (2 sigma^2)) * exp(2 pi i (x cos(angle) + y sin(angle)) / wavelength)

Its real part is even, its imaginary part odd. The response is the root of the sum of both squared,
which does not depend on where in the filter an edge or a stripe lies. Means of responses are the
texture features of B. S. Manjunath and W. Y. Ma, IEEE PAMI 18(8), 1996. Long waves are sought with
the same kernels in smaller images.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

NAME = "gabor"
GRID = 4  # cells to a side
SIZE = 224  # of images, if none is asked for; the weights are the same for all
SMALLEST = 32  # whose last shrinkage, 8 x 8, has `RADIUS` pixels beside a border one to mirror
SHRINKAGES = (1, 2, 4)  # by how much the images are shrunk for the kernels
WAVELENGTHS = (4.0, 4 * 2**0.5)  # of the kernels in pixels, half an octave apart
ORIENTATIONS = 8  # over 180 degrees
# By wavelength: so a response is half the highest at 2/3 and 4/3 of a filter's frequency, an octave
# apart (Manjunath and Ma's sigma, with a = 2).
SIGMA = 3 * np.sqrt(2 * np.log(2)) / (2 * np.pi)  # 0.56
RADIUS = 7  # of kernels, in pixels; 2.2 sigma of the longest
# Of red, green, blue, orthonormal: K. van de Sande, T. Gevers and C. Snoek, "Evaluating Color
# Descriptors for Object and Scene Recognition", IEEE PAMI 32(9), 2010, section 3.1.
PLANES = {
    "intensity": np.array([1, 1, 1]) / np.sqrt(3),
    "red-green": np.array([1, -1, 0]) / np.sqrt(2),
    "yellow-blue": np.array([1, 1, -2]) / np.sqrt(6),
}
TINY = 1e-12  # under the root, which has no slope at 0


class Filter(NamedTuple):
    """What one channel of the output answers to."""

    wavelength: float  # in pixels of the image
    plane: str  # one of `PLANES`
    angle: float  # of the wave's direction, in radians: 0 to the right, pi / 2 down


FILTERS = [
    Filter(shrinkage * wavelength, plane, np.pi * number / ORIENTATIONS)
    for shrinkage in SHRINKAGES
    for wavelength in WAVELENGTHS
    for plane in PLANES
    for number in range(ORIENTATIONS)
]


def build(size: int | None) -> keras.Model:
    """The bank for images of `size` x `size`, 224 if None.

    Raises:
        ValueError: too small a size.
    """
    size = size or SIZE
    if size < SMALLEST:
        raise ValueError(f"at least {SMALLEST} pixels are needed")
    channels = len(FILTERS) // len(SHRINKAGES)
    cells = []
    x = images = keras.Input((size, size, 3), name="input")
    for shrinkage in SHRINKAGES:
        if shrinkage > 1:
            x = keras.layers.AveragePooling2D(2, name=f"shrunk{shrinkage}")(x)
        mirrored = Mirrored(RADIUS, name=f"mirrored{shrinkage}")(x)
        # The response changes slowly, so every second place gives nearly the same means.
        parts = [
            keras.layers.Conv2D(
                channels,
                2 * RADIUS + 1,
                strides=2,
                use_bias=False,
                kernel_initializer=Kernels(part),
                name=f"{part}{shrinkage}",
            )(mirrored)
            for part in ("even", "odd")
        ]
        response = Magnitude(name=f"magnitude{shrinkage}")(parts)
        stride = response.shape[1] // GRID
        window = response.shape[1] - (GRID - 1) * stride  # the cells overlap if they must
        pool = keras.layers.AveragePooling2D(window, stride, name=f"cells{shrinkage}")
        cells.append(pool(response))
    return keras.Model(images, keras.layers.Concatenate(name="filters")(cells), name=NAME)


def kernels(part: str) -> NDArray[np.float32]:
    """The kernels of one shrinkage, float32 (15, 15, 3, 48), in the order of `FILTERS`.

    A wave of amplitude a in a filter's plane, with its wavelength and angle, gets the response a; a
    flat image 0, since the mean is taken off the even kernels by way of the envelope.

    Args:
        part: "even" or "odd".
    """
    y, x = np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]
    found = []
    for wavelength, plane, angle in FILTERS[: len(FILTERS) // len(SHRINKAGES)]:
        envelope = np.exp(-(x**2 + y**2) / (2 * (SIGMA * wavelength) ** 2))
        envelope *= 2 / envelope.sum()
        phase = 2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength
        if part == "even":
            wave = np.cos(phase)
            wave -= (envelope * wave).sum() / envelope.sum()
        else:
            wave = np.sin(phase)
        found.append((envelope * wave)[..., None] * PLANES[plane])
    return np.stack(found, axis=-1).astype(np.float32)


class Kernels(keras.initializers.Initializer):  # type: ignore[misc]
    """Gives `kernels(part)`, whatever the seed."""

    def __init__(self, part: str) -> None:
        self.part = part

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        return keras.ops.convert_to_tensor(kernels(self.part).reshape(shape), dtype)

    def get_config(self) -> dict[str, Any]:
        return {"part": self.part}


class Mirrored(keras.layers.Layer):  # type: ignore[misc]
    """Images continued beyond their border by `radius` pixels of their mirror image.

    So that a border is no edge: (n, height, width, c) to (n, height + 2 radius, ..., c).
    """

    def __init__(self, radius: int, **named: Any) -> None:
        super().__init__(**named)
        self.radius = radius

    def call(self, images: Any) -> Any:
        border = (self.radius, self.radius)
        return keras.ops.pad(images, ((0, 0), border, border, (0, 0)), mode="reflect")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "radius": self.radius}


class Magnitude(keras.layers.Layer):  # type: ignore[misc]
    """The absolute value of complex numbers, given as a pair: real and imaginary parts."""

    def call(self, parts: Any) -> Any:
        real, imaginary = parts
        return keras.ops.sqrt(real * real + imaginary * imaginary + TINY)
