"""Models from images to intermediate outputs of a `build.extractor`; they share its weights.

Layers are those of its trunk, by name. Images are RGB, (n, size, size, 3), values 0 to 255.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from pipeline.backbones import build

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.SeparableConv2D)
BORDER = 2  # pixels cropped from a layer's output, as zero padding excites some filters there


def spatial_layers(extractor: keras.Model) -> list[str]:
    """Return the names of all layers whose output has height and width, in order."""
    return [
        layer.name
        for layer in build.trunk(extractor).layers
        if not isinstance(layer, keras.layers.InputLayer) and len(layer.output.shape) == 4
    ]


def spread_layers(extractor: keras.Model, count: int = 5) -> list[str]:
    """Return at most `count` convolutions, evenly spread from the first to the last.

    Skips outputs of 1 x 1 pixel, and depthwise convolutions, which show only edges. A network
    without convolutions is represented by its other layers.
    """
    layers = [build.trunk(extractor).get_layer(name) for name in spatial_layers(extractor)]
    layers = [layer for layer in layers if layer.output.shape[1] * layer.output.shape[2] > 1]
    layers = [layer for layer in layers if isinstance(layer, CONVOLUTIONS)] or layers
    numbers = np.linspace(0, len(layers) - 1, min(count, len(layers))).round().astype(int)
    return [layers[number].name for number in numbers]


def channels(extractor: keras.Model, layer: str) -> int:
    return int(build.trunk(extractor).get_layer(layer).output.shape[-1])


def outputs(extractor: keras.Model, layers: Sequence[str], size: int) -> keras.Model:
    """Return a model from images to the outputs of layers, (n, height, width, channels) each."""
    tensors = [build.trunk(extractor).get_layer(name).output for name in layers]
    return _from_images(extractor, tensors, size)


def filter_means(extractor: keras.Model, layer: str, size: int) -> keras.Model:
    """Return a model from images to the mean of each filter's output, float32 (n, channels).

    Measured before the activation, where a gradient exists even if a ReLU is 0, and inside of
    `BORDER`.
    """
    images = keras.Input((size, size, 3))
    linear = _linear_output(build.trunk(extractor).get_layer(layer))
    [output] = _from_images(extractor, [linear], size, resized=False)(images)
    border = [min(BORDER, (side - 1) // 2) for side in output.shape[1:3]]
    output = keras.layers.Cropping2D(border)(output)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D(dtype="float32")(output))


def _linear_output(layer: keras.layers.Layer) -> Any:
    """Return a layer's output without its own activation."""
    if getattr(layer, "activation", None) in (None, keras.activations.linear):
        return layer.output
    settings = layer.get_config() | {"activation": "linear", "name": f"{layer.name}_linear"}
    linear = type(layer).from_config(settings)
    output = linear(layer.input)
    linear.set_weights(layer.get_weights())
    return output


def _from_images(
    extractor: keras.Model, tensors: Sequence[Any], size: int, resized: bool = True
) -> keras.Model:
    """Return a model from images of any `size` to a list of tensors of the trunk.

    Unless `resized`, a trunk for images of another size sees them as they are.
    """
    preprocess = extractor.get_layer("preprocess")
    own = preprocess.size if resized and preprocess.size else size
    inputs, images = keras.Input((own, own, 3)), keras.Input((size, size, 3))
    part = keras.Model(build.trunk(extractor).inputs, list(tensors))
    part = keras.models.clone_model(part, [inputs], lambda layer: layer)
    prepared = preprocess(images) if resized else preprocess.scaled(images)
    return keras.Model(images, part([prepared]))
