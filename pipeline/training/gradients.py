"""Gradients of a network by its input.

Keras 3 has no public function for gradients, but its optimizers work on every backend: after one
step of gradient descent with step size 1 on the loss -f, an offset of zeros that is added to the
input, as the only trainable weight, is exactly the gradient of f.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

Gradient = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float32]]


def gradient(model: keras.Model, rows: int) -> Gradient:
    """Return a function that computes gradients of `model` in inference mode; compiled once.

    The model maps float32 (rows, ...) to outputs (rows, k); its weights stay the same. The function
    takes inputs and weights (rows, k) and returns the gradient of sum(weights * outputs) by the
    inputs, float32, in their shape.
    """
    inputs = keras.Input(model.input_shape[1:], batch_size=rows)
    shifted = Shifted(model)
    trained = keras.Model(inputs, shifted(inputs))
    trained.compile(keras.optimizers.SGD(1.0), NegativeSum(reduction="sum"), jit_compile=False)

    def compute(values: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float32]:
        shifted.offset.assign(keras.ops.zeros(shifted.offset.shape))
        trained.train_on_batch(values, weights)
        return np.array(keras.ops.convert_to_numpy(shifted.offset))

    return compute


class Shifted(keras.layers.Layer):  # type: ignore[misc]
    """A model in inference mode of inputs (rows, ...) plus a trainable offset, initially zero.

    Its weights are hidden from the optimizer. There is only one offset: with two, TensorFlow 2.21
    sometimes updates the first before it computes the gradient by the second (measured).
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(dtype="float32")
        self._function: Callable[[Any], Any] = lambda inputs: model(inputs, training=False)

    def build(self, shape: tuple[int, ...]) -> None:
        self.offset = self.add_weight(shape=shape, initializer="zeros")

    def call(self, inputs: Any) -> Any:
        return self._function(inputs + self.offset)


class NegativeSum(keras.losses.Loss):  # type: ignore[misc]
    """-(weights * outputs), summed over the outputs."""

    def call(self, weights: Any, outputs: Any) -> Any:
        return -keras.ops.sum(weights * outputs, axis=-1)
