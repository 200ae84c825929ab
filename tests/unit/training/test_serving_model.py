"""The exported model's own resizing: what the pipeline's gives, for any size of image."""

import resource
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from pipeline.backbones.resize_layer import Resize
from pipeline.images import resize
from pipeline.training import serving_model

SIZES = [(300, 200), (50, 40), (97, 31), (64, 64), (9, 500)]  # heights and widths


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fit", resize.FITS)
@pytest.mark.parametrize("interpolation", resize.INTERPOLATIONS)
def test_it_resizes_as_the_pipeline_does_up_to_two_levels_of_255(
    interpolation: str, fit: str, size: tuple[int, int]
) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
    expected = resize.resize(image, 64, fit, interpolation)
    layer = Resize(64, fit, interpolation)
    found = keras.ops.convert_to_numpy(layer(np.asarray(image)[None]))[0]
    difference = np.abs(found - expected)
    if interpolation == "nearest" or size == (64, 64):
        assert_array_equal(found, expected)
    elif interpolation != "box":  # where sums are rounded at other pixels' borders
        assert difference.max() <= 2
    assert difference.mean() < 0.3
    assert_array_equal(found, np.rint(found))


def test_two_views_are_averaged_and_then_calibrated() -> None:
    images = keras.Input((8, 8, 3))
    left = images[:, 0, 0, :2] / 255.0  # logits: two channels of the pixel at the top left
    network = keras.Model(images, left)
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[0, 0, 0] = [255, 0, 0]
    image[0, 0, 7] = [0, 51, 0]
    odds = np.exp(np.array([[1, 0], [0, 0.2]]))
    probability = odds / odds.sum(axis=1, keepdims=True)
    for views in (1, 2):
        expected = np.sqrt(probability[:views].mean(axis=0))
        served = serving_model.model(network, "squash", "bicubic", views, 2.0)
        assert_allclose(served(image)[0], expected / expected.sum(), atol=1e-6)


@pytest.mark.parametrize("most", [19, 30_000])
@pytest.mark.parametrize("form", ["saved_model", "openvino"])
def test_a_file_that_may_not_grow_is_a_fault_of_the_disk(
    form: str, most: int, tmp_path: Path
) -> None:
    images = keras.Input((8, 8, 3))
    network = keras.Model(images, keras.layers.Dense(99)(keras.layers.Flatten()(images)))
    served = serving_model.model(network, "squash", "bicubic", 1, 1.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        with pytest.raises(OSError, match="File too large"):
            serving_model.write(served, tmp_path, form)
    finally:  # pytest's own log may be larger
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "probe").exists()
