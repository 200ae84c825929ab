"""What the layers inside a network see: their output for an image, and what excites them most.

Layers are those of an extractor's trunk (`backbone.extractor`), by their names. Images are RGB,
uint8, (size, size, 3).
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.explanation import gradients

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.SeparableConv2D)
STEP_SIZE = 1.0  # of pixel values, as a root mean square
BORDER = 2  # places at the rim of a layer's output; the padding with zeros excites some filters
TINY = 1e-30  # against a division by 0; gradients themselves may be as small as 1e-8
CONTRAST = 0.15  # of a finished picture: standard deviation around 0.5, where 1 is white


def layers(extractor: keras.Model) -> list[str]:
    """The layers whose output has height and width, in order."""
    every = extractor.get_layer("trunk").model.layers
    return [
        layer.name
        for layer in every
        if not isinstance(layer, keras.layers.InputLayer) and len(layer.output.shape) == 4
    ]


def spread_layers(extractor: keras.Model, count: int = 5) -> list[str]:
    """At most `count` convolutions, spread evenly from the first to the last.

    Only those whose output has more than one place, and none of a single channel each (depthwise),
    which show edges alone; in a network without convolutions any layers with places.
    """
    trunk = extractor.get_layer("trunk").model
    named = [trunk.get_layer(name) for name in layers(extractor)]
    known = [one for one in named if one.output.shape[1] * one.output.shape[2] > 1]
    known = [one for one in known if isinstance(one, CONVOLUTIONS)] or known
    places = np.linspace(0, len(known) - 1, min(count, len(known))).round().astype(int)
    return [known[place].name for place in places]


def activations(
    extractor: keras.Model, image: NDArray[np.uint8], names: Sequence[str]
) -> list[NDArray[np.float32]]:
    """The output of each layer for an image (size, size, 3), float32 (height, width, channels)."""
    trunk = extractor.get_layer("trunk").model
    outputs = [trunk.get_layer(name).output for name in names]
    seen = _up_to(extractor, outputs, image.shape[0])
    found = keras.tree.flatten(seen.predict_on_batch(image[None]))  # of one layer no list
    return [np.asarray(output, np.float32)[0] for output in found]


def filters(
    extractor: keras.Model,
    layer: str,
    which: Sequence[int],
    size: int,
    *,
    steps: int = 40,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """A picture for each filter of a convolution that excites it, by gradient ascent.

    F. Chollet, "Deep Learning with Python" (2017), section 5.4.2: from grey with some noise on,
    pixels go up the gradient of the filter's mean output, divided by its root mean square. Without
    the output's rim, and with more contrast in the end, as in his "Visualizing what convnets learn"
    on keras.io (2020). The output is that before the activation: where a relu is 0, nothing leads
    upwards.

    Args:
        which: numbers of filters, the channels of the layer's output.
        size: of the pictures, in pixels; it need not be that of the extractor's images.
        steps: of `STEP_SIZE`.
        seed: of the noise, which is the same for every filter.

    Returns:
        uint8 (k, size, size, 3), each picture with the contrast `CONTRAST` around grey.
    """
    noise = np.random.default_rng(seed).random((size, size, 3), np.float32) * 20 + 128
    pictures = np.repeat(noise[None], len(which), axis=0)
    images = keras.Input((size, size, 3))
    linear = _without_activation(extractor.get_layer("trunk").model.get_layer(layer))
    [output] = _up_to(extractor, [linear], size)(images)
    border = [min(BORDER, (side - 1) // 2) for side in output.shape[1:3]]
    output = keras.layers.Cropping2D(border)(output)
    mean = keras.Model(images, keras.layers.GlobalAveragePooling2D(dtype="float32")(output))
    gradient = gradients.gradient(mean, len(which))
    weights = np.eye(mean.output_shape[-1], dtype=np.float32)[list(which)]
    for _ in range(steps):
        slopes = gradient(pictures, weights)
        root_mean_square = np.sqrt(np.square(slopes).mean(axis=(1, 2, 3), keepdims=True))
        pictures += STEP_SIZE * slopes / (root_mean_square + TINY)
    return _shown(pictures)


def _shown(pictures: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Every picture (size, size, 3) with the same mean and contrast, as pixels."""
    centred = pictures - pictures.mean(axis=(1, 2, 3), keepdims=True)
    centred *= CONTRAST / (centred.std(axis=(1, 2, 3), keepdims=True) + TINY)
    return np.asarray(np.rint((centred + 0.5).clip(0, 1) * 255), np.uint8)


def _without_activation(layer: keras.layers.Layer) -> Any:
    """A layer's output before its activation, if it has one of its own."""
    if getattr(layer, "activation", None) in (None, keras.activations.linear):
        return layer.output
    settings = layer.get_config() | {"activation": "linear", "name": f"{layer.name}_linear"}
    linear = type(layer).from_config(settings)
    output = linear(layer.input)
    linear.set_weights(layer.get_weights())
    return output


def _up_to(extractor: keras.Model, outputs: Sequence[Any], size: int) -> keras.Model:
    """Images (n, size, size, 3) to outputs of the trunk's layers, a list; it shares all weights."""
    trunk = extractor.get_layer("trunk").model
    part = keras.Model(trunk.inputs, list(outputs))
    inputs = keras.Input((size, size, 3))
    part = keras.models.clone_model(part, [inputs], lambda layer: layer)
    images = keras.Input((size, size, 3))
    return keras.Model(images, part([extractor.get_layer("preprocess")(images)]))
