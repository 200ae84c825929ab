"""Folding keeps the output and removes batch norms, except those that must stay."""

import functools
import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones.batch_norm_folding import fold

TOLERANCE = 1e-5  # of the largest absolute value: float32 rounds to 6e-8, hundreds of layers deep
BFLOAT16_TOLERANCE = 0.1  # bfloat16 rounds to 0.004
# Image size, layer to cut at to save time, number of batch norms, and how many of them must stay.
FAMILIES = {
    "VGG16": (32, None, 0, 0),
    "ResNet50": (64, None, 53, 0),
    "ResNet50V2": (64, "conv3_block4_out", 21, 7),  # before the activation of each block
    "MobileNet": (64, None, 27, 0),
    "MobileNetV2": (64, None, 52, 0),
    "MobileNetV3Small": (64, None, 34, 0),
    "DenseNet121": (64, "pool3_pool", 39, 20),  # after 18 concatenations and 2 poolings
    "Xception": (75, "block5_sepconv1_act", 11, 0),
    "InceptionV3": (75, "mixed3", 30, 0),
    "InceptionResNetV2": (75, "block35_1_ac", 18, 0),
    "NASNetMobile": (64, "normal_concat_0", 36, 0),
    "EfficientNetB0": (64, "block4b_add", 21, 0),
    "EfficientNetV2B0": (64, "block5a_project_bn", 22, 0),
    "ConvNeXtTiny": (32, "convnext_tiny_downsampling_block_1", 0, 0),
}
Conv, Depthwise = layers.Conv2D, layers.DepthwiseConv2D
Norm = layers.BatchNormalization
Network = Callable[[Any], Any]


def all_layers(model: keras.Model) -> list[Any]:
    nested = (all_layers(it) if isinstance(it, keras.Model) else [it] for it in model.layers)
    return [layer for layers_ in nested for layer in layers_]


def norms(model: keras.Model) -> list[str]:
    return [layer.name for layer in all_layers(model) if isinstance(layer, Norm)]


def images(size: int = 8, channels: int = 6) -> NDArray[np.float32]:
    shape = (4, size, size, channels)
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


def outputs(model: keras.Model, pixels: Any) -> NDArray[np.float32]:
    return np.asarray(keras.ops.cast(model(pixels, training=False), "float32"))


def error(model: keras.Model, folded: keras.Model, pixels: Any) -> float:
    """Largest difference of their outputs, in units of the largest value."""
    expected = outputs(model, pixels)
    return float(abs(outputs(folded, pixels) - expected).max() / abs(expected).max())


def application(name: str, size: int, layer: str | None) -> keras.Model:
    """A network with random weights, and statistics roughly those of its own activations.

    With any others the signal vanishes or explodes from layer to layer, and an output that hardly
    depends on the images would show no fault.
    """
    keras.utils.set_random_seed(0)
    function = getattr(keras.applications, name)
    model: keras.Model = function(weights=None, include_top=False, input_shape=(size, size, 3))
    if layer is not None:
        model = keras.Model(model.input, model.get_layer(layer).output)
    rng = np.random.default_rng(0)
    found = [layer for layer in model.layers if isinstance(layer, Norm)]
    for norm in found:
        shape = norm.moving_mean.shape
        norm.momentum = 0.0  # the statistics become those of one batch
        if norm.scale:
            norm.gamma.assign(rng.uniform(0.5, 1.5, shape))
        norm.beta.assign(rng.normal(0, 0.3, shape))
    if found:
        model(images(size, 3), training=True)
    for norm in found:
        mean, variance = map(keras.ops.convert_to_numpy, (norm.moving_mean, norm.moving_variance))
        norm.moving_mean.assign(mean + rng.normal(0, 0.2, mean.shape) * np.sqrt(variance))
        spread = rng.uniform(0.7, 1.5, mean.shape)
        norm.moving_variance.assign(variance * spread + 0.4 * variance.mean())
    return model


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.slow
def test_every_family_keeps_its_output_and_these_batch_norms(name: str) -> None:
    size, layer, before, left = FAMILIES[name]
    model = application(name, size, layer)
    folded = fold(model)
    assert (len(norms(model)), len(norms(folded))) == (before, left)
    removed = set(norms(model)) - set(norms(folded))
    kept = {layer.name for layer in model.layers if layer.weights} - removed
    assert {layer.name for layer in folded.layers if layer.weights} == kept
    expected = outputs(model, images(size, 3))
    assert abs(expected[0] - expected[1]).max() > 100 * TOLERANCE * abs(expected).max()
    assert error(model, folded, images(size, 3)) < TOLERANCE


