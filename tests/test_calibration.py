"""A temperature finds how far probabilities were sharpened, a clip how many labels are wrong."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax

from pipeline.evaluation import calibration
from pipeline.evaluation.losses import Floats, Ints, log_loss


def drawn(images: int, n_classes: int, seed: int, spread: float = 4.0) -> tuple[Floats, Ints]:
    """Log-probabilities, and labels that follow them exactly."""
    rng = np.random.default_rng(seed)
    given = log_softmax(rng.normal(0, spread, (images, n_classes)), axis=1)
    edges = np.exp(given).cumsum(axis=1)
    label = (rng.random((images, 1)) > edges[:, :-1]).sum(axis=1)
    return given, label


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("by", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_sharpening(n_classes: int, by: float) -> None:
    given, label = drawn(20_000, n_classes, 0)
    sharpened = log_softmax(given * by, axis=1)
    found = calibration.temperature(sharpened, label)
    assert found == pytest.approx(by, rel=0.05)
    assert_allclose(calibration.calibrated(sharpened, by), given, atol=1e-9)
    back = calibration.calibrated(sharpened, found)
    assert log_loss(back, label) <= log_loss(sharpened, label)


def test_a_temperature_of_one_changes_no_bit() -> None:
    given = drawn(10, 2, 0)[0].astype(np.float32)
    assert calibration.calibrated(given, 1.0) is given


def test_a_temperature_keeps_the_order_of_classes() -> None:
    given, _ = drawn(100, 4, 1)
    for by in (0.1, 10.0):
        assert_array_equal(calibration.calibrated(given, by).argsort(axis=1), given.argsort(axis=1))


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_clipped_probabilities_keep_their_distance_and_add_up_to_one(n_classes: int) -> None:
    probability = np.eye(n_classes, dtype=np.float32)
    found = calibration.clipped(probability, 0.01)
    assert_allclose(found.sum(axis=1), np.ones(n_classes), rtol=1e-12)
    least = 0.01 if n_classes == 2 else 0.02 / n_classes
    assert found.min() == pytest.approx(least)


def test_two_classes_within_the_clip_stay_as_they_are() -> None:
    found = calibration.clipped(np.array([[0.75, 0.25]]), 0.01)
    assert found.tolist() == [[0.75, 0.25]]


def _sure(images: int, seed: int, wrong: float) -> tuple[Floats, Ints]:
    """As a good network of two classes is sure, with a share of labels swapped afterwards."""
    given, label = drawn(images, 2, seed, spread=12.0)
    swapped = np.random.default_rng(seed + 1).random(images) < wrong
    return given, np.where(swapped, 1 - label, label)


def _loss(given: Floats, label: Ints, clip: float) -> float:
    return log_loss(np.log(calibration.clipped(np.exp(given), clip)), label)


@pytest.mark.parametrize("seed", range(5))
def test_among_labels_swapped_at_half_a_percent_the_clip_is_as_good_as_the_best(seed: int) -> None:
    clip = calibration.best_clip(*_sure(2_500, seed, 0.005))
    others = _sure(100_000, 100 + seed, 0.005)
    best = min(_loss(*others, float(tried)) for tried in calibration.CLIPS[::10])
    assert _loss(*others, clip) <= 1.05 * best


@pytest.mark.parametrize("seed", range(5))
def test_among_clean_labels_the_clip_costs_next_to_nothing(seed: int) -> None:
    clip = calibration.best_clip(*_sure(2_500, seed, 0.0))
    others = _sure(100_000, 100 + seed, 0.0)
    assert _loss(*others, clip) - log_loss(others[0], others[1]) <= 0.001


def test_however_few_images_there_are_the_clip_is_not_nothing() -> None:
    sure = np.log(np.array([[1 - 1e-9, 1e-9]] * 9))
    assert calibration.best_clip(sure, np.zeros(9, np.int64)) == pytest.approx(0.05, rel=0.02)


def test_more_classes_have_a_clip_too() -> None:
    given, label = drawn(3_000, 4, 0, spread=20.0)
    clip = calibration.best_clip(given, label)
    assert 0 < clip < 0.01
