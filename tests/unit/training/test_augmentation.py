"""Random changes to training images: only those asked for, the same for the same seed."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from pipeline.training.augmentation import augmentation

ALL: dict[str, Any] = {
    "rotation": 20.0,
    "shift": 0.2,
    "shear": 0.2,
    "zoom": 0.2,
    "flip": True,
    "brightness": 0.3,
}
NOTHING = dict.fromkeys(ALL, 0)
EACH = [{name: value} for name, value in ALL.items()]
GEOMETRIC = [wanted for wanted in EACH if wanted.keys() != {"brightness"}]


def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0, 255, (16, 12, 12, 3)).astype(np.float32)


def changed(
    pictures: NDArray[np.float32], seed: int = 0, training: bool = True, **wanted: Any
) -> NDArray[np.float32]:
    model = augmentation(seed=seed, **{**NOTHING, **wanted})
    return np.asarray(model(pictures, training=training))


def name_of(wanted: dict[str, Any]) -> str:
    return "all" if len(wanted) > 1 else next(iter(wanted))


def test_nothing_wanted_changes_nothing() -> None:
    assert_array_equal(changed(images()), images())


def test_a_flip_mirrors_some_images_left_and_right_and_leaves_the_others() -> None:
    flipped = changed(images(), flip=True)
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, images(), strict=True)]
    left = [np.array_equal(a, b) for a, b in zip(flipped, images(), strict=True)]
    assert [a or b for a, b in zip(mirrored, left, strict=True)] == [True] * 16
    assert 0 < sum(mirrored) < 16


@pytest.mark.parametrize("wanted", [*EACH, ALL], ids=name_of)
def test_a_change_keeps_shape_type_and_value_range(wanted: dict[str, Any]) -> None:
    found = changed(images(), **wanted)
    assert found.shape == (16, 12, 12, 3)
    assert found.dtype == np.float32
    assert not np.array_equal(found, images())
    assert found.min() >= 0
    assert found.max() <= 255 + 1e-3  # interpolation rounds


@pytest.mark.parametrize("wanted", GEOMETRIC, ids=name_of)
def test_what_comes_from_outside_is_like_the_nearest_inside(wanted: dict[str, Any]) -> None:
    plain = np.full((8, 12, 12, 3), 200, np.float32)
    assert_allclose(changed(plain, **wanted), plain, rtol=1e-5)


def test_brightness_adds_one_number_to_an_image_of_at_most_its_fraction_of_255() -> None:
    grey = np.full((16, 4, 4, 3), 128, np.float32)
    added = changed(grey, brightness=0.1) - grey
    assert_allclose(added, added[:, :1, :1, :1] * np.ones((1, 4, 4, 3)), atol=1e-4)
    assert abs(added).max() <= 25.5
    assert len(np.unique(added)) > 1


def test_the_same_seed_gives_the_same_pictures_and_another_seed_others() -> None:
    assert_array_equal(changed(images(), 3, **ALL), changed(images(), 3, **ALL))
    assert not np.array_equal(changed(images(), 3, **ALL), changed(images(), 4, **ALL))


def test_every_batch_is_changed_in_its_own_way() -> None:
    model = augmentation(seed=0, **ALL)
    first = np.asarray(model(images(), training=True))
    assert not np.array_equal(first, np.asarray(model(images(), training=True)))


def test_nothing_is_changed_in_inference() -> None:
    assert_array_equal(changed(images(), training=False, **ALL), images())
