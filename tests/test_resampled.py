"""The figures of a resample are scikit-learn's, each image weighted by how often it is drawn."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import average_precision_score, f1_score, log_loss, roc_auc_score

from pipeline.evaluation import bootstrap, classification, resampled
from pipeline.evaluation.losses import Floats, Ints


def made_up(n_classes: int, images: int = 200) -> tuple[Floats, Ints]:
    """Predictions with ties, better than chance."""
    rng = np.random.default_rng(n_classes)
    label = rng.integers(0, n_classes, images)
    logits = rng.integers(-3, 3, (images, n_classes)).astype(np.float64)
    logits[np.arange(images), label] += 1
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), label


@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_image_once_gives_the_figures_themselves(n_classes: int) -> None:
    log_probability, label = made_up(n_classes)
    found = resampled.figures(log_probability, label)(np.ones((1, len(label))))
    expected = classification.figures(log_probability, label)
    assert found.keys() - {"f1"} == expected.keys()
    for name, value in expected.items():
        assert_allclose(found[name], [value], rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_resample_gives_what_scikit_learn_gives_with_weights(n_classes: int) -> None:
    log_probability, label = made_up(n_classes)
    weight = np.concatenate(list(bootstrap.weights(len(label))))[:5]
    found = resampled.figures(log_probability, label)(weight)
    scored = classification.scores_and_truths(log_probability, label)
    for at, drawn in enumerate(weight):
        assert_allclose(
            found["log_loss"][at], log_loss(label, np.exp(log_probability), sample_weight=drawn)
        )
        areas = [roc_auc_score(truth, score, sample_weight=drawn) for score, truth in scored]
        assert_allclose(found["roc_auc"][at], np.mean(areas))
        areas = [
            average_precision_score(truth, score, sample_weight=drawn) for score, truth in scored
        ]
        assert_allclose(found["average_precision"][at], np.mean(areas))
        guess = log_probability.argmax(axis=1)
        assert_allclose(found["f1"][at], f1_score(label, guess, sample_weight=drawn, average=None))
        chosen = np.repeat(np.arange(len(label)), drawn.astype(int))
        assert_allclose(
            found["expected_calibration_error"][at],
            classification.expected_calibration_error(log_probability[chosen], label[chosen]),
        )


def test_a_class_that_is_not_drawn_leaves_its_areas_open() -> None:
    log_probability, label = made_up(2, 4)
    weight = np.array([label == 0, label == 1, np.ones(4)], dtype=np.float64)
    found = resampled.figures(log_probability, label)(weight)
    for name in ("roc_auc", "average_precision"):
        assert np.isnan(found[name][0])
        assert not np.isnan(found[name][2])
    assert np.isnan(found["roc_auc"][1])


def test_models_are_scored_on_the_same_resamples() -> None:
    log_probability, label = made_up(2)
    samples = resampled.samples({"one": log_probability, "other": log_probability.copy()}, label)
    assert samples["one"].keys() == {
        *("accuracy", "log_loss", "brier", "roc_auc", "average_precision"),
        *("expected_calibration_error", "f1"),
    }
    for name, values in samples["one"].items():
        assert len(values.drawn) == bootstrap.RESAMPLES
        assert len(values.without) == len(label)
        assert_allclose(values.drawn, samples["other"][name].drawn, rtol=0)
        assert values.drawn.std() > 0
