"""Layers to show are convolutions from the first to the last."""

import keras
import pytest

from pipeline.backbones import build, intermediate


@pytest.mark.parametrize(
    ("count", "layers"), [(5, ["conv1", "conv2", "conv3", "conv4"]), (2, ["conv1", "conv4"])]
)
def test_layers_are_convolutions_from_the_first_to_the_last(count: int, layers: list[str]) -> None:
    base = build.network("convnet", 64, False, None)
    extractor = build.extractor(base, "convnet", None, "avg")
    assert intermediate.spread_layers(extractor, count) == layers


def test_a_convolution_of_a_single_pixel_is_left_out() -> None:
    """Such as those that weight channels in EfficientNet, or the classifier of MobileNet."""
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="pixels")(x)
    one = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    one = keras.layers.Conv2D(4, 1, name="one")(one)
    base = keras.Model(inputs, keras.layers.Multiply(name="weighted")([x, one]))
    assert intermediate.spread_layers(build.extractor(base, "convnet", None, "avg")) == ["pixels"]


def test_a_network_without_convolutions_shows_other_layers() -> None:
    inputs = keras.Input((8, 8, 3))
    base = keras.Model(inputs, keras.layers.AveragePooling2D(2, name="halved")(inputs))
    assert intermediate.spread_layers(build.extractor(base, "convnet", None, "avg")) == ["halved"]
