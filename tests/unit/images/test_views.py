"""Views depend on image, number and seed only, and are these affine maps."""

import hashlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from pipeline.images import views

SIZE = 13  # the center is a pixel
NOTHING = {"rotation": 0.0, "shift": 0.0, "shear": 0.0, "zoom": 0.0, "flip": False}
ALL = {"rotation": 20, "shift": 0.2, "shear": 0.2, "zoom": 0.2, "flip": True}

Pixels = NDArray[np.uint8]
Ranges = dict[str, float]
# Drawn between -1 and 1: angle, right, down, across, along, zoom; then a number, a flip below 0.5.
Draw = tuple[float, float, float, float, float, float]


def images(n: int = 5, size: int = SIZE) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def digests(pixels: Pixels) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in pixels]


def made(
    pixels: Pixels, view: int, ranges: Ranges = ALL, seed: int = 0, keys: Sequence[bytes] = ()
) -> Pixels:
    options: Any = SimpleNamespace(changes=lambda: (ranges, seed))
    result = views.view(options, pixels, keys or digests(pixels), view)
    assert (str(result.dtype), result.shape) == ("uint8", pixels.shape)
    return result


@pytest.mark.parametrize(("ranges", "seed"), [(ALL, 0), (NOTHING, 7)])
def test_view_0_is_the_image_and_view_1_its_mirror_image(ranges: Ranges, seed: int) -> None:
    assert_array_equal(made(images(), 0, ranges, seed), images())
    assert_array_equal(made(images(), 1, ranges, seed), images()[:, :, ::-1])


@pytest.mark.parametrize("view", [2, 63])
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
    linear, offset = views._transform(bytes(32), 2, ALL, 0, 12)
    np.testing.assert_allclose(linear, [[1.124593, 0.179553], [-0.434958, 1.185631]], atol=2e-6)
    np.testing.assert_allclose(offset, [-3.320004, -0.828171], atol=2e-6)


def test_a_flip_mirrors_some_images_and_leaves_the_others() -> None:
    found = made(images(16), 2, NOTHING | {"flip": True})
    mirrored = (found == images(16)[:, :, ::-1]).all(axis=(1, 2, 3))
    assert_array_equal(found[~mirrored], images(16)[~mirrored])
    assert 0 < mirrored.sum() < 16


def clipped(positions: Any) -> Any:
    """The border is repeated."""
    return np.clip(positions, 0, SIZE - 1)


EACH = np.arange(SIZE)
MAPS: dict[str, tuple[Draw, Ranges, Callable[[Pixels], Pixels]]] = {
    "without ranges": ((1, 1, 1, 1, 1, 1), {}, lambda image: image),
    "to the right": (
        (0, 0.5, 0, 0, 0, 0),
        {"shift": 4 / SIZE},
        lambda image: image[:, clipped(EACH + 2)],
    ),
    "up": ((0, 0, -1, 0, 0, 0), {"shift": 4 / SIZE}, lambda image: image[clipped(EACH - 4)]),
    "180 degrees": ((1, 0, 0, 0, 0, 0), {"rotation": 180}, lambda image: np.rot90(image, 2)),
    "-90 degrees": ((-0.5, 0, 0, 0, 0, 0), {"rotation": 180}, lambda image: np.rot90(image, 3)),
    "rotated, then to the right": (
        (0.5, 0.5, 0, 0, 0, 0),
        {"rotation": 180, "shift": 4 / SIZE},
        lambda image: np.rot90(image[:, clipped(EACH + 2)]),
    ),
    "a third, about the center": (
        (0, 0, 0, 0, 0, 1),
        {"zoom": 2},
        lambda image: image[clipped(3 * EACH - 12)][:, clipped(3 * EACH - 12)],
    ),
    "rows against each other": (
        (0, 0, 0, 1, 0, 0),
        {"shear": 1},
        lambda image: np.stack([image[row][clipped(EACH + row - 6)] for row in EACH]),
    ),
}


def test_views_are_those_of_keras_up_to_rounding() -> None:
    """Fine-tuning augments with the same kinds of maps, by Keras' layers."""
    pixels = images(4, 32)
    maps = []
    for key in digests(pixels):
        ((d, c), (b, a)), (down, right) = views._transform(key, 2, ALL, 0, 32)
        maps.append([a, b, right, c, d, down, 0, 0])
    expected = keras.ops.image.affine_transform(
        pixels.astype(np.float32), np.array(maps, np.float32), "bilinear", "nearest"
    )
    difference = abs(made(pixels, 2) - np.asarray(expected))
    assert difference.mean() < 0.3
    assert np.quantile(difference, 0.999) < 1


@pytest.mark.parametrize("name", MAPS)
def test_a_map_takes_these_pixels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, ranges, expected = MAPS[name]
    draw = SimpleNamespace(uniform=lambda low, high, count: np.array(drawn))
    monkeypatch.setattr(np.random, "Generator", lambda bits: draw)
    found = made(images(), 2, NOTHING | ranges)
    assert_array_equal(found, np.stack([expected(image) for image in images()]))
