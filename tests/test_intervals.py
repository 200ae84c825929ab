"""Intervals hold the true figure as often as they say, and repeat."""

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.evaluation import bootstrap, resampled
from pipeline.evaluation.bootstrap import Samples
from pipeline.evaluation.losses import Floats, Ints


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
def test_wilsons_interval_is_the_one_that_is_published(
    count: int, total: int, low: float, high: float
) -> None:
    assert_allclose(bootstrap.wilson(count, total)[1:], (low, high), atol=1e-6)


@pytest.mark.parametrize(("share", "total"), [(0.5, 60), (0.9, 120), (0.985, 2_000)])
def test_wilsons_interval_holds_the_true_share_95_times_in_100(share: float, total: int) -> None:
    counts = np.random.default_rng(0).binomial(total, share, 4_000)
    bounds = {int(count): bootstrap.wilson(int(count), total) for count in np.unique(counts)}
    held = np.mean([bounds[int(n)].low <= share <= bounds[int(n)].high for n in counts])
    assert 0.93 <= held <= 0.97


def test_the_interval_of_a_normal_sample_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(3, 2, 2_000)
    mean, low, high = bootstrap.bootstrap(values)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert mean == values.mean()
    assert_allclose([mean - low, high - mean], [error, error], rtol=0.05)


def test_a_log_loss_is_held_95_times_in_100(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of probabilities as a good network gives them, and labels that follow them."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    rng = np.random.default_rng(1)
    probability = np.clip(rng.beta(0.3, 0.3, 200_000), 1e-4, 1 - 1e-4)
    expected = -(
        probability * np.log(probability) + (1 - probability) * np.log1p(-probability)
    ).mean()
    held = 0
    for _ in range(1_000):
        drawn = rng.choice(probability, 500)
        given = np.where(rng.random(500) < drawn, drawn, 1 - drawn)
        _, low, high = bootstrap.bootstrap(-np.log(given))
        held += low <= expected <= high
    assert 0.93 <= held / 1_000 <= 0.97


def test_a_paired_difference_is_held_95_times_in_100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(1_000):
        hard = rng.exponential(1.0, 300)  # what both models find hard
        better, worse = hard + rng.normal(0, 0.2, 300), hard + rng.normal(0.05, 0.2, 300)
        _, low, high = bootstrap.bootstrap(worse - better)
        held += low <= 0.05 <= high
    assert 0.93 <= held / 1_000 <= 0.97


def test_the_same_values_give_the_same_interval_in_blocks_of_any_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(2).normal(size=50)
    whole = bootstrap.bootstrap(values)
    assert bootstrap.bootstrap(values) == whole
    monkeypatch.setattr(bootstrap, "BLOCK", 50 * 100)
    assert_allclose(bootstrap.bootstrap(values), whole, rtol=1e-12)


def test_every_resample_draws_as_many_images_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1_000)
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * 64)
    blocks = list(bootstrap.weights(7))
    assert [len(block) for block in blocks] == [64] * 15 + [40]
    weight = np.concatenate(blocks)
    assert_array_equal(weight.sum(axis=1), np.full(1_000, 7))
    assert_allclose(weight.mean(axis=0), np.ones(7), atol=0.1)


def test_equal_models_differ_by_nothing() -> None:
    found = bootstrap.bootstrap(np.zeros(10))
    assert tuple(found) == (0, 0, 0)
    assert found.spans_zero


def test_resamples_in_which_a_figure_is_not_defined_do_not_count() -> None:
    drawn = np.r_[np.linspace(0, 1, 101), np.full(50, np.nan)]
    samples = Samples(drawn, np.array([0.4, 0.6, np.nan]))
    assert_allclose(bootstrap.around(0.5, samples), (0.5, 0.025, 0.975))


def test_the_jackknife_leaves_out_every_image_once() -> None:
    assert_array_equal(np.concatenate(list(bootstrap.left_out(3))), 1 - np.eye(3))
    assert_array_equal(np.concatenate(list(bootstrap.left_out(1))), [[1]])
    weight = np.concatenate(list(bootstrap.left_out(1_000)))
    assert weight.shape == (bootstrap.GROUPS, 1_000)
    assert_array_equal((1 - weight).sum(axis=0), np.ones(1_000))


def test_the_interval_is_scipys_bca_interval() -> None:
    values = np.random.default_rng(3).exponential(1.0, 60)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=0
    ).confidence_interval
    assert_allclose(bootstrap.bootstrap(values)[1:], expected, atol=0.015)


@pytest.mark.parametrize("figure", ["roc_auc", "average_precision", "f1"])
def test_a_figure_that_is_no_mean_is_held_95_times_in_100(
    figure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    rng = np.random.default_rng(4)

    def drawn(images: int) -> tuple[Floats, Ints]:
        label = rng.integers(0, 2, images)
        log_odds = rng.normal(2.0 * label - 1.0, 1.2)
        return -np.logaddexp(0, np.stack([log_odds, -log_odds], axis=1)), label

    def computed(given: Floats, label: Ints) -> resampled.Figure:
        if figure == "f1":
            both = resampled.f1(given.argmax(axis=1), label, 2)
            return lambda weight: both(weight)[:, 1]
        areas = resampled.areas(given[:, 1] - given[:, 0], label == 1)
        return lambda weight: areas(weight)[["roc_auc", "average_precision"].index(figure)]

    def value(given: Floats, label: Ints) -> float:
        return float(computed(given, label)(np.ones((1, len(label))))[0])

    expected = value(*drawn(400_000))
    held = 0
    for _ in range(400):
        given, label = drawn(200)
        compute = computed(given, label)
        blocks = [compute(weight) for weight in bootstrap.weights(200)]
        without = [compute(weight) for weight in bootstrap.left_out(200)]
        samples = Samples(np.concatenate(blocks), np.concatenate(without))
        _, low, high = bootstrap.around(value(given, label), samples)
        held += low <= expected <= high
    assert 0.92 <= held / 400 <= 0.98  # 2 points, and the luck of 400 trials
