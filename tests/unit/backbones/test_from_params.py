"""Views depend on image, number and seed only, and are these affine maps."""

import hashlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones import from_params

SIZE = 12
NOTHING = {"rotation": 0.0, "shift": 0.0, "shear": 0.0, "zoom": 0.0, "flip": False}
ALL = {"rotation": 20, "shift": 0.2, "shear": 0.2, "zoom": 0.2, "flip": True}

Pixels = NDArray[np.uint8]
Ranges = dict[str, float]
# Drawn between -1 and 1: angle, right, down, across, along, zoom; then a number, a flip below 0.5.
Draw = tuple[float, float, float, float, float, float]
Fix = Callable[..., None]


def images(n: int = 5, size: int = SIZE) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def digests(pixels: Pixels) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in pixels]


def made(
    pixels: Pixels,
    view: int,
    ranges: Ranges = ALL,
    seed: int = 0,
    keys: list[bytes] | None = None,
) -> Pixels:
    params: Any = SimpleNamespace(extract=SimpleNamespace(changes=lambda: (ranges, seed)))
    result = from_params.view(params, pixels, keys or digests(pixels), view)
    assert (str(result.dtype), result.shape) == ("uint8", pixels.shape)
    return result


def only(**limits: float) -> Ranges:
    return NOTHING | limits


@pytest.fixture
def fix(monkeypatch: pytest.MonkeyPatch) -> Fix:
    """Draw these numbers for every image."""

    def fix(drawn: Draw, flip: float = 0.9) -> None:
        class Fixed:
            def __init__(self, bits: object) -> None:
                pass

            def uniform(self, low: float, high: float, count: int) -> NDArray[np.float64]:
                assert (low, high, count) == (-1, 1, 6)
                return np.array(drawn)

            def random(self) -> float:
                return flip

        monkeypatch.setattr(np.random, "Generator", Fixed)

    return fix


@pytest.mark.parametrize(("ranges", "seed"), [(ALL, 0), (only(), 7)])
def test_view_0_is_the_image_and_view_1_its_mirror_image(ranges: Ranges, seed: int) -> None:
    assert_array_equal(made(images(), 0, ranges, seed), images())
    assert_array_equal(made(images(), 1, ranges, seed), images()[:, :, ::-1])


@pytest.mark.parametrize("view", [2, 3, 63])
def test_a_view_is_the_same_in_every_batch_and_order(view: int) -> None:
    expected = made(images(7), view)
    for order in ([6, 2, 4, 0, 5, 1, 3], [2, 3, 4], *[[index] for index in range(7)]):
        assert_array_equal(made(images(7)[order], view), expected[order])


def test_view_seed_and_image_each_give_another_map() -> None:
    same = np.repeat(images(1), 4, axis=0)
    one, two = digests(images(2))
    found = made(same, 2, keys=[one, two, one, two])
    assert_array_equal(found[:2], found[2:])
    others = [found[0], found[1], made(same, 3, keys=[one] * 4)[0], same[0]]
    seeds = (1, 2**31 - 1, 2**31 - 2)
    others += [made(same, 2, seed=seed, keys=[one] * 4)[0] for seed in seeds]
    assert len({other.tobytes() for other in others}) == 7


def test_this_is_a_map_of_seed_0() -> None:
    """It must not change, since cached views depend on it."""
    transform = from_params._transform(bytes(32), 2, ALL, 0, SIZE)
    assert transform.dtype == np.float32
    expected = [1.185631, -0.434958, -0.828171, 0.179553, 1.124593, -3.320004, 0, 0]
    np.testing.assert_allclose(transform, expected, atol=2e-6)


@pytest.mark.parametrize("view", [2, 3, 17])
def test_without_ranges_every_view_is_the_image(view: int) -> None:
    assert_array_equal(made(images(), view, only()), images())


def test_a_flip_mirrors_some_images_and_leaves_the_others() -> None:
    found = zip(made(images(16), 2, only(flip=True)), images(16), strict=True)
    mirrored = [np.array_equal(view, image[:, ::-1]) for view, image in found]
    expected = np.where(np.reshape(mirrored, (-1, 1, 1, 1)), images(16)[:, :, ::-1], images(16))
    assert_array_equal(made(images(16), 2, only(flip=True)), expected)
    assert 0 < sum(mirrored) < 16


@pytest.mark.parametrize(("flip", "mirrored"), [(0.49, True), (0.5, False)])
def test_a_number_below_one_half_flips(flip: float, mirrored: bool, fix: Fix) -> None:
    fix((0, 0, 0, 0, 0, 0), flip)
    expected = images()[:, :, ::-1] if mirrored else images()
    assert_array_equal(made(images(), 2, only(flip=True)), expected)


@pytest.mark.parametrize(("right", "down"), [(0.5, 0.0), (0.0, -1.0), (-0.5, 1.0)])
def test_a_shift_takes_pixels_from_that_far_and_repeats_the_border(
    right: float, down: float, fix: Fix
) -> None:
    fix((0, right, down, 0, 0, 0))
    view = made(images(), 2, only(shift=1 / 3))  # at most 4 of 12 pixels
    rows = np.clip(np.arange(SIZE) + int(down * 4), 0, SIZE - 1)
    columns = np.clip(np.arange(SIZE) + int(right * 4), 0, SIZE - 1)
    assert_array_equal(view, images()[:, rows][:, :, columns])


@pytest.mark.parametrize(("angle", "turns"), [(1.0, 2), (-1.0, 2), (0.5, 1), (-0.5, 3)])
def test_a_rotation_turns_about_the_center(angle: float, turns: int, fix: Fix) -> None:
    fix((angle, 0, 0, 0, 0, 0))
    expected = np.rot90(images(), turns, axes=(1, 2))
    assert_array_equal(made(images(), 2, only(rotation=180)), expected)


def test_a_zoom_takes_pixels_about_the_center(fix: Fix) -> None:
    """At the scale 0.5 a pixel of the view lies at half its distance from the center."""
    fix((0, 0, 0, 0, 0, -1))
    positions = 5.5 + (np.arange(SIZE) - 5.5) / 2
    low = np.floor(positions).astype(int)
    expected = images().astype(np.float64)
    for axis, shape in ((1, (-1, 1, 1)), (2, (-1, 1))):  # bilinear, by hand
        weight = (positions - low).reshape(shape)
        above = np.take(expected, low + 1, axis)
        expected = np.take(expected, low, axis) * (1 - weight) + above * weight
    assert_array_equal(made(images(), 2, only(zoom=0.5)), np.rint(expected))


@pytest.mark.parametrize("across", [True, False])
def test_a_shear_moves_rows_or_columns_against_each_other(across: bool, fix: Fix) -> None:
    fix((0, 0, 0, float(across), float(not across), 0))
    pixels = images(size=13)  # whose center is a pixel
    view = made(pixels, 2, only(shear=1.0))
    if not across:
        view, pixels = view.swapaxes(1, 2), pixels.swapaxes(1, 2)
    for line in range(13):
        positions = np.clip(np.arange(13) + (line - 6), 0, 12)
        assert_array_equal(view[:, line], pixels[:, line][:, positions])


def test_a_map_rotates_first_and_shifts_last(fix: Fix) -> None:
    fix((0.5, 0.5, 0, 0, 0, 0))
    view = made(images(), 2, only(rotation=180, shift=1 / 3))
    # A pixel of the view takes the rotated position, moved by two columns of the image.
    moved = images()[:, :, np.clip(np.arange(SIZE) + 2, 0, SIZE - 1)]
    assert_array_equal(view, np.rot90(moved, 1, axes=(1, 2)))
