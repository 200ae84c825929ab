"""Heatmaps leave unimportant parts as they are; grids repeat and show what varies most."""

from pathlib import Path

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from PIL import Image

from pipeline.reporting import heatmaps

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (64, 64, 3), np.uint8)
ACTIVATIONS = RNG.normal(size=(7, 9, 40)).astype(np.float32)
HOTTEST = np.array([252, 255, 164])  # last color of inferno
DARKEST = [68, 1, 84]  # first color of viridis


def opened(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_zeros_leave_the_image_and_ones_cover_it_evenly() -> None:
    assert_array_equal(heatmaps.overlay(IMAGE, np.zeros((7, 7), np.float32)), IMAGE)
    covered = heatmaps.overlay(IMAGE, np.ones((7, 7), np.float32))
    assert covered.dtype == np.uint8
    assert_allclose(covered, 0.35 * IMAGE + 0.65 * HOTTEST, atol=1)


def test_the_color_lies_where_the_heatmap_is_high_and_fades_smoothly() -> None:
    heatmap = np.zeros((4, 4), np.float32)
    heatmap[0, 3] = 1  # of 16 x 16 pixels each
    gray = np.full((64, 64, 3), 128, np.uint8)
    change = np.abs(heatmaps.overlay(gray, heatmap).astype(int) - gray).sum(axis=-1)
    row, column = np.unravel_index(change.argmax(), change.shape)
    assert (row < 16, column >= 48) == (True, True)
    assert change[:, :16].max() == change[48:].max() == 0
    assert np.abs(np.diff(change, axis=1)).max() < change.max() / 3


def test_a_grid_shows_the_channels_that_vary_most_by_falling_variance(tmp_path: Path) -> None:
    spread = np.array([1, 3, 0.1, 2], np.float32)
    activations = ACTIVATIONS[..., :4] / ACTIVATIONS[..., :4].std(axis=(0, 1)) * spread
    files = []
    for number, scale in enumerate(([1, 1, 1, 1], [0.5, 2, 0, 1], [9, 1, 1, 1])):
        path = tmp_path / f"{number}.png"
        heatmaps.activation_grid(path, activations * np.array(scale), "_$\\frac{", most=2)
        files.append(path.read_bytes())
    assert files[0] == files[1] != files[2]
    heatmaps.activation_grid(tmp_path / "grid.png", np.full((4, 4, 1), 7.0), "layer")
    assert DARKEST in opened(tmp_path / "grid.png").reshape(-1, 3).tolist()  # a constant channel


def test_tiles_stand_side_by_side_in_their_colors(tmp_path: Path) -> None:
    tiles = np.zeros((2, 24, 24, 3), np.uint8)
    tiles[0, ..., 0], tiles[1, ..., 2] = 255, 255
    heatmaps.grid(tmp_path / "grid.png", tiles, [3, 17], "layer")
    pixels = opened(tmp_path / "grid.png")
    red, blue = (np.nonzero((pixels == color).all(axis=-1)) for color in [(255, 0, 0), (0, 0, 255)])
    assert min(len(red[0]), len(blue[0])) > 100 * 100
    assert red[1].max() < blue[1].min()
    assert red[0].min() == blue[0].min()
