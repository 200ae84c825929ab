"""The metrics of a resample are scikit-learn's with sample weights."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import average_precision_score, f1_score, log_loss, roc_auc_score

from pipeline.evaluation import bootstrap, classification, resampled_metrics
from pipeline.evaluation.probabilities import Floats, Ints


def predictions(n_classes: int, images: int = 200) -> tuple[Floats, Ints]:
    """Predictions with ties, better than chance."""
    rng = np.random.default_rng(n_classes)
    label = rng.integers(0, n_classes, images)
    logits = rng.integers(-3, 3, (images, n_classes)).astype(np.float64)
    logits[np.arange(images), label] += 1
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), label


@pytest.mark.parametrize("n_classes", [2, 3])
def test_weights_give_the_metrics_of_scikit_learn(n_classes: int) -> None:
    log_probability, label = predictions(n_classes)
    ones = np.ones((1, len(label)))
    weights = np.concatenate([ones, next(bootstrap.weights(len(label)))[:5]])
    values = resampled_metrics.metrics(log_probability, label)(weights)
    unweighted = classification.metrics(log_probability, label)
    assert {name: values[name][0] for name in unweighted} == pytest.approx(unweighted, rel=1e-12)
    assert values.keys() == unweighted.keys() | {"f1"}
    pairs = classification.one_vs_rest(log_probability, label)
    predicted = log_probability.argmax(axis=1)
    for number, weight in enumerate(weights):
        drawn = np.repeat(np.arange(len(label)), weight.astype(int))
        weighted = {"sample_weight": weight}
        expected = {
            "log_loss": log_loss(label, np.exp(log_probability), **weighted),
            "roc_auc": np.mean([roc_auc_score(truth, score, **weighted) for score, truth in pairs]),
            "average_precision": np.mean(
                [average_precision_score(truth, score, **weighted) for score, truth in pairs]
            ),
            "f1": f1_score(label, predicted, **weighted, average=None),
            "expected_calibration_error": classification.expected_calibration_error(
                log_probability[drawn], label[drawn]
            ),
        }
        for name, value in expected.items():
            assert_allclose(values[name][number], value, err_msg=name)


def test_areas_are_undefined_if_a_class_is_not_drawn() -> None:
    log_probability, label = predictions(2, 4)
    weight = np.array([label == 0, label == 1, np.ones(4)], dtype=np.float64)
    values = resampled_metrics.metrics(log_probability, label)(weight)
    assert np.isnan(values["roc_auc"]).tolist() == [True, True, False]
    assert np.isnan(values["average_precision"])[[0, 2]].tolist() == [True, False]


def test_models_are_scored_on_the_same_resamples() -> None:
    log_probability, label = predictions(2)
    samples = resampled_metrics.samples({"one": log_probability, "other": log_probability}, label)
    assert samples["one"].keys() == classification.metrics(log_probability, label).keys() | {"f1"}
    for name, values in samples["one"].items():
        assert len(values) == bootstrap.RESAMPLES + len(label)
        assert_allclose(values, samples["other"][name], rtol=0)
        assert values[: bootstrap.RESAMPLES].std() > 0
