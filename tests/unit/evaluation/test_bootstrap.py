"""Confidence intervals contain the true value as often as they claim, and repeat."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.evaluation import bootstrap, comparison

Sample = tuple[Callable[[bootstrap.Floats], bootstrap.Floats], int]  # (k, resamples), n images


def test_wilsons_interval_has_the_published_bounds() -> None:
    bounds = [bootstrap.wilson(*pair)[1:] for pair in [(8, 10), (0, 20), (20, 20), (1, 2), (0, 0)]]
    # The first by R's prop.test(8, 10, correct = FALSE).
    lows, highs = (0.490162, 0, 0.838875, 0.094531, 0), (0.943318, 0.161125, 1, 0.905469, 1)
    assert_allclose(np.transpose(bounds), (lows, highs), atol=1e-6)


def paired_difference(rng: np.random.Generator, images: int) -> Sample:
    """Two models that find the same images hard."""
    hard = rng.exponential(1.0, images)
    first, second = (hard + rng.normal(mean, 0.2, images) for mean in (0, 0.05))
    return lambda weight: (weight @ (second - first) / weight.sum(axis=1))[None], images


def metrics(rng: np.random.Generator, images: int) -> Sample:
    """Log loss, ROC AUC, average precision, and F1 of the second class."""
    label = rng.integers(0, 2, images)
    log_odds = rng.normal(2.0 * label - 1.0, 1.2)
    resampled = comparison.resampled(-np.logaddexp(0, np.stack([log_odds, -log_odds], 1)), label)

    def compute(weight: bootstrap.Floats) -> bootstrap.Floats:
        of = resampled(weight)
        return np.stack([of["log_loss"], of["roc_auc"], of["average_precision"], of["f1"][:, 1]])

    return compute, images


@pytest.mark.parametrize("draw", [paired_difference, pytest.param(metrics, marks=pytest.mark.slow)])
def test_the_interval_contains_the_true_value_95_times_in_100(
    draw: Callable[[np.random.Generator, int], Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    rng = np.random.default_rng(4)
    compute, images = draw(rng, 400_000)
    expected = compute(np.ones((1, images)))[:, 0]
    contained = []
    for _ in range(400):
        compute, images = draw(rng, 200)
        samples = np.concatenate([compute(weight) for weight in bootstrap.weights(images)], axis=1)
        intervals = map(bootstrap.bca_interval, compute(np.ones((1, images)))[:, 0], samples)
        contained.append(
            [low <= true <= high for true, (_, low, high) in zip(expected, intervals, strict=True)]
        )
    shares = np.mean(contained, axis=0)  # within 2 points, given 400 trials
    assert (shares.min() >= 0.92, shares.max() <= 0.98) == (True, True), shares


def test_resamples_draw_n_images_and_the_jackknife_leaves_out_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1_000)
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * 64)
    *blocks, jackknife = bootstrap.weights(7)
    assert [len(block) for block in blocks] == [64] * 15 + [40]
    weight = np.concatenate(blocks)
    assert_array_equal(weight.sum(axis=1), np.full(1_000, 7))
    assert_allclose(weight.mean(axis=0), np.ones(7), atol=0.1)
    assert_array_equal(jackknife, 1 - np.eye(7))
    for images, groups in ((1, 1), (1_000, bootstrap.GROUPS)):  # but never the only one
        weight = np.concatenate(list(bootstrap.weights(images)))[bootstrap.RESAMPLES :]
        assert weight.shape == (groups, images)
        assert_array_equal((1 - weight).sum(axis=0), np.full(images, images > 1))


def test_samples_of_an_undefined_metric_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 151)
    samples = np.r_[np.linspace(0, 1, 101), np.full(50, np.nan), 0.4, 0.6, np.nan]
    assert_allclose(bootstrap.bca_interval(0.5, samples), (0.5, 0.025, 0.975))


def test_the_interval_is_scipys_bca_interval() -> None:
    values = np.random.default_rng(3).exponential(1.0, 60)
    expected = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=0)
    mean, *bounds = bootstrap.mean_interval(values)
    assert mean == values.mean()
    assert_allclose(bounds, expected.confidence_interval, atol=0.015)
    assert bootstrap.mean_interval(np.zeros(10)) == (0, 0, 0)
