"""Confidence intervals contain the true value as often as they claim, and repeat."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.evaluation import bootstrap, resampled_metrics


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


Sample = tuple[resampled_metrics.Metric, int]  # a metric of weights, and the number of images


def log_loss(rng: np.random.Generator, images: int) -> Sample:
    """Losses of typical probabilities, with labels that follow them."""
    probability = np.clip(rng.beta(0.3, 0.3, images), 1e-4, 1 - 1e-4)
    likely = np.where(rng.random(images) < probability, probability, 1 - probability)
    return resampled_metrics.mean(-np.log(likely)), images


def paired_difference(rng: np.random.Generator, images: int) -> Sample:
    """Two models that find the same images hard."""
    hard = rng.exponential(1.0, images)
    first, second = (hard + rng.normal(mean, 0.2, images) for mean in (0, 0.05))
    return resampled_metrics.mean(second - first), images


def other(metric: str, column: int, rng: np.random.Generator, images: int) -> Sample:
    label = rng.integers(0, 2, images)
    log_odds = rng.normal(2.0 * label - 1.0, 1.2)
    if metric == "f1":
        f1 = resampled_metrics.f1((log_odds > 0).astype(np.int64), label, 2)
        return lambda weight: f1(weight)[:, column], images
    areas = resampled_metrics.areas(log_odds, label == 1)
    return lambda weight: areas(weight)[column], images


@pytest.mark.parametrize(
    "draw",
    [
        *(log_loss, paired_difference),
        *(functools.partial(other, *pair) for pair in (("areas", 0), ("areas", 1), ("f1", 1))),
    ],
    ids=["log loss", "paired difference", "ROC AUC", "average precision", "F1"],
)
def test_the_interval_contains_the_true_value_95_times_in_100(
    draw: Callable[[np.random.Generator, int], Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    rng = np.random.default_rng(4)

    def measured(metric: resampled_metrics.Metric, images: int) -> float:
        return float(metric(np.ones((1, images)))[0])

    expected = measured(*draw(rng, 400_000))
    contained = []
    for _ in range(400):
        metric, images = draw(rng, 200)
        samples = np.concatenate([metric(weight) for weight in bootstrap.weights(images)])
        _, low, high = bootstrap.bca_interval(measured(metric, images), samples)
        contained.append(low <= expected <= high)
    assert 0.92 <= np.mean(contained) <= 0.98  # within 2 points, given 400 trials


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


def test_samples_of_an_undefined_metric_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 151)
    samples = np.r_[np.linspace(0, 1, 101), np.full(50, np.nan), 0.4, 0.6, np.nan]
    assert_allclose(bootstrap.bca_interval(0.5, samples), (0.5, 0.025, 0.975))


def test_the_interval_is_scipys_bca_interval() -> None:
    values = np.random.default_rng(3).exponential(1.0, 60)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=0
    ).confidence_interval
    mean, *bounds = bootstrap.mean_interval(values)
    assert mean == values.mean()
    assert_allclose(bounds, expected, atol=0.015)
    assert bootstrap.mean_interval(np.zeros(10)) == (0, 0, 0)
