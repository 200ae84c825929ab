"""Heads: dense layers as arrays, against scikit-learn, float64 and Keras."""

import itertools
import os
import re
import warnings
from pathlib import Path

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

from stages.errors import UserError
from stages.models import head, training


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


def test_log_softmax_is_that_of_float64() -> None:
    logits = np.random.default_rng(0).normal(scale=5, size=(50, 4)).astype(np.float32)
    wide = logits.astype(np.float64)
    expected = wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)
    found = head.log_softmax(logits)
    assert found.dtype == np.float32
    assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_log_softmax_of_huge_logits_is_exact() -> None:
    found = head.log_softmax(np.array([[1e4, -1e4], [-1e4, -1e4], [1e4, 1e4]], np.float32))
    half = np.float32(-np.log(2))
    assert_array_equal(found, [[0, -2e4], [half, half], [half, half]])


def test_one_view_has_its_own_log_probability() -> None:
    logits = np.random.default_rng(0).normal(scale=5, size=(20, 3)).astype(np.float32)
    assert_array_equal(head.mean_log_probability([logits]), head.log_softmax(logits))


@pytest.mark.parametrize("views", [2, 3, 10])
def test_several_views_give_the_logarithm_of_their_mean_probability(views: int) -> None:
    logits = np.random.default_rng(0).normal(scale=3, size=(views, 50, 4)).astype(np.float32)
    exponential = np.exp(logits.astype(np.float64))
    probability = exponential / exponential.sum(axis=2, keepdims=True)
    found = head.mean_log_probability(list(logits))
    assert found.dtype == np.float32
    assert_allclose(found, np.log(probability.mean(axis=0)), rtol=1e-5, atol=1e-6)
    assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)


def test_views_that_are_alike_change_nothing() -> None:
    logits = np.random.default_rng(0).normal(scale=5, size=(20, 3)).astype(np.float32)
    assert_allclose(
        head.mean_log_probability([logits] * 4), head.log_softmax(logits), rtol=1e-6, atol=1e-7
    )


def test_views_that_are_certain_of_different_classes_leave_numbers_behind() -> None:
    """Probabilities of e-10000 are zeros in any float; their logarithms are not."""
    certain = np.array([[1e4, 0, -1e4]], np.float32)
    found = head.mean_log_probability([certain, certain[:, ::-1], certain])
    assert_allclose(found, [[np.log(2 / 3), -1e4, np.log(1 / 3)]], rtol=1e-6)
    same = head.mean_log_probability([certain, certain])
    assert_allclose(same, [[0, -1e4, -2e4]], rtol=1e-6)
    huge = np.array([[1e38, -1e38]], np.float32)
    assert_allclose(head.mean_log_probability([huge, huge]), [[0, -2e38]])
    half = np.float32(-np.log(2))
    assert_allclose(head.mean_log_probability([huge, -huge]), [[half, half]])


def test_loss_is_the_mean_negative_log_likelihood_and_accuracy_a_fraction() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]]))
    loss, accuracy = head.loss_and_accuracy(logits, np.array([0, 2]))
    assert loss == pytest.approx((np.log(2) + np.log(8)) / 2, rel=1e-6)
    assert accuracy == 0.5


def test_a_saved_head_comes_back_and_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    saved = some_head((7, 5, 3))
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
    ("content", "words"),
    [
        (b"", "No data left in file"),
        (b"no arrays", ".*allow_pickle.*"),
        (b"PK\3\4 cut short", "File is not a zip file"),
    ],
    ids=["empty", "text", "cut short"],
)
def test_a_broken_file_is_refused(
    content: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("head.npz").write_bytes(content)
    with pytest.raises(UserError) as told:
        head.load(Path("head.npz"))
    assert re.fullmatch(
        f"head.npz: expected the arrays of a head, got {words}; run `dvc repro train_head` again",
        str(told.value),
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
    fitted, iterations = head.fit_logistic(
        one_view(features),
        label,
        n_classes,
        inverse_regularization=0.1,
        max_iterations=500,
    )
    assert 1 <= iterations < 500
    assert_allclose(head.log_softmax(fitted.logits(features)), expected, atol=2e-3)
    assert_array_equal(fitted.kernels[0][-1], np.zeros(n_classes))  # of the constant feature


@pytest.mark.parametrize("views", [2, 3])
def test_views_that_are_alike_count_as_one(views: int) -> None:
    features, label = some_features(3)
    settings = {"inverse_regularization": 0.1, "max_iterations": 500}
    expected, _ = head.fit_logistic(one_view(features), label, 3, **settings)  # type: ignore[arg-type]
    repeated = np.repeat(features[:, None], views, axis=1)
    fitted, _ = head.fit_logistic(repeated, label, 3, **settings)  # type: ignore[arg-type]
    spread = features.std(axis=0)[:, None]  # by which a kernel's row is as large as the others
    assert_allclose(fitted.kernels[0] * spread, expected.kernels[0] * spread, atol=2e-3)
    assert_allclose(fitted.logits(features), expected.logits(features), atol=5e-3)


def test_every_view_is_an_example_of_its_images_label() -> None:
    """Views of one array are what images of their own would be, each with half the weight."""
    features, label = some_features(3)
    fitted, _ = head.fit_logistic(
        features.reshape(60, 2, 6).copy(),
        label.reshape(60, 2)[:, 0],
        3,
        inverse_regularization=0.2,
        max_iterations=500,
    )
    expected, _ = head.fit_logistic(
        one_view(features),
        np.repeat(label.reshape(60, 2)[:, 0], 2),
        3,
        inverse_regularization=0.1,
        max_iterations=500,
    )
    assert_array_equal(fitted.kernels[0], expected.kernels[0])
    assert_array_equal(fitted.biases[0], expected.biases[0])


def test_a_constant_feature_makes_no_difference() -> None:
    features, label = some_features(3)
    wide = np.concatenate([np.full((len(features), 1), 1e-30, np.float32), features], axis=1)
    logits = []
    for columns in (features, wide):
        fitted, _ = head.fit_logistic(
            one_view(columns), label, 3, inverse_regularization=1.0, max_iterations=500
        )
        logits.append(fitted.logits(columns))
    assert_allclose(logits[0], logits[1], atol=1e-4)


def test_a_fit_cut_short_says_so_by_its_iterations_and_without_a_warning() -> None:
    features, label = some_features(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, iterations = head.fit_logistic(
            one_view(features), label, 2, inverse_regularization=1.0, max_iterations=2
        )
    assert iterations == 2


@pytest.mark.parametrize("sizes", [(6, 2), (6, 5, 3), (6, 5, 4, 3)])
def test_keras_and_arrays_give_the_same_logits(sizes: tuple[int, ...]) -> None:
    arrays = some_head(sizes)
    model = training.head_model(arrays, dropout=0.5)
    features = np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32)
    assert_allclose(model.predict_on_batch(features), arrays.logits(features), atol=1e-5)
    back = training.head_arrays(model)
    for found, expected in zip(
        back.kernels + back.biases, arrays.kernels + arrays.biases, strict=True
    ):
        assert_array_equal(found, expected)
