"""Gradients through an optimizer are those of calculus, and leave the model as it was."""

import keras
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal, assert_equal

from pipeline.training.gradients import gradient

ONE = np.ones((1, 1), np.float32)


def test_factors_have_each_other_as_weighted_gradients_every_time() -> None:
    """A part of the offset that is updated before another gradient is taken would show."""
    x = keras.Input((6,))
    product = x[:, :1] * keras.ops.sum(x[:, 1:], axis=1, keepdims=True)
    values = np.array([[2, 1, 2, 3, 4, 5], [5, 6, 7, 8, 9, 10]], np.float32)
    of_product = gradient(keras.Model(x, product), 2)
    for _ in range(5):
        result = of_product(values, np.array([[1], [-2]], np.float32))
        assert_array_equal(result, [[15, 2, 2, 2, 2, 2], [-80, *[-10] * 5]])
        assert result.dtype == np.float32


def test_large_inputs_cost_no_digits() -> None:
    """1e8 and 1e8 + 3 are the same number in float32."""
    x = keras.Input((1,))
    assert gradient(keras.Model(x, 0.3 * x), 1)(1e8 * ONE, ONE).item() == np.float32(0.3)


def test_the_model_runs_in_inference_mode_and_keeps_its_weights_trainable() -> None:
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    normed = keras.layers.BatchNormalization()(keras.layers.Dense(8)(x))
    model = keras.Model(x, keras.layers.Dense(1)(keras.layers.Dropout(0.9)(normed)))
    before = model.get_weights()
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    result = gradient(model, 3)(values, np.ones((3, 1), np.float32))
    kernel, _, gamma, _, _, variance, last, _ = before
    by_hand = (kernel * gamma / np.sqrt(variance + 1e-3)) @ last
    assert_allclose(result, np.tile(by_hand.T, (3, 1)), rtol=1e-5)
    assert_equal(model.get_weights(), before)
    assert len(model.trainable_weights) == 6
