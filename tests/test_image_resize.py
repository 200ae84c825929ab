"""What `resize` makes of small pictures whose answer can be worked out by hand."""

import functools
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from cykooz_resizer import CpuExtensions, ResizeOptions, Resizer
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.decode import decode, decode_reduced
from pipeline.images.resize import FITS, INTERPOLATIONS, enough, resize


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


FILTERS = {  # of which Pillow's arithmetic is the reference
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [31, 57, 150])
def test_pixels_are_those_of_pillows_filter_of_that_name_but_for_rounding(
    size: int, interpolation: str
) -> None:
    y, x = np.mgrid[:80, :100]
    waves = np.stack([np.sin(x / 5), np.cos(y / 4), np.sin((x + y) / 7)], axis=-1)
    smooth = Image.fromarray(np.rint(100 * waves + 128).astype(np.uint8))
    theirs = np.asarray(smooth.resize((size, size), FILTERS[interpolation])).astype(int)
    error = np.abs(resize(smooth, size, "squash", interpolation) - theirs)
    assert error.max() <= 2
    assert error.mean() < 0.25


def test_every_kind_of_processor_gives_the_same_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    given = {}
    for kind in CpuExtensions:
        resizer = Resizer()
        resizer.cpu_extensions = kind
        if resizer.cpu_extensions != kind:  # this processor has no such instructions
            continue
        pixels = Image.new("RGB", (60, 60))
        resizer.resize_pil(Image.fromarray(noise), pixels, ResizeOptions(INTERPOLATIONS["bicubic"]))
        given[kind] = pixels.tobytes()
    ours = resize(Image.fromarray(noise), 60, "squash", "bicubic").tobytes()
    assert CpuExtensions.none in given
    assert set(given.values()) == {ours}


def test_threads_resize_at_once_and_each_gets_its_own_picture() -> None:
    def mean(grey: int) -> float:
        return float(
            resize(Image.new("RGB", (400, 300), (grey,) * 3), 64, "crop", "bicubic").mean()
        )

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(mean, [*range(256)] * 4)) == [*range(256)] * 4


SMOOTHING = [name for name in INTERPOLATIONS if enough(1, name)]


def test_all_interpolations_but_those_that_pick_pixels_need_twice_the_size() -> None:
    found = {name: enough(224, name) for name in INTERPOLATIONS}
    assert found == dict.fromkeys(INTERPOLATIONS, 448) | {"nearest": None, "box": None}


@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("interpolation", SMOOTHING)
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(203, 157), (157, 203), (200, 160)])
def test_of_a_reduced_image_the_same_part_is_taken_to_the_fraction_of_a_pixel(
    shape: tuple[int, int], fit: str, interpolation: str, factor: int
) -> None:
    y, x = np.mgrid[: shape[1], : shape[0]]
    ramps = Image.fromarray(np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8))
    size = min(shape) // factor // 2
    direct = resize(ramps, size, fit, interpolation).astype(int)
    again = resize(ramps.reduce(factor), size, fit, interpolation, shape, factor).astype(int)
    inner = np.abs(direct - again)[1:-1, 1:-1]  # at the edges a filter meets other pixels
    assert inner.max() <= 2


@functools.cache
def detailed_jpeg() -> bytes:
    """333 x 251 pixels: waves of all lengths and directions, fine ones weaker, and hard edges."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:251, :333] / 100
    picture = np.zeros((251, 333, 3))
    for _ in range(60):
        length = np.exp(random.uniform(np.log(0.02), 0))  # 2 to 100 pixels
        angle, shift = random.uniform(0, 2 * np.pi, 2)
        along = (x * np.cos(angle) + y * np.sin(angle)) / length
        wave = np.sin(2 * np.pi * along + shift)
        picture += length * wave[..., None] * random.uniform(-1, 1, 3)
    picture *= 60 / picture.std()
    picture[80:120, 80:160] = (200, -20, 90)
    values = np.clip(picture + 128, 0, 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize(("size", "factor"), [(60, 2), (30, 4), (15, 8)])
@pytest.mark.parametrize("interpolation", SMOOTHING)
@pytest.mark.parametrize("fit", FITS)
def test_a_jpeg_reduced_while_decoding_gives_almost_the_same_pixels(
    fit: str, interpolation: str, size: int, factor: int
) -> None:
    reduced = decode_reduced(detailed_jpeg(), enough(size, interpolation))
    assert reduced.factor == factor
    ours = resize(reduced.image, size, fit, interpolation, reduced.whole, reduced.factor)
    whole = resize(decode(detailed_jpeg()), size, fit, interpolation)
    error = np.abs(ours.astype(int) - whole)
    assert error.mean() < 1.5
    assert np.percentile(error, 99) <= 6


def test_a_jpeg_that_is_less_than_four_times_as_large_gives_the_very_same_pixels() -> None:
    reduced = decode_reduced(detailed_jpeg(), enough(63, "bicubic"))
    ours = resize(reduced.image, 63, "squash", "bicubic", reduced.whole, reduced.factor)
    assert np.array_equal(ours, resize(decode(detailed_jpeg()), 63, "squash", "bicubic"))


def test_a_mode_other_than_rgb_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^resize: expected an image of mode 'RGB', got 'P'$"):
        resize(Image.new("P", (2, 2)), 2, "squash", "box")


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^resize: expected a fit of .*, got 'stretch'$"):
        resize(Image.new("RGB", (2, 2)), 2, "stretch", "box")
