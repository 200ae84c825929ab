"""Bootstrap intervals hold the mean as often as they say, and repeat."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from stages.scores import intervals


def test_the_interval_of_a_normal_sample_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(3, 2, 2_000)
    mean, low, high = intervals.bootstrap(values)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert mean == values.mean()
    assert_allclose([mean - low, high - mean], [error, error], rtol=0.05)


def test_it_holds_the_true_mean_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 500)
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        _, low, high = intervals.bootstrap(rng.exponential(1.0, 100))
        held += low <= 1.0 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_the_same_values_give_the_same_interval_in_blocks_of_any_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(2).normal(size=50)
    whole = intervals.bootstrap(values)
    assert intervals.bootstrap(values) == whole
    monkeypatch.setattr(intervals, "BLOCK", 50 * 100)
    assert intervals.bootstrap(values) == whole


def test_equal_models_differ_by_nothing() -> None:
    assert intervals.bootstrap(np.zeros(10)) == (0, 0, 0)
