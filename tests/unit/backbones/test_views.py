"""Views of an image: what each is, that nothing but image, number and seed counts, and geometry."""

import hashlib
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones import views
from pipeline.backbones.views import Ranges

SIZE = 12
NOTHING = {"rotation": 0.0, "shift": 0.0, "shear": 0.0, "zoom": 0.0, "flip": False}
ALL = Ranges(rotation=20, shift=0.2, shear=0.2, zoom=0.2, flip=True)

Pixels = NDArray[np.uint8]
# What is drawn between -1 and 1: angle, right, down, across, along, zoom. Then: a flip below 0.5.
Draw = tuple[float, float, float, float, float, float]
Fix = Callable[..., None]


def images(n: int = 5, size: int = SIZE) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def digests(pictures: Pixels) -> list[bytes]:
    return [hashlib.sha256(picture.tobytes()).digest() for picture in pictures]


def made(
    pictures: Pixels,
    view: int,
    ranges: Ranges = ALL,
    seed: int = 0,
    keys: list[bytes] | None = None,
) -> Pixels:
    found = views.make(pictures, keys or digests(pictures), view, ranges, seed)
    assert found.dtype == np.uint8
    assert found.shape == pictures.shape
    return found


def only(**wanted: float) -> Ranges:
    return Ranges(**{**NOTHING, **wanted})  # type: ignore[arg-type]


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


def test_view_0_is_the_image_itself() -> None:
    assert_array_equal(made(images(), 0), images())


def test_view_1_is_its_mirror_image_left_and_right() -> None:
    assert_array_equal(made(images(), 1), images()[:, :, ::-1])
    assert_array_equal(made(images(), 1)[:, :, 0], images()[:, :, -1])


def test_neither_of_them_depends_on_ranges_or_seed() -> None:
    for view in (0, 1):
        assert_array_equal(made(images(), view, only(), 7), made(images(), view, ALL, 0))


@pytest.mark.parametrize("view", [2, 3, 63])
def test_a_view_is_the_same_in_every_batch_and_order(view: int) -> None:
    whole = made(images(7), view)
    order = [6, 2, 4, 0, 5, 1, 3]
    assert_array_equal(made(images(7)[order], view), whole[order])
    for place in range(7):
        alone = made(images(7)[place : place + 1], view)
        assert_array_equal(alone[0], whole[place])
    assert_array_equal(made(images(7)[2:5], view), whole[2:5])


def test_view_seed_and_image_each_give_another_change() -> None:
    same = np.repeat(images(1), 4, axis=0)
    one, two = digests(images(2))
    found = made(same, 2, keys=[one, two, one, two])
    assert_array_equal(found[:2], found[2:])
    others = [found[0], found[1], made(same, 3, keys=[one] * 4)[0]]
    others.append(made(same, 2, seed=1, keys=[one] * 4)[0])
    assert len({other.tobytes() for other in others} | {same[0].tobytes()}) == 5


def test_the_seed_counts_up_to_its_largest_value() -> None:
    found = {made(images(1), 2, seed=seed).tobytes() for seed in (0, 2**31 - 1, 2**31 - 2)}
    assert len(found) == 3


def test_these_are_the_changes_of_seed_0() -> None:
    """They may not change unnoticed: an augmented view is kept under image, number and seed."""
    change = views._change(bytes(32), 2, ALL, 0, SIZE)
    assert change.dtype == np.float32
    expected = [1.185631, -0.434958, -0.828171, 0.179553, 1.124593, -3.320004, 0, 0]
    np.testing.assert_allclose(change, expected, atol=2e-6)


def test_with_nothing_wanted_every_view_is_the_image() -> None:
    for view in (2, 3, 17):
        assert_array_equal(made(images(), view, only()), images())


def test_a_flip_alone_mirrors_some_images_and_leaves_the_others() -> None:
    pictures = images(16)
    found = made(pictures, 2, only(flip=True))
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(found, pictures, strict=True)]
    left = [np.array_equal(a, b) for a, b in zip(found, pictures, strict=True)]
    assert [a or b for a, b in zip(mirrored, left, strict=True)] == [True] * 16
    assert 0 < sum(mirrored) < 16


