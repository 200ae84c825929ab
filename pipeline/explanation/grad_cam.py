"""Which places of an image speak for a class: Grad-CAM.

R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization" (2017). A^k is channel k of the last convolutional layer's output, y the class's
logit, Z the number of places:

    alpha_k = 1 / Z * sum over places of dy / dA^k      (equation 1)
    map = relu(sum over k of alpha_k * A^k)             (equation 2)

Of two classes, whose softmax is the sigmoid of the difference of their logits, y is that
difference, since the first logit may be 0 throughout (see `head`): z for class 1, -z for class 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.backbones import build
from pipeline.explanation import gradients
from pipeline.training import network_split

FloatArray = NDArray[np.float32]
Maker = Callable[[NDArray[np.uint8], NDArray[np.int64]], list[FloatArray]]
ROWS = 8  # images at a time


def maker(extractors: Sequence[keras.Model], classifier: keras.Model) -> Maker:
    """What shows where images show their class, to each of the extractors.

    Args:
        extractors: made by `backbone.extractor`, side by side.
        classifier: from their features, joined, to logits (n, n_classes).

    Returns:
        A function of images, uint8 (n, size, size, 3), at least one, and label, int (n,), for each
        image the class in question. It gives for each extractor float32 (n, height, width) in the
        resolution of its last convolutional layer, from 0 to 1; 1 is the highest of the image's
        map, unless all of it is 0.
    """
    seen, rest, parts = _cut(extractors, classifier)
    gradient = gradients.gradient(rest, ROWS)

    def make(images: NDArray[np.uint8], label: NDArray[np.int64]) -> list[FloatArray]:
        weights = _weights(label, rest.output_shape[-1])
        batches = -(-len(images) // ROWS)  # the last one is filled with its last image
        found = []
        for rows in np.arange(batches * ROWS).clip(max=len(images) - 1).reshape(batches, ROWS):
            values = seen.predict_on_batch(images[rows])
            slopes = gradient(values, weights[rows])
            found.append([_maps(of(values), of(slopes)) for of in parts])
        return [np.concatenate(maps)[: len(images)] for maps in zip(*found, strict=True)]

    return make


def _cut(
    extractors: Sequence[keras.Model], classifier: keras.Model
) -> tuple[keras.Model, keras.Model, list[network_split.Part]]:
    """The network in two, cut behind the last convolutional layers.

    Returns:
        Images to activations, flat and joined (n, d_1 + ... + d_k); these to logits; and for each
        extractor what gives its part of the activations, (n, height, width, channels).
    """
    before, behind = zip(*map(_halves, extractors), strict=True)
    images = keras.Input(extractors[0].input_shape[1:])
    flat = [keras.layers.Flatten(dtype="float32")(half(images)) for half in before]
    ends = np.cumsum([0] + [given.shape[1] for given in flat]).tolist()
    parts = [
        network_split.Part(start, half.input_shape[1:], name=f"part_{number}")
        for number, (start, half) in enumerate(zip(ends, behind, strict=False))
    ]
    activations = keras.Input((ends[-1],))
    features = [half(part(activations)) for half, part in zip(behind, parts, strict=True)]
    return (
        keras.Model(images, network_split.joined(flat)),
        keras.Model(activations, classifier(network_split.joined(features))),
        parts,
    )


def _halves(extractor: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Images to the last convolutional layer's output, and that to features."""
    trunk, pooling = extractor.get_layer("trunk").model, extractor.get_layer("pooling")
    last = build.last_feature_map(trunk).output
    images = keras.Input(extractor.input_shape[1:])
    pixels = extractor.get_layer("preprocess")(images)
    x = middle = keras.Input(last.shape[1:])
    if last is not trunk.output:
        x = build.InferenceMode(keras.Model(last, trunk.output))(middle)
    before = build.InferenceMode(keras.Model(trunk.inputs, last))
    return keras.Model(images, before(pixels)), keras.Model(middle, pooling(x))


def _weights(label: NDArray[np.int64], n_classes: int) -> FloatArray:
    """Of the logits (n, n_classes) in y: 1 of the class, and -1 of the other of two."""
    weights = np.eye(n_classes, dtype=np.float32)
    if n_classes == 2:
        weights -= weights[::-1]
    return weights[label]


def _maps(activations: Any, slopes: Any) -> FloatArray:
    """Equations 1 and 2, for tensors (n, height, width, channels), scaled to a maximum of 1."""
    activations, slopes = map(keras.ops.convert_to_numpy, (activations, slopes))
    alpha = slopes.mean(axis=(1, 2), keepdims=True)
    maps = np.maximum((alpha * activations).sum(axis=-1), 0)
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.asarray(maps / np.where(highest == 0, 1, highest), np.float32)
