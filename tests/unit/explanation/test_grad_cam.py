"""Grad-CAM finds the places that speak for a class, in networks whose answer is known."""

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
from pipeline.explanation.grad_cam import maker
from pipeline.training import loop
from pipeline.training.head import Head

SIZE, CELL = 16, 4  # pixels; the networks below see the images in cells
POOLINGS = ["avg", "max", "flatten", "predictions", "log_predictions"]


def colours(pooling: str = "avg", layer: str | None = None) -> keras.Model:
    """An extractor with a map of 4 x 4 cells for red, for green and for blue."""
    x = inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(3, CELL, CELL, use_bias=False, name="cells")(x)
    if pooling in build.PREDICTIONS or layer:
        x = keras.layers.GlobalAveragePooling2D(name="pooled")(x)
        x = keras.layers.Dense(3, use_bias=False, kernel_initializer="identity", name="flat")(x)
    base = keras.Model(inputs, x)
    base.get_layer("cells").set_weights([np.tile(np.eye(3) / CELL**2, (CELL, CELL, 1, 1))])
    return build.extractor(base, "convnet", layer, pooling)


def classifier(*kernels: Any) -> keras.Model:
    """Dense layers without biases."""
    arrays = tuple(np.asarray(kernel, np.float32) for kernel in kernels)
    head = Head(arrays, tuple(np.zeros(kernel.shape[1], np.float32) for kernel in arrays))
    return loop.head_model(head, input_dropout=0.5, dropout=0.5, seed=0)


def of_three_classes(pooling: str) -> keras.Model:
    """Red, green, blue: each the class that its own feature speaks for."""
    return classifier(np.tile(np.eye(3), (16 if pooling == "flatten" else 1, 1)))


def blocks() -> NDArray[np.uint8]:
    """A bright red block, a fainter one, a blue one, on black."""
    image = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    image[0, 4:8, 12:16, 0] = 255
    image[0, 0:4, 0:4, 0] = 51
    image[0, 12:16, 8:12, 2] = 102
    return image


def noise(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)


def cells(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What `colours` sees: (n, 4, 4, 3)."""
    return np.asarray((images / 255).reshape(-1, 4, CELL, 4, CELL, 3).mean(axis=(2, 4)))


def scaled(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    maps = np.maximum(maps, 0)
    return np.asarray(maps / maps.max(axis=(1, 2), keepdims=True))


RED = np.zeros((4, 4))
RED[1, 3], RED[0, 0] = 1, 0.2
BLUE = np.zeros((4, 4))
BLUE[3, 2] = 1


@pytest.mark.parametrize("pooling", POOLINGS[:3])
def test_a_map_is_as_high_as_the_blocks_that_speak_for_the_class(pooling: str) -> None:
    extractor, head = colours(pooling), of_three_classes(pooling)
    images = np.repeat(blocks(), 2, axis=0)
    [found] = maker([extractor], head)(images, np.array([0, 2]))
    assert found.dtype == np.float32
    assert_allclose(found, [RED, BLUE], atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS[3:])
def test_behind_predictions_the_map_is_still_that_of_the_last_convolution(pooling: str) -> None:
    """Red speaks for its class, and through the softmax blue and green against it."""
    [found] = maker([colours(pooling)], of_three_classes(pooling))(blocks(), np.array([0]))
    assert_allclose(found, [RED], atol=1e-6)


def test_behind_a_flat_layer_the_map_is_still_that_of_the_last_convolution() -> None:
    extractor, head = colours("avg", "flat"), of_three_classes("avg")
    [found] = maker([extractor], head)(blocks(), np.array([2]))
    assert_allclose(found, [BLUE], atol=1e-6)


@pytest.mark.parametrize(
    "kernel",
    [[[1], [0], [-1]], [[0, 1], [0, 0], [0, -1]], [[-1, 1], [0, 0], [1, -1]]],
    ids=["sigmoid", "logistic regression, first logit 0", "softmax"],
)
def test_of_two_classes_each_has_what_speaks_against_the_other(kernel: Any) -> None:
    images = np.repeat(blocks(), 2, axis=0)
    [found] = maker([colours()], classifier(kernel))(images, np.array([1, 0]))
    assert_allclose(found, [RED, BLUE], atol=1e-6)


def test_a_map_where_nothing_speaks_for_the_class_is_zero() -> None:
    [found] = maker([colours()], of_three_classes("avg"))(blocks(), np.array([1]))
    assert_array_equal(found, np.zeros((1, 4, 4)))


def test_through_a_hidden_layer_maps_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(3, 8)), rng.normal(size=(8, 3))
    images, label = noise(5), np.array([0, 1, 2, 0, 1])
    [found] = maker([colours()], classifier(first, second))(images, label)
    seen = cells(images)
    hidden = seen.mean(axis=(1, 2)) @ first > 0
    alpha = np.einsum("fh,nh,hn->nf", first, hidden, second[:, label])
    maps = np.einsum("nf,nyxf->nyx", alpha, seen)
    assert (maps.max(axis=(1, 2)) > 0).sum() >= 3
    for one, expected in zip(found, maps, strict=True):
        if expected.max() > 0:
            assert_allclose(one, scaled(expected[None])[0], atol=1e-5)
        else:
            assert_array_equal(one, np.zeros((4, 4)))


def test_two_extractors_have_a_map_each() -> None:
    """The first one's features speak for red, the second one's for blue."""
    kernel = np.zeros((6, 3))
    kernel[0, 1], kernel[5, 1] = 1, 1
    found = maker([colours(), colours("max")], classifier(kernel))(blocks(), np.array([1]))
    assert_allclose(found, [[RED], [BLUE]], atol=1e-6)


def test_many_images_have_the_maps_of_each_alone() -> None:
    extractor = colours()
    head = classifier(np.random.default_rng(2).normal(size=(3, 4)))
    images, label = noise(11), np.arange(11) % 4
    [together] = maker([extractor], head)(images, label)
    assert together.shape == (11, 4, 4)
    for number in range(11):
        one = slice(number, number + 1)
        [alone] = maker([extractor], head)(images[one], label[one])
        assert_allclose(alone, together[one], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "pooling"), [("MobileNet", "log_predictions"), ("MobileNetV2", "avg")]
)
@pytest.mark.slow
def test_maps_have_the_resolution_of_the_last_convolution_and_the_network_stays(
    name: str, pooling: str
) -> None:
    """MobileNet's classifier is a convolution itself, of one place."""
    keras.utils.set_random_seed(0)
    top = pooling in build.PREDICTIONS
    extractor = build.extractor(build.build(name, 96, top, None, logits=top), name, None, pooling)
    build.unfreeze_from(extractor, extractor.get_layer("trunk").model.layers[4].name)
    width = extractor.output_shape[-1]
    head = classifier(np.random.default_rng(0).normal(size=(width, 3)))
    before, trained = extractor.get_weights(), len(extractor.trainable_weights)
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    [found] = maker([extractor], head)(images, np.array([0, 1]))
    assert found.shape == (2, 3, 3)
    assert found.min() >= 0
    assert set(found.max(axis=(1, 2))) <= {0, 1}
    assert len(extractor.trainable_weights) == trained > 0
    for weight, expected in zip(extractor.get_weights(), before, strict=True):
        assert_array_equal(weight, expected)
