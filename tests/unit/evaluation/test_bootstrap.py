"""Confidence intervals contain the true value as often as they claim, and repeat."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.evaluation import bootstrap, resampled_metrics
from pipeline.evaluation.probabilities import Floats, Ints


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (8, 10, 0.490162, 0.943318),  # R's prop.test(8, 10, correct = FALSE)
        (0, 20, 0.0, 0.161125),
        (20, 20, 0.838875, 1.0),
        (1, 2, 0.094531, 0.905469),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilsons_interval_has_the_published_bounds(
    count: int, total: int, low: float, high: float
) -> None:
    assert_allclose(bootstrap.wilson(count, total)[1:], (low, high), atol=1e-6)


@pytest.mark.parametrize(("share", "total"), [(0.5, 60), (0.9, 120), (0.985, 2_000)])
def test_wilsons_interval_contains_the_true_share_95_times_in_100(share: float, total: int) -> None:
    counts = np.random.default_rng(0).binomial(total, share, 4_000)
    intervals = {count: bootstrap.wilson(count, total) for count in set(counts.tolist())}
    contained = [intervals[n].low <= share <= intervals[n].high for n in counts.tolist()]
    assert 0.93 <= np.mean(contained) <= 0.97


def test_the_interval_of_a_normal_sample_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(3, 2, 2_000)
    mean, low, high = bootstrap.mean_interval(values)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert mean == values.mean()
    assert_allclose([mean - low, high - mean], [error, error], rtol=0.05)


PROBABILITY = np.clip(np.random.default_rng(1).beta(0.3, 0.3, 200_000), 1e-4, 1 - 1e-4)
ENTROPY = -(PROBABILITY * np.log(PROBABILITY) + (1 - PROBABILITY) * np.log1p(-PROBABILITY)).mean()


def log_loss(rng: np.random.Generator) -> Floats:
    """Losses of typical probabilities, with labels that follow them."""
    drawn = rng.choice(PROBABILITY, 500)
    return np.asarray(-np.log(np.where(rng.random(500) < drawn, drawn, 1 - drawn)))


def paired_difference(rng: np.random.Generator) -> Floats:
    """Two models that find the same images hard."""
    hard = rng.exponential(1.0, 300)
    return np.asarray((hard + rng.normal(0.05, 0.2, 300)) - (hard + rng.normal(0, 0.2, 300)))


@pytest.mark.parametrize(
    ("draw", "expected"), [(log_loss, ENTROPY), (paired_difference, 0.05)], ids=["loss", "paired"]
)
def test_the_interval_of_a_mean_contains_it_95_times_in_100(
    draw: Callable[[np.random.Generator], Floats],
    expected: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    rng = np.random.default_rng(2)
    intervals = [bootstrap.mean_interval(draw(rng)) for _ in range(1_000)]
    assert 0.93 <= np.mean([low <= expected <= high for _, low, high in intervals]) <= 0.97


def test_the_same_values_give_the_same_interval_for_any_block_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(2).normal(size=50)
    expected = bootstrap.mean_interval(values)
    assert bootstrap.mean_interval(values) == expected
    monkeypatch.setattr(bootstrap, "BLOCK", 50 * 100)
    assert_allclose(bootstrap.mean_interval(values), expected, rtol=1e-12)


def test_every_resample_draws_as_many_images_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1_000)
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * 64)
    *blocks, jackknife = bootstrap.weights(7)
    assert [len(block) for block in blocks] == [64] * 15 + [40]
    weight = np.concatenate(blocks)
    assert_array_equal(weight.sum(axis=1), np.full(1_000, 7))
    assert_allclose(weight.mean(axis=0), np.ones(7), atol=0.1)
    assert_array_equal(jackknife, 1 - np.eye(7))


@pytest.mark.parametrize(("images", "groups"), [(1, 1), (3, 3), (1_000, bootstrap.GROUPS)])
def test_the_jackknife_leaves_out_every_image_once_but_never_the_only_one(
    images: int, groups: int
) -> None:
    weight = np.concatenate(list(bootstrap.weights(images)))[bootstrap.RESAMPLES :]
    assert weight.shape == (groups, images)
    assert_array_equal((1 - weight).sum(axis=0), np.full(images, images > 1))


def test_equal_models_differ_by_nothing() -> None:
    assert bootstrap.mean_interval(np.zeros(10)) == (0, 0, 0)


def test_samples_of_an_undefined_metric_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 151)
    samples = np.r_[np.linspace(0, 1, 101), np.full(50, np.nan), 0.4, 0.6, np.nan]
    assert_allclose(bootstrap.bca_interval(0.5, samples), (0.5, 0.025, 0.975))


def test_the_interval_is_scipys_bca_interval() -> None:
    values = np.random.default_rng(3).exponential(1.0, 60)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=0
    ).confidence_interval
    assert_allclose(bootstrap.mean_interval(values)[1:], expected, atol=0.015)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision", "f1"])
def test_the_interval_of_other_metrics_contains_them_95_times_in_100(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    rng = np.random.default_rng(4)

    def drawn(images: int) -> tuple[Floats, Ints]:
        label = rng.integers(0, 2, images)
        log_odds = rng.normal(2.0 * label - 1.0, 1.2)
        return -np.logaddexp(0, np.stack([log_odds, -log_odds], axis=1)), label

    def compute(log_probability: Floats, label: Ints) -> resampled_metrics.Metric:
        if metric == "f1":
            f1 = resampled_metrics.f1(log_probability.argmax(axis=1), label, 2)
            return lambda weight: f1(weight)[:, 1]
        areas = resampled_metrics.areas(log_probability[:, 1] - log_probability[:, 0], label == 1)
        return lambda weight: areas(weight)[["roc_auc", "average_precision"].index(metric)]

    expected = compute(*drawn(400_000))(np.ones((1, 400_000)))[0]
    contained = 0
    for _ in range(400):
        of_weights = compute(*drawn(200))
        samples = np.concatenate([of_weights(weight) for weight in bootstrap.weights(200)])
        _, low, high = bootstrap.bca_interval(of_weights(np.ones((1, 200)))[0], samples)
        contained += low <= expected <= high
    assert 0.92 <= contained / 400 <= 0.98  # within 2 points, given 400 trials
