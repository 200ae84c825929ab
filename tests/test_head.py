"""Heads: dense layers as arrays, against scikit-learn, float64 and Keras."""

import itertools
import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.evaluation.probabilities import log_softmax
from pipeline.runtime.errors import UserError
from pipeline.training import head, loop


def some_head(sizes: tuple[int, ...]) -> head.Head:
    rng = np.random.default_rng(0)
    return head.Head(
        tuple(rng.normal(size=shape).astype(np.float32) for shape in itertools.pairwise(sizes)),
        tuple(rng.normal(size=size).astype(np.float32) for size in sizes[1:]),
    )


def some_features(n_classes: int) -> tuple[head.FloatArray, NDArray[np.int64]]:
    """Overlapping classes; columns of very different scales, the last one constant."""
    rng = np.random.default_rng(0)
    label = np.arange(120) % n_classes
    centres = 1.5 * rng.normal(size=(n_classes, 6))
    features = (centres[label] + rng.normal(size=(120, 6))) * 10.0 ** np.arange(-2, 4) + 3
    features[:, -1] = 0.1
    return features.astype(np.float32), label


def one_view(features: head.FloatArray) -> head.FloatArray:
    """A copy to fit on: (n, 1, d)."""
    return features[:, None].copy()


def test_logits_are_dense_layers_with_relu_between_them() -> None:
    kernels = (np.array([[1, -1], [0, 2]], np.float32), np.array([[1, 0], [1, 3]], np.float32))
    biases = (np.array([0, -1], np.float32), np.array([10, 20], np.float32))
    logits = head.Head(kernels, biases).logits(np.array([[1, 1], [-1, 0], [2, 0]]))
    # hidden values: (1, 0), (0, 0) since relu cuts -1, and (2, 0) since it cuts -3
    assert logits.dtype == np.float32
    assert_array_equal(logits, [[11, 20], [10, 20], [12, 20]])


def test_a_single_output_is_the_logit_of_class_1_and_its_softmax_the_sigmoid() -> None:
    single = some_head((7, 5, 1))
    features = np.random.default_rng(1).normal(size=(9, 7)).astype(np.float32)
    logits = single.logits(features)
    hidden = np.maximum(features @ single.kernels[0] + single.biases[0], 0)
    z = (hidden @ single.kernels[1] + single.biases[1]).astype(np.float64)
    assert logits.dtype == np.float32
    assert_array_equal(logits, np.concatenate([np.zeros((9, 1)), z], axis=1))
    sigmoid = 1 / (1 + np.exp(-z))
    probability = np.exp(log_softmax(logits))
    assert_allclose(probability, np.concatenate([1 - sigmoid, sigmoid], axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "count"), [((6, 2), 14), ((6, 1), 7), ((6, 5, 4, 3), 35 + 24 + 15)]
)
def test_parameters_are_all_kernels_and_biases(sizes: tuple[int, ...], count: int) -> None:
    assert some_head(sizes).parameters == count


def test_loss_is_the_mean_negative_log_likelihood_and_accuracy_a_fraction() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]]))
    loss, accuracy = head.loss_and_accuracy(logits, np.array([0, 2]))
    assert loss == pytest.approx((np.log(2) + np.log(8)) / 2, rel=1e-6)
    assert accuracy == 0.5


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_saved_head_comes_back_and_has_the_same_bytes_every_time(
    outputs: int, tmp_path: Path
) -> None:
    saved = some_head((7, 5, outputs))
    saved.save(tmp_path / "one.npz")
    saved.save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    loaded = head.load(tmp_path / "one.npz")
    for found, expected in zip(
        loaded.kernels + loaded.biases, saved.kernels + saved.biases, strict=True
    ):
        assert found.dtype == np.float32
        assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "content", [b"", b"no arrays", b"PK\3\4 cut short"], ids=["empty", "text", "cut short"]
)
def test_a_broken_file_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("head.npz").write_bytes(content)
    with pytest.raises(UserError) as told:
        head.load(Path("head.npz"))
    assert str(told.value) == (
        "head.npz: expected the arrays of a head, got File is not a zip file; run `dvc repro "
        "train_head` again"
    )


def test_other_arrays_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("head.npz", weights=np.zeros(3), more=np.zeros(3))
    with pytest.raises(
        UserError, match=r"^head\.npz: expected the arrays of a head, got .*kernel_0"
    ):
        head.load(Path("head.npz"))


def test_a_file_without_arrays_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("head.npz")
    with pytest.raises(
        UserError, match=r"^head\.npz: expected the arrays of a head, got .*kernel_0"
    ):
        head.load(Path("head.npz"))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_logistic_regression_is_that_of_a_pipeline_with_a_scaler(n_classes: int) -> None:
    features, label = some_features(n_classes)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500, tol=1e-6))
    expected = pipeline.fit(features.astype(np.float64), label).predict_log_proba(features)
    fitted, iterations, strength = head.fit_logistic(
        one_view(features),
        label,
        n_classes,
        inverse_regularization=0.1,
        max_iterations=500,
    )
    assert 1 <= iterations < 500
    assert strength == 0.1
    assert_allclose(log_softmax(fitted.logits(features)), expected, atol=2e-3)
    assert_array_equal(fitted.kernels[0][-1], np.zeros(n_classes))  # of the constant feature


