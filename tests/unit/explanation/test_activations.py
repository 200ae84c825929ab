"""Activations are the layers' outputs; filters get images that excite them."""

from typing import Any

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones import build
from pipeline.explanation.activations import activations, filters

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def convnet() -> keras.Model:
    keras.utils.set_random_seed(0)
    return build.extractor(build.network("convnet", 64, False, None), "convnet", None, "avg")


def with_kernel(kernel: NDArray[Any], bias: float = 0, activation: str | None = None) -> Any:
    """An extractor of one convolution, (3, 3, 3, filters)."""
    inputs = keras.Input((32, 32, 3))
    convolution = keras.layers.Conv2D(kernel.shape[-1], 3, activation=activation, name="conv")
    base = keras.Model(inputs, convolution(inputs))
    convolution.set_weights([kernel, np.full(kernel.shape[-1], bias, np.float32)])
    return build.extractor(base, "convnet", None, "avg")


@pytest.mark.parametrize("layers", [["conv3", "pool1"], ["conv2"]], ids=["two", "one"])
def test_activations_are_the_outputs_of_the_layers(convnet: keras.Model, layers: list[str]) -> None:
    trunk = convnet.get_layer("trunk").model
    for layer, output in zip(layers, activations(convnet, NOISE, layers), strict=True):
        part = keras.Model(trunk.inputs, trunk.get_layer(layer).output)
        expected = part.predict_on_batch((NOISE[None] / 255).astype(np.float32))[0]
        assert output.dtype == np.float32
        assert_allclose(output, expected, rtol=1e-4, atol=1e-6)


def test_a_filter_for_a_color_gets_an_image_of_that_color() -> None:
    kernel = np.tile(np.eye(3, dtype=np.float32), (3, 3, 1, 1))
    images = filters(with_kernel(kernel), "conv", [0, 2], 32)
    assert images.shape == (2, 32, 32, 3)
    assert images.dtype == np.uint8
    mean = images.mean(axis=(1, 2))
    assert mean[0, 0] > mean[0, 1:].max() + 30
    assert mean[1, 2] > mean[1, :2].max() + 30
    assert_allclose(images.mean(axis=(1, 2, 3)), 127.5, atol=3)


def test_an_image_repeats_with_its_seed_and_changes_no_weight(convnet: keras.Model) -> None:
    weights = convnet.get_weights()
    first = filters(convnet, "conv3", [3, 9], 48, steps=5, seed=1)
    assert_array_equal(filters(convnet, "conv3", [3, 9], 48, steps=5, seed=1), first)
    alone = filters(convnet, "conv3", [9], 48, steps=5, seed=1)
    assert_allclose(alone[0].astype(int), first[1], atol=1)
    other = filters(convnet, "conv3", [9], 48, steps=5, seed=2)
    assert np.abs(other[0].astype(int) - first[1]).mean() > 5
    for weight, expected in zip(convnet.get_weights(), weights, strict=True):
        assert_array_equal(weight, expected)


def test_a_weak_or_silent_filter_gets_the_same_image() -> None:
    expected, *others = (
        filters(extractor, "conv", [0, 1], 32, steps=10).astype(int)
        for extractor in (
            with_kernel(KERNEL),
            with_kernel(KERNEL * 1e-6),
            with_kernel(KERNEL, -1000, "relu"),  # 0 at first
        )
    )
    for other in others:
        assert_allclose(other, expected, atol=1)
    deaf = with_kernel(np.zeros((3, 3, 3, 1), np.float32))  # to everything: its noise stays
    start, end = (filters(deaf, "conv", [0], 32, steps=steps) for steps in (0, 3))
    assert_array_equal(start, end)


def test_a_network_of_another_size_sees_resized_images_but_its_filters_see_their_own(
    convnet: keras.Model,
) -> None:
    """The gradient of resizing, which rounds, is 0: no filter would be excited through it."""
    base, linear = build.trunk(convnet), build.Scaling([1 / 255] * 3, [0.0] * 3)
    larger = build.extractor(base, "convnet", None, "avg", None, linear, pixels=96)
    image = np.full((96, 96, 3), [200, 30, 90], np.uint8)
    for layer in ("conv1", "conv3"):
        [found], [expected] = (
            activations(larger, image, [layer]),
            activations(convnet, image[:64, :64], [layer]),
        )
        assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(
        filters(larger, "conv2", [0, 5], 48), filters(convnet, "conv2", [0, 5], 48), strict=True
    ):
        assert_array_equal(mine, theirs)
        assert mine.std() > 10
