"""Random changes to training images: only those asked for, the same for the same seed."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from pipeline.schema import NO_AUGMENT, Augment
from pipeline.training.augmentation import augmentation

ALL: dict[str, Any] = {"rotation": 20, "shift": 0.2, "shear": 0.2, "zoom": 0.2}
ALL |= {"flip": True, "brightness": 0.3}
EACH = [{name: value} for name, value in ALL.items()]
IMAGES = np.random.default_rng(0).uniform(0, 255, (16, 12, 12, 3)).astype(np.float32)


def changed(
    images: NDArray[np.float32], seed: int = 0, training: bool = True, **wanted: Any
) -> NDArray[np.float32]:
    model = augmentation(Augment(**NO_AUGMENT.model_dump() | wanted), seed)
    return np.asarray(model(images, training=training))


def test_nothing_is_changed_unless_wanted_nor_in_inference() -> None:
    assert_array_equal(changed(IMAGES), IMAGES)
    assert_array_equal(changed(IMAGES, training=False, **ALL), IMAGES)


def test_a_flip_mirrors_some_images_left_and_right_and_leaves_the_others() -> None:
    flipped = changed(IMAGES, flip=True)
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, IMAGES, strict=True)]
    assert 0 < sum(mirrored) < 16
    assert_array_equal(flipped[~np.array(mirrored)], IMAGES[~np.array(mirrored)])


def test_rand_augment_changes_images_within_their_range_more_the_stronger_it_is() -> None:
    apart = []
    for strength in (0.1, 0.9):
        found = changed(IMAGES, rand_augment=strength)
        assert (found.shape, found.dtype) == (IMAGES.shape, IMAGES.dtype)
        assert found.min() >= 0
        assert found.max() <= 255
        assert_array_equal(changed(IMAGES, rand_augment=strength), found)
        apart.append(np.abs(found - IMAGES).mean())
    assert 0 < apart[0] < apart[1]
    assert_array_equal(changed(IMAGES, training=False, rand_augment=0.9), IMAGES)


@pytest.mark.parametrize("wanted", [*EACH, ALL], ids=lambda wanted: "-".join(wanted))
def test_a_change_keeps_shape_type_and_range_and_fills_with_the_nearest(
    wanted: dict[str, Any],
) -> None:
    found = changed(IMAGES, **wanted)
    assert (found.shape, found.dtype) == (IMAGES.shape, IMAGES.dtype)
    assert not np.array_equal(found, IMAGES)
    assert found.min() >= 0
    assert found.max() <= 255 + 1e-3  # interpolation rounds
    plain = np.full((8, 12, 12, 3), 200, np.float32)
    geometric = wanted | {"brightness": 0}
    assert_allclose(changed(plain, **geometric), plain, rtol=1e-5)


def test_brightness_adds_one_number_to_an_image_of_at_most_its_fraction_of_255() -> None:
    grey = np.full((16, 4, 4, 3), 128, np.float32)
    added = changed(grey, brightness=0.1) - grey
    assert_allclose(added, added[:, :1, :1, :1] * np.ones((1, 4, 4, 3)), atol=1e-4)
    assert abs(added).max() <= 25.5
    assert len(np.unique(added)) > 1


def test_a_seed_repeats_its_images_but_every_batch_differs() -> None:
    first, second = (augmentation(Augment(**ALL), seed=3) for _ in range(2))
    found = np.asarray(first(IMAGES, training=True))
    assert_array_equal(second(IMAGES, training=True), found)
    assert not np.array_equal(first(IMAGES, training=True), found)
    assert not np.array_equal(changed(IMAGES, 4, **ALL), found)
