"""What `resize` makes of small pictures whose answer can be worked out by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stages.images.resize import FITS, INTERPOLATIONS, resize


def picture(grey: list[list[int]]) -> Image.Image:
    """An RGB image from one channel's rows; green is inverted and blue is half, to tell them."""
    red = np.array(grey, dtype=np.uint8)
    return Image.fromarray(np.stack([red, 255 - red, red // 2], axis=-1))


def red(pixels: NDArray[np.uint8]) -> list[list[int]]:
    return [[int(value) for value in row] for row in pixels[:, :, 0]]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_an_image_of_the_right_size_keeps_every_value(fit: str, interpolation: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    assert np.array_equal(resize(Image.fromarray(noise), 7, fit, interpolation), noise)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (9, 5), (300, 2), (2, 300)])
def test_the_result_is_a_square_of_uint8_rgb(
    fit: str, interpolation: str, shape: tuple[int, int]
) -> None:
    pixels = resize(Image.new("RGB", shape, "white"), 6, fit, interpolation)
    assert pixels.shape == (6, 6, 3)
    assert pixels.dtype == np.dtype(np.uint8)


def test_squash_scales_both_sides() -> None:
    wide = picture([[0, 20, 100, 120], [40, 60, 140, 160]])
    assert red(resize(wide, 2, "squash", "box")) == [[10, 110], [50, 150]]


def test_channels_stay_in_the_order_red_green_blue() -> None:
    pixels = resize(picture([[200, 200], [200, 200]]), 1, "squash", "bilinear")
    assert pixels.tolist() == [[[200, 55, 100]]]


@pytest.mark.parametrize(
    ("grey", "expected"),
    [
        ([[9, 1, 2, 9], [9, 3, 4, 9]], [[1, 2], [3, 4]]),
        ([[9, 9], [1, 2], [3, 4], [9, 9]], [[1, 2], [3, 4]]),
        ([[1, 2, 9], [3, 4, 9]], [[1, 2], [3, 4]]),  # odd rest: the first of the two middles
    ],
)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_crop_picks_the_centre_and_does_not_blur_it(
    grey: list[list[int]], expected: list[list[int]], interpolation: str
) -> None:
    assert red(resize(picture(grey), 2, "crop", interpolation)) == expected


def test_crop_scales_the_shorter_side_to_the_size() -> None:
    grey = [[9, 9, 10, 30, 50, 70, 9, 9]] * 2 + [[9, 9, 110, 130, 150, 170, 9, 9]] * 2
    assert red(resize(picture(grey), 2, "crop", "box")) == [[20, 60], [120, 160]]


@pytest.mark.parametrize(
    ("grey", "expected"),
    [
        ([[5, 6, 7, 8], [1, 2, 3, 4]], [[0] * 4, [5, 6, 7, 8], [1, 2, 3, 4], [0] * 4]),
        (
            [[5, 6], [7, 8], [1, 2], [3, 4]],
            [[0, 5, 6, 0], [0, 7, 8, 0], [0, 1, 2, 0], [0, 3, 4, 0]],
        ),
        (
            [[5, 6, 7, 8]],
            [[0] * 4, [5, 6, 7, 8], [0] * 4, [0] * 4],
        ),  # odd rest: one above, two below
    ],
)
def test_pad_centres_the_whole_picture_on_black(
    grey: list[list[int]], expected: list[list[int]]
) -> None:
    pixels = resize(picture(grey), 4, "pad", "nearest")
    assert red(pixels) == expected
    assert pixels[0, 0].tolist() == ([0, 0, 0] if expected[0][0] == 0 else [5, 250, 2])


def test_pad_scales_the_longer_side_to_the_size() -> None:
    grey = [[10, 30, 50, 70], [10, 30, 50, 70]]
    assert red(resize(picture(grey), 2, "pad", "box")) == [[20, 60], [0, 0]]


def test_pad_keeps_a_line_of_an_image_that_is_all_length() -> None:
    pixels = resize(Image.new("RGB", (1000, 1), "white"), 4, "pad", "box")
    assert red(pixels) == [[0] * 4, [255] * 4, [0] * 4, [0] * 4]


def test_shrinking_averages_where_nearest_picks() -> None:
    stripes = picture([[0, 255] * 4] * 8)
    assert red(resize(stripes, 2, "squash", "box")) == [[128, 128]] * 2
    assert red(resize(stripes, 2, "squash", "nearest")) == [[0, 0]] * 2


def test_a_mode_other_than_rgb_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^resize: expected an image of mode 'RGB', got 'P'$"):
        resize(Image.new("P", (2, 2)), 2, "squash", "box")


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^resize: expected a fit of .*, got 'stretch'$"):
        resize(Image.new("RGB", (2, 2)), 2, "stretch", "box")
