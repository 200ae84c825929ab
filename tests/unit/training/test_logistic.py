"""Logistic regressions, against scikit-learn's pipelines and cross-validation by hand."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.evaluation.probabilities import log_softmax
from pipeline.runtime.errors import UserError
from pipeline.training import logistic
from pipeline.training.head import FloatArray, Head


def some_features(n_classes: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Overlapping classes; columns of very different scales, the last one constant."""
    rng = np.random.default_rng(0)
    label = np.arange(120) % n_classes
    centres = 1.5 * rng.normal(size=(n_classes, 6))
    features = (centres[label] + rng.normal(size=(120, 6))) * 10.0 ** np.arange(-2, 4) + 3
    features[:, -1] = 0.1
    return features.astype(np.float32), label


def fit(features: FloatArray, label: NDArray[np.int64], strength: float) -> Head:
    """Fit on a copy of features (n, d) or (n, views, d)."""
    features = features.reshape(len(label), -1, features.shape[-1]).copy()
    n_classes = int(label.max()) + 1
    return logistic.fit(
        features, label, n_classes, inverse_regularization=strength, max_iterations=500
    ).head


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_logistic_regression_is_that_of_a_pipeline_with_a_scaler(n_classes: int) -> None:
    features, label = some_features(n_classes)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500, tol=1e-6))
    expected = pipeline.fit(features.astype(np.float64), label).predict_log_proba(features)
    fitted = fit(features, label, 0.1)
    assert_allclose(log_softmax(fitted.logits(features)), expected, atol=2e-3)
    assert_array_equal(fitted.kernels[0][-1], np.zeros(n_classes))  # of the constant feature


def test_every_view_is_an_example_of_its_images_label() -> None:
    """Two views are like two images with half the weight each."""
    features, label = some_features(3)
    of_images = label.reshape(60, 2)[:, 0]
    fitted = fit(features.reshape(60, 2, 6), of_images, 0.2)
    expected = fit(features, np.repeat(of_images, 2), 0.1)
    assert_array_equal(fitted.kernels[0], expected.kernels[0])
    assert_array_equal(fitted.biases[0], expected.biases[0])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_features_in_parts_give_the_same_bytes_and_are_read_once_for_each_gradient(
    n_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic, "BLOCK", 16)
    features, label = few_examples(n_classes, 3)
    gradient = logistic._Problem.loss_and_gradient
    counts = {"reads": 0, "gradients": 0}

    def parts() -> Iterator[FloatArray]:
        counts["reads"] += 1
        size = logistic.images_in_a_block(3)
        return (features[at : at + size] for at in range(0, len(features), size))

    def counted(self: Any, weights: Any) -> Any:
        counts["gradients"] += 1
        return gradient(self, weights)

    expected = cross_validated(features, label)
    monkeypatch.setattr(logistic._Problem, "loss_and_gradient", counted)
    streamed = logistic.fit(
        parts, label, n_classes, inverse_regularization=None, max_iterations=500
    )
    assert_array_equal(streamed.head.kernels[0], expected.head.kernels[0])
    assert_array_equal(streamed.head.biases[0], expected.head.biases[0])
    assert streamed[1:] == expected[1:]
    assert counts["reads"] == counts["gradients"] + 2  # two for mean and variance


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_optimum_is_the_same_in_other_coordinates(
    n_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic, "TOLERANCE", 1e-7)
    features, label = few_examples(n_classes, 1)
    expected = fit(features, label, 0.1)
    monkeypatch.setattr(logistic, "MOST_FEATURES", 19)
    found = fit(features, label, 0.1)
    assert_allclose(found.kernels[0], expected.kernels[0], atol=1e-5)


def test_a_fit_cut_short_reports_its_iterations_without_a_warning() -> None:
    features, label = some_features(2)
    with warnings.catch_warnings(action="error"):
        short = logistic.fit(
            features[:, None], label, 2, inverse_regularization=1.0, max_iterations=2
        )
    assert short.iterations == 2


def few_examples(n_classes: int, views: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Overlapping classes of 90 images, standardised features (90, views, 20)."""
    rng = np.random.default_rng(0)
    label = np.arange(90) % n_classes
    centres = 0.2 * rng.normal(size=(n_classes, 20))
    images = centres[label] + rng.normal(size=(90, 20))
    features = images[:, None] + 0.3 * rng.normal(size=(90, views, 20))
    features = (features - features.mean(axis=(0, 1))) / features.std(axis=(0, 1))
    return features.astype(np.float32), label


def cross_validated(features: FloatArray, label: NDArray[np.int64]) -> logistic.Logistic:
    """Fit on a copy, with a strength from cross-validation."""
    return logistic.fit(
        features.copy(), label, label.max() + 1, inverse_regularization=None, max_iterations=500
    )


@pytest.mark.parametrize(("n_classes", "views"), [(2, 1), (3, 3)])
@pytest.mark.slow
def test_cross_validation_picks_what_separate_fits_of_every_strength_and_fold_pick(
    n_classes: int, views: int
) -> None:
    features, label = few_examples(n_classes, views)
    fold = logistic.folds(label)
    losses = np.zeros(len(logistic.STRENGTHS))
    for place, number in np.ndindex(len(losses), logistic.FOLDS):
        strength = logistic.STRENGTHS[place] / views
        model = LogisticRegression(C=strength, max_iter=1000, tol=1e-7)
        train, held_out = fold != number, fold == number
        model.fit(features[train].reshape(-1, 20), np.repeat(label[train], views))
        probability = model.predict_log_proba(features[held_out].reshape(-1, 20))
        chosen = np.repeat(label[held_out], views)
        losses[place] -= probability[np.arange(len(chosen)), chosen].sum()
    best = int(losses.argmin())
    assert 0 < best < len(losses) - 1
    assert cross_validated(features, label).inverse_regularization == logistic.STRENGTHS[best]


def test_folds_hold_out_every_image_once_and_equally_many_of_each_class() -> None:
    label = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [300, 7, 2, 1]))
    fold = logistic.folds(label)
    counts = [sorted(np.bincount(fold[label == index], minlength=3)) for index in range(3)]
    assert counts == [[100, 100, 100], [2, 2, 3], [0, 1, 1]]
    assert_array_equal(fold[label == 3], [-1])  # the only one is in every training part
    assert_array_equal(fold, logistic.folds(label))
    of_one_class = fold[label == 0]
    assert 60 < np.sum(of_one_class[1:] == of_one_class[:-1]) < 140  # not in turn


def test_views_of_an_image_are_held_out_together() -> None:
    """Labels at random: nothing can be learnt but which image it is, which a view would tell."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(200, 1, 400)).astype(np.float32), 2, axis=1)
    label = rng.permutation(np.arange(200) % 2)
    assert cross_validated(features, label).inverse_regularization == logistic.STRENGTHS[0]


def test_classes_of_a_single_image_each_cannot_be_cross_validated() -> None:
    with pytest.raises(UserError, match=r"^train_head.inverse_regularization: .* got null; set it"):
        cross_validated(np.eye(3, dtype=np.float32)[:, None], np.arange(3))
