"""What each Gabor filter responds to, and the order of their output."""

from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones import build, gabor, openvino, weights
from pipeline.backbones.batch_norm_folding import fold

SIZE = 96
AMPLITUDE = 0.25


def grating(filter: gabor.Filter) -> NDArray[np.float32]:
    """Stripes of a filter's wavelength, plane and angle on grey, (96, 96, 3), values 0 to 1."""
    y, x = np.mgrid[:SIZE, :SIZE]
    along = x * np.cos(filter.angle) + y * np.sin(filter.angle)
    wave = np.cos(2 * np.pi * along / filter.wavelength)
    pixels: NDArray[np.float64] = 0.5 + AMPLITUDE * wave[..., None] * gabor.PLANES[filter.plane]
    return pixels.astype(np.float32)


def images(n: int, size: int = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def bank() -> keras.Model:
    return gabor.network(SIZE)


@pytest.fixture(scope="module")
def responses(bank: keras.Model) -> NDArray[np.float32]:
    """To the grating of each filter (row), of each filter (column), in the middle of the image."""
    cells = bank.predict_on_batch(np.stack([grating(filter) for filter in gabor.FILTERS]))
    middle: NDArray[np.float32] = cells[:, 1:3, 1:3].mean(axis=(1, 2))
    return middle


def test_a_grating_excites_the_filter_of_its_wavelength_plane_and_angle_most(
    responses: NDArray[np.float32],
) -> None:
    assert_array_equal(responses.argmax(axis=1), np.arange(144))
    others = np.sort(responses, axis=1)[:, -2]
    assert (others < 0.8 * responses.diagonal()).all()
    assert_allclose(responses.diagonal()[:48], AMPLITUDE, rtol=0.005)  # those without downsampling
    of = np.array([filter.plane for filter in gabor.FILTERS])
    for plane in gabor.PLANES:
        assert responses[of == plane][:, of != plane].max() < 1e-5


def test_a_flat_image_excites_nothing_not_even_at_its_border(bank: keras.Model) -> None:
    colors = np.reshape([(0, 0, 0), (255, 255, 255), (250, 128, 3)], (3, 1, 1, 3))
    flat = np.tile(colors.astype(np.float32) / 255, (1, SIZE, SIZE, 1))
    assert abs(bank.predict_on_batch(flat)).max() < 2e-6


def test_a_kernel_has_the_values_of_the_formula() -> None:
    """The first: 4 pixels, intensity, 0 degrees; sigma is 0.5622 * 4 pixels."""
    a = np.exp(-1 / (2 * (0.562_172 * 4) ** 2))
    powers = a ** (np.arange(-7, 8) ** 2)
    norm = 2 / powers.sum() ** 2 / np.sqrt(3)
    odd = gabor.kernels("odd")[:, :, :, 0]
    assert_allclose(odd[7, 7:12, 0], norm * np.array([0, a, 0, -(a**9), 0]), rtol=1e-5, atol=1e-9)
    assert_allclose(odd[9, 8], norm * np.array([a**5] * 3), rtol=1e-5)
    even = gabor.kernels("even")[:, :, :, 0]
    assert_allclose(even[7, 7, 0] - even[7, 8, 0] / a, norm, rtol=1e-5)  # cos 0 less cos 90 degrees


@pytest.mark.parametrize("size", [32, 33, 50, 150])
def test_the_output_is_a_grid_of_4_by_4_cells_at_every_size(size: int) -> None:
    bank = build.network("gabor", size, include_top=False, weights=None)
    assert bank.input_shape == (None, size, size, 3)
    assert bank.output_shape == (None, 4, 4, 144)
    assert bank.count_params() == 3 * 2 * 15 * 15 * 3 * 48
    cells = bank.predict_on_batch(images(1, size) / np.float32(255))
    assert (cells.shape, cells.dtype) == ((1, 4, 4, 144), np.float32)
    assert (cells.mean(axis=(1, 2)) > 0.001).all()


def test_stripes_excite_the_cell_in_which_they_are(bank: keras.Model) -> None:
    pixels = np.full((SIZE, SIZE, 3), 0.5, dtype=np.float32)
    cell = np.s_[48:72, 24:48]  # of 24 x 24 pixels
    pixels[cell] = grating(gabor.FILTERS[0])[cell]
    cells = bank.predict_on_batch(pixels[None])[0, :, :, 0]
    assert np.unravel_index(cells.argmax(), (4, 4)) == (2, 1)
    assert np.sort(cells.ravel())[-2] < 0.2 * cells.max()


def test_another_seed_gives_the_same_weights() -> None:
    first, other = (weights.random("gabor", False, seed) for seed in (0, 1))
    assert weights.digest(first) == weights.digest(other)
    for part, array in zip(("even", "odd"), first.get_weights()[:2], strict=True):
        assert_array_equal(array, gabor.kernels(part))


def test_folding_changes_nothing_and_bfloat16_little(bank: keras.Model) -> None:
    pixels = images(2) / np.float32(255)
    expected = bank.predict_on_batch(pixels)
    assert_array_equal(fold(bank).predict_on_batch(pixels), expected)
    rounded = fold(bank, "bfloat16").predict_on_batch(pixels).astype(np.float32)
    assert 0 < abs(rounded - expected).max() < 0.03 * expected.max()


def test_openvino_gives_the_features_of_keras_up_to_rounding(
    bank: keras.Model, tmp_path: Path
) -> None:
    extractor = build.extractor(bank, "gabor", None, "flatten", "float32")
    expected = extractor.predict_on_batch(images(4))
    weights.convert(extractor, tmp_path / "gabor")
    network = openvino.Network(tmp_path / "gabor")
    network.compile("float32", 1, None)
    features = network(images(4))
    assert_allclose(features, expected, atol=1e-5 * expected.max())


def test_the_gradient_of_a_flat_image_is_finite() -> None:
    """The square root has no derivative at 0, the response to a flat image."""
    extractor = build.extractor(gabor.network(32), "gabor", None, "avg")
    build.unfreeze_from(extractor, "even4")
    trunk = extractor.get_layer("trunk").model
    assert [layer.name for layer in trunk.layers if layer.trainable_weights] == ["even4", "odd4"]
    before = extractor.get_weights()
    extractor.compile("sgd", "mse")
    extractor.train_on_batch(np.full((2, 32, 32, 3), 255.0), np.ones((2, 144)))
    after = extractor.get_weights()
    assert all(np.isfinite(array).all() for array in after)
    assert not all(map(np.array_equal, before, after))
