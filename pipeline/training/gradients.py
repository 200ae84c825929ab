"""Gradients of a network by its input, and the network cut at its last convolutions for Grad-CAM.

Keras 3 has no public function for gradients, but its optimizers work on every backend: an offset of
zeros is added to the input as the only trainable weight. After one step of gradient descent with
step size 1 on the loss -f, the offset is exactly the gradient of f.

There is only one offset: with two, TensorFlow 2.21 sometimes updates the first before it computes
the gradient by the second (measured).
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.backbones import intermediate
from pipeline.training import network_split

Gradient = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float32]]


def gradient(model: keras.Model, rows: int) -> Gradient:
    """Return a function that computes gradients of `model` in inference mode; compiled once.

    Args:
        model: from float32 (rows, ...) to outputs (rows, k); weights stay the same.
        rows: batch size.

    Returns:
        A function of the input and of weights (rows, k) that returns the gradient of
        sum(weights * outputs) by the input, float32, in the input's shape.

    Example:
        x = keras.Input((1,))
        gradient(keras.Model(x, x * x), 2)(np.array([[3.0], [5.0]]), np.ones((2, 1)))
        # [[6], [10]]
    """
    inputs = keras.Input(model.input_shape[1:], batch_size=rows)
    offset = Offset()
    trained = keras.Model(inputs, Fixed(model)(offset(inputs)))
    trained.compile(keras.optimizers.SGD(1.0), NegativeSum(reduction="sum"), jit_compile=False)

    def compute(values: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float32]:
        offset.values.assign(keras.ops.zeros_like(offset.values))
        trained.train_on_batch(values, weights)
        return np.array(keras.ops.convert_to_numpy(offset.values))

    return compute


def split_at_last_convolutions(
    extractors: Sequence[keras.Model], classifier: keras.Model
) -> tuple[keras.Model, keras.Model, list[tuple[int, ...]]]:
    """Cut a network behind the last convolution of each of its extractors.

    Returns:
        A model from images to activations, flattened and joined (n, d_1 + ... + d_k); one from
        these to logits; and each extractor's (height, width, channels), with product d_i.
    """
    halves = [intermediate.split_at_last_convolution(extractor) for extractor in extractors]
    images = keras.Input(extractors[0].input_shape[1:])
    flat = [keras.layers.Flatten(dtype="float32")(before(images)) for before, _ in halves]
    ends = np.cumsum([0] + [part.shape[1] for part in flat]).tolist()
    activations = keras.Input((ends[-1],))
    features, shapes = [], []
    for number, (start, (_, after)) in enumerate(zip(ends, halves, strict=False)):
        shapes.append(after.input_shape[1:])
        part = network_split.Part(start, shapes[-1], name=f"part_{number}")
        features.append(after(part(activations)))
    return (
        keras.Model(images, network_split.joined(flat)),
        keras.Model(activations, classifier(network_split.joined(features))),
        shapes,
    )


class Offset(keras.layers.Layer):  # type: ignore[misc]
    """Adds trainable values, initially zero, to inputs (rows, ...) with a fixed number of rows."""

    def __init__(self) -> None:
        super().__init__(name="offset", dtype="float32")

    def build(self, shape: tuple[int, ...]) -> None:
        self.values = self.add_weight(shape=shape, initializer="zeros", name="values")

    def call(self, inputs: Any) -> Any:
        return inputs + self.values


class Fixed(keras.layers.Layer):  # type: ignore[misc]
    """A model in inference mode that hides its weights from the optimizer."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name="fixed", dtype="float32")
        self._function: Callable[[Any], Any] = lambda inputs: model(inputs, training=False)

    def call(self, inputs: Any) -> Any:
        return self._function(inputs)


class NegativeSum(keras.losses.Loss):  # type: ignore[misc]
    """-(weights * outputs), summed over the outputs."""

    def call(self, weights: Any, outputs: Any) -> Any:
        return -keras.ops.sum(weights * outputs, axis=-1)