@pytest.mark.parametrize(("flip", "mirrored"), [(0.49, True), (0.5, False)])
def test_half_of_the_views_are_flipped(flip: float, mirrored: bool, fix: Fix) -> None:
    fix((0, 0, 0, 0, 0, 0), flip)
    expected = images()[:, :, ::-1] if mirrored else images()
    assert_array_equal(made(images(), 2, only(flip=True)), expected)


@pytest.mark.parametrize(("right", "down"), [(0.5, 0.0), (0.0, -1.0), (-0.5, 1.0)])
def test_a_shift_takes_pixels_from_that_far_and_repeats_the_border(
    right: float, down: float, fix: Fix
) -> None:
    fix((0, right, down, 0, 0, 0))
    found = made(images(), 2, only(shift=1 / 3))  # at most 4 of 12 pixels
    rows = np.clip(np.arange(SIZE) + int(down * 4), 0, SIZE - 1)
    columns = np.clip(np.arange(SIZE) + int(right * 4), 0, SIZE - 1)
    assert_array_equal(found, images()[:, rows][:, :, columns])


@pytest.mark.parametrize(("angle", "turns"), [(1.0, 2), (-1.0, 2), (0.5, 1), (-0.5, 3)])
def test_a_rotation_turns_about_the_centre(angle: float, turns: int, fix: Fix) -> None:
    fix((angle, 0, 0, 0, 0, 0))
    found = made(images(), 2, only(rotation=180))
    assert_array_equal(found, np.rot90(images(), turns, axes=(1, 2)))


def test_a_zoom_takes_pixels_about_the_centre(fix: Fix) -> None:
    """At the scale 0.5 a pixel of the view lies at half its distance from the centre."""
    fix((0, 0, 0, 0, 0, -1))
    found = made(images(), 2, only(zoom=0.5))
    places = 5.5 + (np.arange(SIZE) - 5.5) / 2
    assert_array_equal(found, interpolated(images(), places, places))


def interpolated(
    pictures: Pixels, rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> Pixels:
    """Bilinear values at these rows and columns, by hand."""
    found = pictures.astype(np.float64)
    for axis, places in ((1, rows), (2, columns)):
        low = np.floor(places).astype(int)
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        weight = (places - low).reshape(shape)
        above = np.take(found, np.minimum(low + 1, SIZE - 1), axis)
        found = np.take(found, low, axis) * (1 - weight) + above * weight
    return np.rint(found).astype(np.uint8)


@pytest.mark.parametrize("which", ["across", "along"])
def test_a_shear_moves_rows_or_columns_against_each_other(which: str, fix: Fix) -> None:
    fix((0, 0, 0, float(which == "across"), float(which == "along"), 0))
    pictures = images(size=13)  # whose centre is a pixel
    found = made(pictures, 2, only(shear=1.0))
    for line in range(13):
        places = np.clip(np.arange(13) + (line - 6), 0, 12)
        if which == "across":
            assert_array_equal(found[:, line], pictures[:, line][:, places])
        else:
            assert_array_equal(found[:, :, line], pictures[:, :, line][:, places])


def test_a_change_turns_first_and_shifts_last(fix: Fix) -> None:
    fix((0.5, 0.5, 0, 0, 0, 0))
    found = made(images(), 2, only(rotation=180, shift=1 / 3))
    turned = np.rot90(images(), 1, axes=(1, 2))
    fix((0.5, 0, 0, 0, 0, 0))
    assert_array_equal(made(images(), 2, only(rotation=180)), turned)
    assert not np.array_equal(found, turned)
    # The view's pixel takes the turned place, moved by two columns of the image.
    columns = np.clip(np.arange(SIZE) + 2, 0, SIZE - 1)
    moved = images()[:, :, columns]
    assert_array_equal(found, np.rot90(moved, 1, axes=(1, 2)))