@pytest.mark.parametrize("views", [2, 3])
def test_views_that_are_alike_count_as_one(views: int) -> None:
    features, label = some_features(3)
    settings = {"inverse_regularization": 0.1, "max_iterations": 500}
    expected = head.fit_logistic(one_view(features), label, 3, **settings).head  # type: ignore[arg-type]
    repeated = np.repeat(features[:, None], views, axis=1)
    fitted = head.fit_logistic(repeated, label, 3, **settings).head  # type: ignore[arg-type]
    spread = features.std(axis=0)[:, None]  # by which a kernel's row is as large as the others
    assert_allclose(fitted.kernels[0] * spread, expected.kernels[0] * spread, atol=2e-3)
    assert_allclose(fitted.logits(features), expected.logits(features), atol=5e-3)


def test_every_view_is_an_example_of_its_images_label() -> None:
    """Views of one array are what images of their own would be, each with half the weight."""
    features, label = some_features(3)
    fitted = head.fit_logistic(
        features.reshape(60, 2, 6).copy(),
        label.reshape(60, 2)[:, 0],
        3,
        inverse_regularization=0.2,
        max_iterations=500,
    ).head
    expected = head.fit_logistic(
        one_view(features),
        np.repeat(label.reshape(60, 2)[:, 0], 2),
        3,
        inverse_regularization=0.1,
        max_iterations=500,
    ).head
    assert_array_equal(fitted.kernels[0], expected.kernels[0])
    assert_array_equal(fitted.biases[0], expected.biases[0])


def test_a_constant_feature_makes_no_difference() -> None:
    features, label = some_features(3)
    wide = np.concatenate([np.full((len(features), 1), 1e-30, np.float32), features], axis=1)
    logits = []
    for columns in (features, wide):
        fitted = head.fit_logistic(
            one_view(columns), label, 3, inverse_regularization=1.0, max_iterations=500
        ).head
        logits.append(fitted.logits(columns))
    assert_allclose(logits[0], logits[1], atol=1e-4)


def test_a_fit_cut_short_says_so_by_its_iterations_and_without_a_warning() -> None:
    features, label = some_features(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, iterations, _ = head.fit_logistic(
            one_view(features), label, 2, inverse_regularization=1.0, max_iterations=2
        )
    assert iterations == 2


def few_examples(n_classes: int, views: int) -> tuple[head.FloatArray, NDArray[np.int64]]:
    """Overlapping classes of 90 images, standardised features (90, views, 20)."""
    rng = np.random.default_rng(0)
    label = np.arange(90) % n_classes
    centres = 0.2 * rng.normal(size=(n_classes, 20))
    images = centres[label] + rng.normal(size=(90, 20))
    features = images[:, None] + 0.3 * rng.normal(size=(90, views, 20))
    features = (features - features.mean(axis=(0, 1))) / features.std(axis=(0, 1))
    return features.astype(np.float32), label


def cross_validated(features: head.FloatArray, label: NDArray[np.int64]) -> head.Logistic:
    """The fit, on a copy, with a strength from cross-validation."""
    return head.fit_logistic(
        features.copy(), label, label.max() + 1, inverse_regularization=None, max_iterations=500
    )


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.slow
def test_cross_validation_picks_what_separate_fits_of_every_strength_and_fold_pick(
    n_classes: int, views: int
) -> None:
    features, label = few_examples(n_classes, views)
    fold = head.folds(label)
    losses = np.zeros(len(head.STRENGTHS))
    for (place, strength), number in itertools.product(
        enumerate(head.STRENGTHS), range(head.FOLDS)
    ):
        model = LogisticRegression(C=strength / views, max_iter=1000, tol=1e-7)
        train, held_out = fold != number, fold == number
        model.fit(features[train].reshape(-1, 20), np.repeat(label[train], views))
        probability = model.predict_log_proba(features[held_out].reshape(-1, 20))
        chosen = np.repeat(label[held_out], views)
        losses[place] -= probability[np.arange(len(chosen)), chosen].sum()
    best = int(losses.argmin())
    assert 0 < best < len(losses) - 1
    assert cross_validated(features, label).inverse_regularization == head.STRENGTHS[best]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_fit_with_the_chosen_strength_given_is_the_same_and_so_is_a_second_one(
    n_classes: int,
) -> None:
    features, label = few_examples(n_classes, 2)
    first, second = cross_validated(features, label), cross_validated(features, label)
    given = head.fit_logistic(
        features.copy(),
        label,
        n_classes,
        inverse_regularization=first.inverse_regularization,
        max_iterations=500,
    )
    for other in (second, given):
        assert other[1:] == first[1:]
        assert other.head.kernels[0].tobytes() == first.head.kernels[0].tobytes()
        assert other.head.biases[0].tobytes() == first.head.biases[0].tobytes()


def test_cross_validation_ends_when_two_strengths_in_a_row_are_worse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    class Recorded(LogisticRegression):  # type: ignore[misc]
        def fit(self, *args: Any, **kwargs: Any) -> "Recorded":
            tried.append(self.C)
            super().fit(*args, **kwargs)
            return self

    monkeypatch.setattr("sklearn.linear_model.LogisticRegression", Recorded)
    rng = np.random.default_rng(0)
    features, label = few_examples(2, 1)
    chosen = cross_validated(features, rng.permutation(label)).inverse_regularization
    walked = head.STRENGTHS[: head.STRENGTHS.index(chosen) + 3]
    assert len(walked) < len(head.STRENGTHS)
    assert tried == [*np.repeat(walked, head.FOLDS), chosen]


def test_folds_hold_out_every_image_once_and_equally_many_of_each_class() -> None:
    label = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [30, 7, 2, 1]))
    fold = head.folds(label)
    counts = [[np.sum(fold[label == index] == number) for number in range(3)] for index in range(4)]
    assert counts[0] == [10, 10, 10]
    assert sorted(counts[1]) == [2, 2, 3]
    assert sorted(counts[2]) == [0, 1, 1]  # never both
    assert_array_equal(fold[label == 3], [-1])  # the only one is in every training part
    assert_array_equal(fold, head.folds(label))


