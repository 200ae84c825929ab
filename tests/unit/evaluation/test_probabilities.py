"""Log-probabilities are exact where probabilities underflow, and averaged over views."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.evaluation.probabilities import log_loss, log_softmax, mean_log_probability

CERTAIN = np.array([[1e4, 0, -1e4]], np.float32)
HUGE = np.array([[1e38, -1e38]], np.float32)
HALF = np.float32(-np.log(2))


def test_log_softmax_is_computed_in_float64() -> None:
    logits = np.random.default_rng(0).normal(scale=5, size=(50, 4)).astype(np.float32)
    wide = logits.astype(np.float64)
    expected = wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)
    assert log_softmax(logits).dtype == np.float32
    assert_allclose(log_softmax(logits), expected, rtol=1e-7, atol=1e-9)
    assert_allclose(log_softmax(logits, np.float64), expected, rtol=1e-14, atol=1e-14)


def test_log_softmax_of_huge_logits_is_exact() -> None:
    result = log_softmax(np.array([[1e4, -1e4], [-1e4, -1e4], [1e4, 1e4]], np.float32))
    assert_array_equal(result, [[0, -2e4], [HALF, HALF], [HALF, HALF]])


@pytest.mark.parametrize("views", [1, 2, 3, 10])
def test_views_give_the_logarithm_of_their_mean_probability(views: int) -> None:
    logits = np.random.default_rng(0).normal(scale=3, size=(views, 50, 4)).astype(np.float32)
    exponential = np.exp(logits.astype(np.float64))
    probability = exponential / exponential.sum(axis=2, keepdims=True)
    result = mean_log_probability(list(logits))
    assert result.dtype == np.float32
    assert_allclose(result, np.log(probability.mean(axis=0)), rtol=1e-5, atol=1e-6)
    same = mean_log_probability([logits[0]] * views)
    assert_allclose(same, log_softmax(logits[0]), rtol=1e-6, atol=1e-7)


def test_views_with_probabilities_that_underflow_have_finite_logarithms() -> None:
    for views, expected in (
        ([CERTAIN, CERTAIN[:, ::-1], CERTAIN], [[np.log(2 / 3), -1e4, np.log(1 / 3)]]),
        ([CERTAIN, CERTAIN], [[0, -1e4, -2e4]]),
        ([HUGE, HUGE], [[0, -2e38]]),
        ([HUGE, -HUGE], [[HALF, HALF]]),
    ):
        assert_allclose(mean_log_probability(views), expected, rtol=1e-6)


def test_certainty_of_the_wrong_class_costs_its_log_probability() -> None:
    log_probability = np.array([[0.0, -1e4], [0.0, -1e4]], dtype=np.float32)
    assert log_loss(log_probability, np.array([0, 1])) == 5000.0