def chain(*steps: Network) -> Network:
    return lambda x: functools.reduce(lambda inner, step: step(inner), steps, x)


def joined(*branches: Network, by: type[Any] = layers.Concatenate) -> Network:
    return lambda x: by()([branch(x) for branch in branches])


def unchanged(x: Any) -> Any:
    return x


def plus(second: Network) -> Network:
    """The sum of the input and of `second` applied to it."""
    return joined(unchanged, second, by=layers.Add)


def twice(shared: Network) -> Network:
    return chain(shared, layers.ReLU(), shared)


class OwnConv(layers.Conv2D):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        return super().call(inputs) ** 2


def tiny(network: Network) -> keras.Model:
    """For images of 8 x 8 pixels, with random weights and statistics."""
    inputs = keras.Input((8, 8, 6), name="images")
    model = keras.Model(inputs, network(inputs), name="tiny")
    set_weights_of(model)
    return model


def set_weights_of(model: keras.Model) -> None:
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            set_weights_of(layer)
        elif isinstance(layer, Norm):
            layer.set_weights([rng.uniform(0.5, 1.5, it.shape) for it in layer.weights])
        else:
            layer.set_weights([rng.normal(size=it.shape) for it in layer.weights])


FOLDED: dict[str, Callable[[], list[Network]]] = {
    "a convolution": lambda: [Conv(5, 3), Norm()],
    "without bias": lambda: [Conv(5, 3, use_bias=False), Norm()],
    "that pads, with a stride": lambda: [Conv(5, 3, padding="same", strides=2), Norm()],
    "of groups": lambda: [Conv(4, 3, groups=2), Norm()],
    "depthwise": lambda: [Depthwise(3, depth_multiplier=2), Norm()],
    "separable": lambda: [layers.SeparableConv2D(5, 3, depth_multiplier=2), Norm()],
    "norm without scale and center": lambda: [Conv(5, 3), Norm(scale=False, center=False)],
    "norm with more than one use": lambda: [Conv(5, 3), Norm(), plus(Conv(5, 1))],
    "before a pad": lambda: [Conv(5, 3), Norm(), layers.ZeroPadding2D(1), Conv(4, 3), Norm()],
    "joined convolutions": lambda: [
        joined(Conv(5, 3), Depthwise(3), joined(Conv(1, 3), Conv(2, 3))),
        Norm(),
    ],
    "before a convolution": lambda: [Norm(), Conv(5, (2, 3), strides=2)],
    "before one without bias": lambda: [Norm(), Conv(5, 3, use_bias=False)],
    "before one of 1 x 1": lambda: [Norm(), Conv(5, 1, padding="same", strides=2)],
    "before a depthwise one": lambda: [Norm(), Depthwise(3, depth_multiplier=2)],
    "on both sides": lambda: [Norm(), Conv(5, 3), Norm()],
    "before operations that are no layers": lambda: [
        *(Conv(5, 3), Norm(), lambda x: keras.ops.relu6(x * 2 + 1)[:, 1:3])
    ],
    "in a model inside": lambda: [keras.Sequential([Conv(5, 3), Norm()]), layers.ReLU()],
    "in a model called twice": lambda: [
        twice(keras.Sequential([keras.Input((8, 8, 6)), Conv(6, 3, padding="same"), Norm()]))
    ],
}
LEFT: dict[str, Callable[[], list[Network]]] = {
    "an activation between": lambda: [Conv(5, 3, activation="relu"), Norm()],
    "an activation before the convolution": lambda: [Norm(), layers.ReLU(), Conv(5, 3)],
    "a convolution that others use": lambda: [Conv(5, 3), plus(Norm())],
    "a norm that others use": lambda: [Norm(), plus(Conv(6, 1))],
    "a pad after the convolution": lambda: [Conv(5, 3), layers.ZeroPadding2D(1), Norm()],
    "a pad before the convolution": lambda: [Norm(), layers.ZeroPadding2D(1), Conv(5, 3)],
    "a convolution that pads": lambda: [Norm(), Conv(5, 3, padding="same")],
    "before one of groups": lambda: [Norm(), Conv(4, 3, groups=2)],
    "before a separable one": lambda: [Norm(), layers.SeparableConv2D(5, 3)],
    "another axis": lambda: [Conv(5, 3), Norm(axis=1)],
    "no convolution": lambda: [layers.Dense(5), Norm()],
    "joined with something else": lambda: [joined(Conv(5, 1), unchanged), Norm()],
    "a shared norm": lambda: [Conv(6, 1), twice(Norm())],
    "a shared convolution": lambda: [twice(Conv(6, 1)), Norm()],
    "before a shared convolution": lambda: [Norm(), twice(Conv(6, 1))],
    "a convolution of one's own": lambda: [OwnConv(5, 3), Norm()],
    "a call by keyword": lambda: [Conv(5, 3), lambda x: Norm()(inputs=x)],
    "a second norm": lambda: [Conv(5, 3), Norm(), Norm()],
    "the batch's own statistics": lambda: [Conv(5, 3), lambda x: Norm()(x, training=True)],
}


