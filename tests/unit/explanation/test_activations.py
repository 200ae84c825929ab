"""What layers see is what they compute; what excites a filter is what it answers to."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import Any

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones import build
from pipeline.explanation import activations


def extractor(name: str, size: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    return build.extractor(build.build(name, size, False, None), name, None, "avg")


def noise(size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)


def with_kernel(kernel: NDArray[Any]) -> keras.Model:
    """An extractor of one convolution, (3, 3, 3, filters)."""
    inputs = keras.Input((32, 32, 3))
    convolution = keras.layers.Conv2D(kernel.shape[-1], 3, use_bias=False, name="conv")
    base = keras.Model(inputs, convolution(inputs))
    convolution.set_weights([kernel])
    return build.extractor(base, "convnet", None, "avg")


@pytest.mark.parametrize(
    ("name", "count", "layers"),
    [
        ("convnet", 5, ["conv1", "conv2", "conv3", "conv4"]),
        ("convnet", 2, ["conv1", "conv4"]),
        (
            "MobileNetV2",
            5,
            ["Conv1", "block_4_expand", "block_8_project", "block_13_expand", "Conv_1"],
        ),
    ],
)
def test_layers_are_convolutions_from_the_first_to_the_last(
    name: str, count: int, layers: list[str]
) -> None:
    assert activations.spread_layers(extractor(name, 64), count) == layers


def test_a_convolution_of_one_place_is_not_among_the_layers() -> None:
    """As those that weigh channels in EfficientNet, or the classifier of MobileNet."""
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="places")(x)
    one = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    one = keras.layers.Conv2D(4, 1, name="one")(one)
    base = keras.Model(inputs, keras.layers.Multiply(name="weighed")([x, one]))
    made = build.extractor(base, "convnet", None, "avg")
    assert activations.spread_layers(made) == ["places"]


def test_a_network_without_convolutions_has_layers_too() -> None:
    inputs = keras.Input((8, 8, 3))
    base = keras.Model(inputs, keras.layers.AveragePooling2D(2, name="halved")(inputs))
    made = build.extractor(base, "convnet", None, "avg")
    assert activations.spread_layers(made) == ["halved"]


@pytest.mark.parametrize("layers", [["conv3", "pool1"], ["conv2"]], ids=["two", "one"])
def test_activations_are_the_outputs_of_the_layers(layers: list[str]) -> None:
    made, image = extractor("convnet", 64), noise(64)
    found = activations.activations(made, image, layers)
    trunk = made.get_layer("trunk").model
    for layer, one in zip(layers, found, strict=True):
        part = keras.Model(trunk.inputs, trunk.get_layer(layer).output)
        expected = part.predict_on_batch((image[None] / 255).astype(np.float32))[0]
        assert one.dtype == np.float32
        assert_allclose(one, expected, rtol=1e-4, atol=1e-6)


def test_a_filter_for_a_colour_gives_a_picture_of_that_colour() -> None:
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    for colour in range(3):
        kernel[:, :, colour, colour] = 1
    pictures = activations.filters(with_kernel(kernel), "conv", [0, 2], 32)
    assert pictures.shape == (2, 32, 32, 3)
    assert pictures.dtype == np.uint8
    mean = pictures.mean(axis=(1, 2))
    assert mean[0, 0] > mean[0, 1:].max() + 30
    assert mean[1, 2] > mean[1, :2].max() + 30
    assert_allclose(pictures.mean(axis=(1, 2, 3)), 127.5, atol=3)


def test_the_ascent_raises_the_mean_output_of_each_filter() -> None:
    made, which = with_kernel(np.random.default_rng(0).normal(size=(3, 3, 3, 8))), [5, 0, 7]
    start, end = (activations.filters(made, "conv", which, 32, steps=steps) for steps in (0, 20))
    for number, *pictures in zip(which, start, end, strict=True):
        before, after = (
            activations.activations(made, picture, ["conv"])[0][..., number].mean()
            for picture in pictures
        )
        assert after > before + 0.1


def test_a_picture_repeats_with_its_seed_and_whatever_stands_beside_it() -> None:
    made = extractor("convnet", 64)
    first = activations.filters(made, "conv3", [3, 9], 48, steps=5, seed=1)
    assert first.shape == (2, 48, 48, 3)
    assert_array_equal(activations.filters(made, "conv3", [3, 9], 48, steps=5, seed=1), first)
    alone = activations.filters(made, "conv3", [9], 48, steps=5, seed=1)
    assert_allclose(alone[0].astype(int), first[1], atol=1)
    other = activations.filters(made, "conv3", [9], 48, steps=5, seed=2)
    assert np.abs(other[0].astype(int) - first[1]).mean() > 5


def test_a_filter_that_answers_a_million_times_more_weakly_has_the_same_picture() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 2)).astype(np.float32)
    strong, weak = (
        activations.filters(with_kernel(kernel * scale), "conv", [0, 1], 32, steps=10)
        for scale in (1, 1e-6)
    )
    assert_allclose(weak.astype(int), strong, atol=1)


def test_a_filter_whose_relu_is_silent_at_first_has_a_picture_all_the_same() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 1)).astype(np.float32)
    inputs = keras.Input((32, 32, 3))
    convolution = keras.layers.Conv2D(1, 3, activation="relu", name="conv")
    base = keras.Model(inputs, convolution(inputs))
    convolution.set_weights([kernel, np.array([-1000], np.float32)])
    silent = build.extractor(base, "convnet", None, "avg")
    expected = activations.filters(with_kernel(kernel), "conv", [0], 32, steps=5)
    assert_allclose(
        activations.filters(silent, "conv", [0], 32, steps=5).astype(int), expected, atol=1
    )


def test_a_filter_that_answers_to_nothing_leaves_the_noise() -> None:
    made = with_kernel(np.zeros((3, 3, 3, 1), np.float32))
    start, end = (activations.filters(made, "conv", [0], 32, steps=steps) for steps in (0, 3))
    assert_array_equal(start, end)
    assert start.std() > 20


def test_drawing_filters_leaves_the_network_as_it_was() -> None:
    made, images = extractor("convnet", 64), noise(64)[None]
    before, features = made.get_weights(), made.predict_on_batch(images)
    activations.filters(made, "conv1", [0], 32, steps=2)
    for weight, expected in zip(made.get_weights(), before, strict=True):
        assert_array_equal(weight, expected)
    assert_array_equal(made.predict_on_batch(images), features)
    assert made.output_shape == (None, 128)
