"""Gradients of a network's outputs by its input, through Keras' own interface on every backend.

Keras 3 has no function for that, but its optimizers work everywhere: to the input an offset of
zeros is added, the only weight that is trained. After one step of gradient descent of step size 1
on the loss -f, the offset is the gradient of f, without any rounding: 0 - 1 * (-gradient).

There is one offset only: of two, TensorFlow 2.21 sometimes updates the first before the gradient by
the second is computed from it (measured; where f is not linear in both, that cannot happen, as all
gradients then wait for f).
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Gradient = Callable[[NDArray[Any], NDArray[Any]], FloatArray]


def gradient(model: keras.Model, rows: int) -> Gradient:
    """The function that computes gradients of `model` in inference mode; it is compiled once.

    Args:
        model: from float32 (rows, ...) to outputs (rows, k). It keeps its weights, and which of
            them are trainable.
        rows: of every batch.

    Returns:
        A function of the input and of weights (rows, k): the gradient of sum(weights * outputs) by
        the input, float32, in its shape.

    Example:
        x = keras.Input((1,))
        found = gradient(keras.Model(x, x * x), 2)(np.array([[3.0], [5.0]]), np.ones((2, 1)))
        # found is [[6], [10]]
    """
    inputs = keras.Input(model.input_shape[1:], batch_size=rows)
    offset = Offset()
    trained = keras.Model(inputs, Fixed(model)(offset(inputs)))
    trained.compile(keras.optimizers.SGD(1.0), MinusSum(reduction="sum"), jit_compile=False)

    def at(values: NDArray[Any], weights: NDArray[Any]) -> FloatArray:
        offset.values.assign(keras.ops.zeros_like(offset.values))
        trained.train_on_batch(values, weights)
        return np.array(keras.ops.convert_to_numpy(offset.values))

    return at


class Offset(keras.layers.Layer):  # type: ignore[misc]
    """Adds trained values, zeros at first, to inputs (rows, ...) of a fixed number of rows."""

    def __init__(self) -> None:
        super().__init__(name="offset", dtype="float32")

    def build(self, shape: tuple[int, ...]) -> None:
        self.values = self.add_weight(shape=shape, initializer="zeros", name="values")

    def call(self, inputs: Any) -> Any:
        return inputs + self.values


class Fixed(keras.layers.Layer):  # type: ignore[misc]
    """A model in inference mode, whose weights are hidden from training."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name="fixed", dtype="float32")
        self._function: Callable[[Any], Any] = lambda inputs: model(inputs, training=False)

    def call(self, inputs: Any) -> Any:
        return self._function(inputs)


class MinusSum(keras.losses.Loss):  # type: ignore[misc]
    """-(weights * outputs), summed over the outputs."""

    def call(self, weights: Any, outputs: Any) -> Any:
        return -keras.ops.sum(weights * outputs, axis=-1)