@pytest.mark.parametrize("pattern", [*FOLDED, *LEFT])
def test_these_batch_norms_are_folded_and_these_are_left(pattern: str) -> None:
    model = tiny(chain(*(FOLDED | LEFT)[pattern]()))
    folded = fold(model)
    assert len(norms(folded)) == (pattern in LEFT)
    assert error(model, folded, images()) < TOLERANCE


@pytest.mark.parametrize("norm_first", [False, True], ids=["the convolution", "the norm"])
def test_an_output_of_the_model_is_left_alone(norm_first: bool) -> None:
    def network(x: Any) -> Any:
        first = (Norm() if norm_first else Conv(5, 3))(x)
        return {"first": first, "second": [(Conv(5, 3) if norm_first else Norm())(first)]}

    model = tiny(network)
    folded = fold(model)
    assert len(norms(folded)) == 1
    expected, found = (each(images(), training=False) for each in (model, folded))
    assert_array_equal(found["first"], expected["first"])
    assert_array_equal(found["second"][0], expected["second"][0])


def test_the_model_and_global_random_numbers_do_not_change() -> None:
    model = tiny(chain(layers.Normalization(), Conv(5, 3), Norm(), layers.ReLU(), Norm()))
    before, weights, state = model.get_config(), model.get_weights(), random.getstate()
    fold(model)
    fold(model, "bfloat16")
    assert random.getstate() == state
    assert model.get_config() == before
    for one, expected in zip(model.get_weights(), weights, strict=True):
        assert_array_equal(one, expected)


def test_a_normalization_keeps_what_it_was_adapted_to() -> None:
    pixels = images() * 40 + 100
    model = tiny(chain(keras.Sequential([layers.Normalization()]), Conv(5, 3), Norm()))
    model.layers[1].layers[0].adapt(pixels)
    assert error(model, fold(model), pixels) < TOLERANCE
    assert error(model, fold(model, "bfloat16"), pixels) < BFLOAT16_TOLERANCE


@pytest.mark.parametrize("name", ["ResNet50V2", "EfficientNetB0", "ConvNeXtTiny"])
@pytest.mark.slow
def test_in_bfloat16_weights_and_arithmetic_are_and_the_output_is_close(name: str) -> None:
    size, layer, _, left = FAMILIES[name]
    model = application(name, size, layer)
    folded = fold(model, "bfloat16")
    for part in all_layers(folded):
        if isinstance(part, (layers.InputLayer, layers.Rescaling, layers.Normalization)):
            assert part.dtype == part.output.dtype == "float32"
        else:
            assert part.dtype_policy.name == "bfloat16"
            assert {part.output.dtype, *(it.dtype for it in part.weights)} == {"bfloat16"}
    assert len(norms(folded)) == left
    assert 10 * TOLERANCE < error(model, folded, images(size, 3)) < BFLOAT16_TOLERANCE
