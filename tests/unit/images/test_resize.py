"""Resizing of small images with results that can be worked out by hand."""

import numpy as np
import pytest
from bad_images import encoded
from cykooz_resizer import CpuExtensions, ResizeOptions, Resizer
from PIL import Image

from pipeline.images.decode import decode
from pipeline.images.resize import FITS, INTERPOLATIONS, decode_and_resize, min_side, resize

SMOOTH = [name for name in INTERPOLATIONS if min_side(1, name)]
NOISE = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)

Rows = list[list[int]]


def rgb(red: Rows) -> Image.Image:
    """An image of these red values; green is inverted and blue is half, to tell them apart."""
    values = np.array(red, dtype=np.uint8)
    return Image.fromarray(np.stack([values, 255 - values, values // 2], axis=-1))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_an_image_of_the_right_size_keeps_every_value(fit: str, interpolation: str) -> None:
    square = NOISE[:7, :7]
    assert np.array_equal(resize(Image.fromarray(square), 7, fit, interpolation), square)


QUARTERS = [[0, 20, 100, 120], [40, 60, 140, 160]]
STRIPES = [[0, 255] * 4] * 8
LONG = [[10, 30, 50, 70], [10, 30, 50, 70]]
WIDE = [[9, 9, 10, 30, 50, 70, 9, 9]] * 2 + [[9, 9, 110, 130, 150, 170, 9, 9]] * 2
SCALED: dict[str, tuple[Rows, int, str, str, Rows]] = {
    "squash scales both sides": (QUARTERS, 2, "squash", "box", [[10, 110], [50, 150]]),
    "shrinking averages": (STRIPES, 2, "squash", "box", [[128, 128]] * 2),
    "nearest does not": (STRIPES, 2, "squash", "nearest", [[0, 0]] * 2),
    "crop scales the shorter side": (WIDE, 2, "crop", "box", [[20, 60], [120, 160]]),
    "pad scales the longer side": (LONG, 2, "pad", "box", [[20, 60], [0, 0]]),
    "pad keeps a line": ([[255] * 1000], 4, "pad", "box", [[0] * 4, [255] * 4, [0] * 4, [0] * 4]),
    "pad centers what is wide": ([[5] * 4], 3, "pad", "nearest", [[0] * 3, [5] * 3, [0] * 3]),
    "pad centers what is high": ([[5, 6]] * 4, 4, "pad", "nearest", [[0, 5, 6, 0]] * 4),
}


@pytest.mark.parametrize("case", SCALED)
def test_fits_do_what_they_say(case: str) -> None:
    values, size, fit, interpolation, expected = SCALED[case]
    pixels = resize(rgb(values), size, fit, interpolation)
    assert pixels.dtype == np.uint8
    assert pixels[:, :, 0].tolist() == expected
    if case == "pad scales the longer side":
        assert pixels.tolist() == [
            [[20, 235, 10], [60, 195, 30]],
            [[0] * 3] * 2,
        ]  # red, green, blue


@pytest.mark.parametrize(
    "values",
    [
        [[9, 1, 2, 9], [9, 3, 4, 9]],
        [[9, 9], [1, 2], [3, 4], [9, 9]],
        [[1, 2, 9], [3, 4, 9]],  # odd rest: the first of the two middles
    ],
)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_crop_takes_the_center_and_does_not_blur_it(values: Rows, interpolation: str) -> None:
    assert resize(rgb(values), 2, "crop", interpolation)[:, :, 0].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "box"])
@pytest.mark.parametrize("size", [31, 57, 150])
def test_pixels_are_those_of_pillow_but_for_rounding(size: int, interpolation: str) -> None:
    y, x = np.mgrid[:80, :100]
    waves = np.stack([np.sin(x / 5), np.cos(y / 4), np.sin((x + y) / 7)], axis=-1)
    smooth = Image.fromarray(np.rint(100 * waves + 128).astype(np.uint8))
    theirs = smooth.resize((size, size), Image.Resampling[interpolation.upper()])
    error = np.abs(resize(smooth, size, "squash", interpolation) - np.asarray(theirs, dtype=int))
    assert error.max() <= 2
    assert error.mean() < 0.25


def test_every_kind_of_processor_gives_the_same_bytes() -> None:
    results = {}
    for kind in CpuExtensions:
        resizer = Resizer()
        resizer.cpu_extensions = kind
        if resizer.cpu_extensions != kind:  # this processor has no such instructions
            continue
        pixels = Image.new("RGB", (60, 60))
        resizer.resize_pil(Image.fromarray(NOISE), pixels, ResizeOptions(INTERPOLATIONS["bicubic"]))
        results[kind] = pixels.tobytes()
    assert CpuExtensions.none in results
    ours = resize(Image.fromarray(NOISE), 60, "squash", "bicubic").tobytes()
    assert set(results.values()) == {ours}


def test_smooth_filters_need_twice_the_size_and_others_all_pixels() -> None:
    sides = {name: min_side(224, name) for name in INTERPOLATIONS}
    assert sides == dict.fromkeys(INTERPOLATIONS, 448) | {"nearest": None, "box": None}


@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("interpolation", SMOOTH)
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


COARSE, FINE = (Image.fromarray(NOISE[:n, :n]).resize((333, 251)) for n in (12, 90))
JPEG = encoded(Image.blend(COARSE, FINE, 0.2), "JPEG", quality=90)


@pytest.mark.parametrize(("size", "factor"), [(63, 1), (60, 2), (30, 4), (15, 8)])
@pytest.mark.parametrize("interpolation", SMOOTH)
@pytest.mark.parametrize("fit", FITS)
def test_a_jpeg_reduced_while_decoding_gives_almost_the_same_pixels(
    fit: str, interpolation: str, size: int, factor: int
) -> None:
    """The very same ones where it is less than four times as large."""
    assert decode(JPEG, min_side(size, interpolation)).factor == factor
    ours = decode_and_resize(JPEG, size, fit, interpolation)
    error = np.abs(ours.astype(int) - resize(decode(JPEG).image, size, fit, interpolation))
    assert error.mean() < (1.5 if factor > 1 else 1e-9)
    assert np.percentile(error, 99) <= 6
