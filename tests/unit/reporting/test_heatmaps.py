"""Overlays and grids: unimportant parts stay true, files repeat, and titles are no markup."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from PIL import Image

from pipeline.reporting import heatmaps

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (64, 64, 3), np.uint8)
ACTIVATIONS = RNG.normal(size=(7, 9, 40)).astype(np.float32)
FILTERS = RNG.integers(0, 256, (11, 24, 24, 3), np.uint8)
HOTTEST = np.array([252, 255, 164])  # inferno's last colour

DRAWINGS: dict[str, Callable[[Path], None]] = {
    "activations": lambda path: heatmaps.activation_grid(path, ACTIVATIONS, "conv1"),
    "activations of one channel": lambda path: heatmaps.activation_grid(
        path, ACTIVATIONS[..., :1], "$\\frac{"
    ),
    "filters": lambda path: heatmaps.filter_grid(path, FILTERS, range(11), "_$x_1$"),
    "picture": lambda path: heatmaps.write_picture(path, PHOTO),
}


def opened(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_a_map_of_zeros_leaves_the_image_and_one_of_ones_covers_it_evenly() -> None:
    assert_array_equal(heatmaps.overlay(PHOTO, np.zeros((7, 7), np.float32)), PHOTO)
    covered = heatmaps.overlay(PHOTO, np.ones((7, 7), np.float32))
    assert covered.dtype == np.uint8
    assert_allclose(covered, 0.35 * PHOTO + 0.65 * HOTTEST, atol=1)


def test_the_colour_lies_where_the_map_is_high_and_fades_smoothly() -> None:
    heatmap = np.zeros((4, 4), np.float32)
    heatmap[0, 3] = 1  # of 16 x 16 pixels each
    grey = np.full((64, 64, 3), 128, np.uint8)
    change = np.abs(heatmaps.overlay(grey, heatmap).astype(int) - grey).sum(axis=-1)
    assert np.unravel_index(change.argmax(), change.shape)[0] < 16
    assert np.unravel_index(change.argmax(), change.shape)[1] >= 48
    assert change[:, :16].max() == change[48:].max() == 0
    assert np.abs(np.diff(change, axis=1)).max() < change.max() / 3


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_file_repeats_byte_for_byte(draw: Callable[[Path], None], tmp_path: Path) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    draw(first)
    draw(second)
    assert first.read_bytes() == second.read_bytes()
    assert len(np.unique(opened(first).reshape(-1, 3), axis=0)) > 20


def test_a_written_picture_has_its_pixels(tmp_path: Path) -> None:
    heatmaps.write_picture(tmp_path / "photo.png", PHOTO)
    assert_array_equal(opened(tmp_path / "photo.png"), PHOTO)


def test_a_grid_shows_the_channels_that_vary_most_by_falling_variance(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{number}.png" for number in range(3))
    spread = np.array([1, 3, 0.1, 2], np.float32)
    activations = ACTIVATIONS[..., :4] / ACTIVATIONS[..., :4].std(axis=(0, 1)) * spread
    heatmaps.activation_grid(first, activations, "layer", most=2)
    heatmaps.activation_grid(second, activations * np.array([0.5, 2, 0, 1]), "layer", most=2)
    assert first.read_bytes() == second.read_bytes()
    heatmaps.activation_grid(third, activations * np.array([9, 1, 1, 1]), "layer", most=2)
    assert first.read_bytes() != third.read_bytes()


def test_a_channel_of_one_value_is_dark(tmp_path: Path) -> None:
    heatmaps.activation_grid(tmp_path / "grid.png", np.full((4, 4, 1), 7.0), "layer")
    shown = opened(tmp_path / "grid.png").reshape(-1, 3).tolist()
    assert [68, 1, 84] in shown  # viridis' first colour


def test_a_filters_picture_stands_in_the_grid_in_its_colours(tmp_path: Path) -> None:
    red_and_blue = np.zeros((2, 24, 24, 3), np.uint8)
    red_and_blue[0, ..., 0], red_and_blue[1, ..., 2] = 255, 255
    heatmaps.filter_grid(tmp_path / "grid.png", red_and_blue, [3, 17], "layer")
    found = opened(tmp_path / "grid.png")
    red, blue = (
        np.nonzero((found == colour).all(axis=-1)) for colour in [(255, 0, 0), (0, 0, 255)]
    )
    assert min(len(red[0]), len(blue[0])) > 100 * 100
    assert red[1].max() < blue[1].min()
    assert red[0].min() == blue[0].min()
