"""Log-probabilities are exact; temperature and clip recover a sharpening and wrong labels."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.evaluation import calibration
from pipeline.evaluation.probabilities import Floats, Ints, log_loss, log_softmax
from pipeline.evaluation.probabilities import mean_log_probability as mean

CERTAIN = np.array([[1e4, 0, -1e4]], np.float32)
HUGE = np.array([[1e38, -1e38]], np.float32)
HALF = np.float32(-np.log(2))


def test_log_softmax_is_computed_in_float64_and_exact_for_huge_logits() -> None:
    logits = np.random.default_rng(0).normal(scale=5, size=(50, 4)).astype(np.float32)
    wide = logits.astype(np.float64)
    expected = wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)
    assert log_softmax(logits).dtype == np.float32
    assert_allclose(log_softmax(logits), expected, rtol=1e-7, atol=1e-9)
    assert_allclose(log_softmax(logits, np.float64), expected, rtol=1e-14, atol=1e-14)
    result = log_softmax(np.array([[1e4, -1e4], [-1e4, -1e4], [1e4, 1e4]], np.float32))
    assert_array_equal(result, [[0, -2e4], [HALF, HALF], [HALF, HALF]])
    assert log_loss(result[[0, 0]], np.array([0, 1])) == 1e4


@pytest.mark.parametrize("views", [1, 3])
def test_views_give_the_logarithm_of_their_mean_probability(views: int) -> None:
    logits = np.random.default_rng(0).normal(scale=3, size=(views, 50, 4)).astype(np.float32)
    exponential = np.exp(logits.astype(np.float64))
    probability = exponential / exponential.sum(axis=2, keepdims=True)
    result = mean(list(logits))
    assert result.dtype == np.float32
    assert_allclose(result, np.log(probability.mean(axis=0)), rtol=1e-5, atol=1e-6)


def test_views_with_probabilities_that_underflow_have_finite_logarithms() -> None:
    for views, expected in (
        ([CERTAIN, CERTAIN[:, ::-1], CERTAIN], [[np.log(2 / 3), -1e4, np.log(1 / 3)]]),
        ([CERTAIN, CERTAIN], [[0, -1e4, -2e4]]),
        ([HUGE, HUGE], [[0, -2e38]]),
        ([HUGE, -HUGE], [[HALF, HALF]]),
    ):
        assert_allclose(mean(views), expected, rtol=1e-6)


def drawn(images: int, n_classes: int, seed: int, spread: float = 4.0) -> tuple[Floats, Ints]:
    """Log-probabilities, and labels that follow them exactly."""
    rng = np.random.default_rng(seed)
    log_probability = log_softmax(rng.normal(0, spread, (images, n_classes)), np.float64)
    edges = np.exp(log_probability).cumsum(axis=1)
    return log_probability, (rng.random((images, 1)) > edges[:, :-1]).sum(axis=1)


@pytest.mark.parametrize(("n_classes", "by"), [(2, 0.5), (2, 3.0), (5, 1.0)])
def test_the_temperature_undoes_a_sharpening(n_classes: int, by: float) -> None:
    expected, label = drawn(20_000, n_classes, 0)
    sharpened = log_softmax(expected * by, np.float64)
    temperature = calibration.fit_temperature(sharpened, label)
    assert temperature == pytest.approx(by, rel=0.05)
    assert_allclose(calibration.scaled(sharpened, by), expected, atol=1e-9)
    assert calibration.scaled(expected, 1.0) is expected
    assert log_loss(calibration.scaled(sharpened, temperature), label) <= log_loss(sharpened, label)


def true_loss(log_probability: Floats, temperature: float) -> float:
    """The expected log loss at a temperature if the labels follow `log_probability` at 1."""
    return float(
        -(np.exp(log_probability) * calibration.scaled(log_probability, temperature)).sum(1).mean()
    )


@pytest.mark.parametrize("images", [2, 10, 30, 100, 500, 2_000])
@pytest.mark.parametrize("n_classes", [2, 10])
@pytest.mark.parametrize("by", [0.6, 1.0, 1.2, 1.8])
def test_calibration_on_few_images_is_not_worse_than_none(
    images: int, n_classes: int, by: float
) -> None:
    """By simulation: the expected loss on new images, with the temperature of `images` images."""
    held_out, _ = drawn(4_000, n_classes, 0)
    grid = np.linspace(-1.5, 1.5, 61)
    loss = [true_loss(held_out, float(np.exp(log)) / by) for log in grid]
    logs = []
    for seed in range(1, 21):
        log_probability, label = drawn(images, n_classes, seed)
        sharpened = log_softmax(log_probability * by, np.float64)
        logs.append(np.log(calibration.fit_temperature(sharpened, label)))
    without, expected = np.interp(0, grid, loss), np.interp(logs, grid, loss).mean()
    assert expected <= without * 1.015  # at most, where nothing can be gained
    if images == 2_000 and by in (0.6, 1.8):  # most of what can be gained is
        best = true_loss(held_out, 1.0)
        assert without - expected > 0.9 * (without - best)


@pytest.mark.parametrize("images", [2, 30, 200])
def test_images_that_are_all_right_do_not_make_a_network_certain(images: int) -> None:
    label = np.arange(images) % 2
    log_probability = log_softmax(np.where(np.eye(2)[label], 1.0, -1.0), np.float64)
    temperature = calibration.fit_temperature(log_probability, label)
    assert temperature == 1 if images < 30 else 0.2 < temperature < 1


def test_clipped_probabilities_keep_their_distance_and_sum_to_one() -> None:
    for n_classes, lowest in ((2, 0.01), (10, 0.002)):
        clipped = calibration.clipped(np.eye(n_classes, dtype=np.float32), 0.01)
        assert_allclose(clipped.sum(axis=1), np.ones(n_classes), rtol=1e-12)
        assert clipped.min() == pytest.approx(lowest)
    assert calibration.clipped(np.array([[0.75, 0.25]]), 0.01).tolist() == [[0.75, 0.25]]


def confident(images: int, seed: int, wrong: float) -> tuple[Floats, Ints]:
    """Predictions of a good network for two classes; a share of the labels is swapped."""
    log_probability, label = drawn(images, 2, seed, spread=12.0)
    swapped = np.random.default_rng(seed + 1).random(images) < wrong
    return log_probability, np.where(swapped, 1 - label, label)


def clipped_loss(log_probability: Floats, label: Ints, clip: float) -> float:
    return log_loss(np.log(calibration.clipped(np.exp(log_probability), clip)), label)


@pytest.mark.parametrize("seed", range(3))
def test_the_clip_is_nearly_optimal_and_costs_clean_labels_almost_nothing(seed: int) -> None:
    wrong, clean = (calibration.best_clip(*confident(2_500, seed, share)) for share in (0.005, 0))
    others = confident(100_000, 100 + seed, 0.005)
    best = min(clipped_loss(*others, float(tried)) for tried in calibration.CLIPS[::10])
    assert clipped_loss(*others, wrong) <= 1.05 * best
    others = confident(100_000, 100 + seed, 0.0)
    assert clipped_loss(*others, clean) - log_loss(*others) <= 0.001


def test_the_clip_is_never_zero_and_works_for_more_classes() -> None:
    nine = np.log(np.array([[1 - 1e-9, 1e-9]] * 9))
    assert calibration.best_clip(nine, np.zeros(9, np.int64)) == pytest.approx(0.05, rel=0.02)
    assert 0 < calibration.best_clip(*drawn(3_000, 4, 0, spread=20.0)) < 0.01
