"""Gradients through an optimizer are those of calculus, and leave the model as it was."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from pipeline.explanation.gradients import gradient


def test_the_gradient_of_a_square_is_twice_the_number() -> None:
    x = keras.Input((2,))
    of_square = gradient(keras.Model(x, x * x), 2)
    values = np.array([[1, -2], [3, 0.5]], np.float32)
    found = of_square(values, np.ones((2, 2), np.float32))
    assert_array_equal(found, 2 * values)
    assert found.dtype == np.float32


def test_weights_say_which_outputs_count_and_how_much() -> None:
    x = keras.Input((2,))
    of_square = gradient(keras.Model(x, x * x), 2)
    values = np.array([[1, -2], [3, 0.5]], np.float32)
    found = of_square(values, np.array([[0, 1], [-10, 0]], np.float32))
    assert_array_equal(found, [[0, -4], [-60, 0]])


def test_parts_of_the_input_that_are_multiplied_have_each_other_as_gradients_every_time() -> None:
    """A linear f of each: a gradient taken after a part of the offset was updated would show."""
    x = keras.Input((6,))
    product = x[:, :1] * keras.ops.sum(x[:, 1:], axis=1, keepdims=True)
    values = np.array([[2, 1, 2, 3, 4, 5], [5, 6, 7, 8, 9, 10]], np.float32)
    of_product = gradient(keras.Model(x, product), 2)
    for _ in range(5):
        found = of_product(values, np.ones((2, 1), np.float32))
        assert_array_equal(found, [[15, 2, 2, 2, 2, 2], [40, 5, 5, 5, 5, 5]])


def test_a_second_call_knows_nothing_of_the_first_and_leaves_its_result() -> None:
    x = keras.Input((1,))
    of_square = gradient(keras.Model(x, x * x), 1)
    ones = np.ones((1, 1), np.float32)
    first, second = (of_square(at * ones, ones) for at in (3, 4))
    assert (first.item(), second.item()) == (6, 8)


def test_large_inputs_cost_no_digits() -> None:
    """1e8 and 1e8 + 3 are next to each other in float32."""
    x = keras.Input((1,))
    found = gradient(keras.Model(x, 0.3 * x), 1)(np.array([[1e8]]), np.ones((1, 1)))
    assert found.item() == np.float32(0.3)


def test_the_model_keeps_its_weights_and_what_is_trainable_and_is_not_in_training() -> None:
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    normed = keras.layers.BatchNormalization()(keras.layers.Dense(8)(x))
    outputs = keras.layers.Dense(1)(keras.layers.Dropout(0.9)(normed))
    model = keras.Model(x, outputs)
    before = model.get_weights()
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    found = gradient(model, 3)(values, np.ones((3, 1), np.float32))
    kernel, _, gamma, _, _, variance, last, _ = before
    by_hand = (kernel * gamma / np.sqrt(variance + 1e-3)) @ last
    assert_allclose(found, np.tile(by_hand.T, (3, 1)), rtol=1e-5)
    for weight, expected in zip(model.get_weights(), before, strict=True):
        assert_array_equal(weight, expected)
    assert len(model.trainable_weights) == 6