def test_folds_do_not_follow_the_order_of_images() -> None:
    fold = head.folds(np.zeros(300, np.int64))
    assert 60 < np.sum(fold[1:] == fold[:-1]) < 140  # of 299, 100 at random


def test_views_of_an_image_are_held_out_together() -> None:
    """Labels at random: nothing can be learnt but which image it is, which a view would tell."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(200, 1, 400)).astype(np.float32), 2, axis=1)
    label = rng.permutation(np.arange(200) % 2)
    assert cross_validated(features, label).inverse_regularization == head.STRENGTHS[0]
    apart = cross_validated(features.reshape(400, 1, 400), np.repeat(label, 2))
    assert apart.inverse_regularization >= 0.01


def test_a_class_of_a_single_image_is_fitted_too() -> None:
    features, label = few_examples(2, 1)
    features[0] = 0
    features[0, 0, 0] = 30
    label[0] = 2
    fitted = cross_validated(features, label)
    assert np.isfinite(fitted.head.kernels[0]).all()
    assert fitted.head.logits(features[:, 0])[:, 2].argmax() == 0


def test_classes_of_a_single_image_each_cannot_be_cross_validated() -> None:
    with pytest.raises(UserError) as told:
        cross_validated(np.eye(3, dtype=np.float32)[:, None], np.arange(3))
    assert str(told.value) == (
        "train_head.logistic.inverse_regularization: expected a number, since no class has two "
        "train images to cross-validate with, got null; set it"
    )


def test_a_batch_norm_is_folded_into_the_dense_layer_before_it() -> None:
    import keras

    rng = np.random.default_rng(0)
    dense = keras.layers.Dense(5)
    norm = keras.layers.BatchNormalization(epsilon=0.01)
    model = keras.Sequential([keras.Input((6,)), dense, norm, keras.layers.ReLU()])
    kernel, bias = rng.normal(size=(6, 5)), rng.normal(size=5)
    gamma, beta, mean = rng.normal(size=(3, 5))
    variance = rng.uniform(0.1, 2, size=5)
    dense.set_weights([kernel, bias])
    norm.set_weights([gamma, beta, mean, variance])
    folded = head.fold_batch_norm(kernel, bias, gamma, beta, mean, variance, norm.epsilon)
    assert [array.dtype for array in folded] == [np.float32, np.float32]
    features = rng.normal(size=(9, 6)).astype(np.float32)
    found = np.maximum(features @ folded[0] + folded[1], 0)
    assert_allclose(found, model.predict_on_batch(features), atol=1e-5)


@pytest.mark.parametrize("sizes", [(6, 2), (6, 1), (6, 5, 3), (6, 5, 1), (6, 5, 4, 3)])
def test_keras_and_arrays_give_the_same_logits(sizes: tuple[int, ...]) -> None:
    arrays = some_head(sizes)
    model = loop.head_model(arrays, input_dropout=0.5, dropout=0.5, seed=0)
    features = np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32)
    assert_allclose(model.predict_on_batch(features), arrays.logits(features), atol=1e-5)
    back = loop.head_arrays(model)
    for found, expected in zip(
        back.kernels + back.biases, arrays.kernels + arrays.biases, strict=True
    ):
        assert_array_equal(found, expected)
