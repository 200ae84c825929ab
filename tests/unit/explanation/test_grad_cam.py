"""Grad-CAM finds the evidence for a class in networks with a known answer."""

from typing import Any

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.backbones import build
from pipeline.explanation.grad_cam import heatmaps
from pipeline.training import loop
from pipeline.training.head import Head

SIZE, CELL = 16, 4  # pixels; the networks below see images as 4 x 4 cells


def colors(pooling: str = "avg", layer: str | None = None) -> keras.Model:
    """An extractor with one map of cells each for red, green and blue."""
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


IMAGE = np.zeros((1, SIZE, SIZE, 3), np.uint8)  # a red block, a fainter one, a blue one
IMAGE[0, 4:8, 12:16, 0], IMAGE[0, 0:4, 0:4, 0], IMAGE[0, 12:16, 8:12, 2] = 255, 51, 102
BOTH = np.repeat(IMAGE, 2, axis=0)
NOISE = np.random.default_rng(0).integers(0, 256, (11, SIZE, SIZE, 3), np.uint8)
RED, BLUE = np.zeros((4, 4)), np.zeros((4, 4))
RED[1, 3], RED[0, 0], BLUE[3, 2] = 1, 0.2, 1


@pytest.mark.parametrize("pooling", ["avg", "max", "flatten", "avg of flat", "log_predictions"])
def test_a_heatmap_is_as_high_as_the_evidence_for_each_class(pooling: str) -> None:
    pooling, _, layer = pooling.partition(" of ")
    head = classifier(np.tile(np.eye(3), (16 if pooling == "flatten" else 1, 1)))
    label = np.array([0]) if pooling == "log_predictions" else np.arange(3)
    [maps] = heatmaps([colors(pooling, layer or None)], head)(IMAGE[[0] * len(label)], label)
    assert maps.dtype == np.float32
    assert_allclose(maps, [RED, np.zeros((4, 4)), BLUE][: len(label)], atol=1e-6)


@pytest.mark.parametrize(
    "kernel",
    [[[1], [0], [-1]], [[0, 1], [0, 0], [0, -1]], [[-1, 1], [0, 0], [1, -1]]],
    ids=["sigmoid", "logistic regression, first logit 0", "softmax"],
)
def test_evidence_against_one_of_two_classes_counts_for_the_other(kernel: Any) -> None:
    [maps] = heatmaps([colors()], classifier(kernel))(BOTH, np.array([1, 0]))
    assert_allclose(maps, [RED, BLUE], atol=1e-6)


def test_through_a_hidden_layer_heatmaps_follow_the_formula() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(3, 8)), rng.normal(size=(8, 3))
    images, label = NOISE[:5], np.array([0, 1, 2, 0, 1])
    [maps] = heatmaps([colors()], classifier(first, second))(images, label)
    cells = (images / 255).reshape(-1, 4, CELL, 4, CELL, 3).mean(axis=(2, 4))
    hidden = cells.mean(axis=(1, 2)) @ first > 0
    alpha = np.einsum("fh,nh,hn->nf", first, hidden, second[:, label])
    expected = np.maximum(np.einsum("nf,nyxf->nyx", alpha, cells), 0)
    highest = expected.max(axis=(1, 2), keepdims=True)
    assert (highest > 0).sum() >= 3
    assert_allclose(maps, expected / np.where(highest > 0, highest, 1), atol=1e-5)


def test_each_extractor_has_its_own_heatmap() -> None:
    kernel = np.zeros((6, 3))
    kernel[0, 1], kernel[5, 1] = 1, 1  # red of the first, blue of the second
    maps = heatmaps([colors(), colors("max")], classifier(kernel))(IMAGE, np.array([1]))
    assert_allclose(maps, [[RED], [BLUE]], atol=1e-6)


def test_many_images_have_the_heatmaps_of_each_alone() -> None:
    compute = heatmaps([colors()], classifier(np.random.default_rng(2).normal(size=(3, 4))))
    label = np.arange(11) % 4
    [together] = compute(NOISE, label)
    for number in range(11):
        [alone] = compute(NOISE[[number]], label[[number]])
        assert_allclose(alone[0], together[number], atol=1e-6)


@pytest.mark.slow
def test_heatmaps_have_the_resolution_of_the_last_convolution_and_change_no_weight() -> None:
    """MobileNet's classifier is itself a convolution, of 1 x 1 pixel."""
    keras.utils.set_random_seed(0)
    base = build.network("MobileNet", 96, True, None, logits=True)
    extractor = build.extractor(base, "MobileNet", None, "log_predictions")
    build.unfreeze_from(extractor, extractor.get_layer("trunk").model.layers[4].name)
    head = classifier(np.random.default_rng(0).normal(size=(extractor.output_shape[-1], 3)))
    before, trainable = extractor.get_weights(), len(extractor.trainable_weights)
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    [maps] = heatmaps([extractor], head)(images, np.array([0, 1]))
    assert maps.shape == (2, 3, 3)
    assert maps.min() >= 0
    assert set(maps.max(axis=(1, 2))) <= {0, 1}
    assert len(extractor.trainable_weights) == trainable > 0
    for weight, expected in zip(extractor.get_weights(), before, strict=True):
        assert_array_equal(weight, expected)
