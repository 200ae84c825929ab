"""How `train_head` and `fine_tune` use the views of an image: to learn, and to predict."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
import types
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from album import FEATURES, LEDGER, RESIZED, WEIGHTS, Album
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones import build, keras_setup, views
from pipeline.evaluation.probabilities import mean_log_probability
from pipeline.storage import arrays, ledger
from pipeline.training import head, loop, network_split
from pipeline.training.history import Epoch

HEAD, MODEL = Path("data/head"), Path("data/model")
VIEWS = 3


@pytest.fixture
def album(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Album:
    """A ledger of 42 pictures; Keras runs in this process already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras_setup, "start", lambda **settings: None)
    monkeypatch.setattr(keras_setup, "limit_blas", lambda threads: None)
    album = Album(monkeypatch, capsys, each=20)
    album.change({"extract": {"views": VIEWS}})
    album.split()
    return album


def write_features(values: NDArray[Any]) -> None:
    fingerprint = ledger.fingerprint(ledger.read_ledger(LEDGER))
    FEATURES.parent.mkdir(exist_ok=True)
    arrays.write(
        FEATURES, [values], shape=values.shape, dtype=values.dtype, fingerprint=fingerprint
    )


def train_head(album: Album) -> None:
    words = (LEDGER, FEATURES, FEATURES, HEAD, "metrics/head.json", "metrics/head.csv")
    album.run("train_head", *words)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_heads_predictions_are_averaged_over_predict_views(
    count: int, dtype: str, album: Album
) -> None:
    labels = ledger.labels(ledger.read_ledger(LEDGER))
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(42, VIEWS, 5)) + labels.label[:, None, None]).astype(dtype)
    write_features(features)
    album.change({"train_head": {"kind": "logistic"}, "predict": {"views": count}})
    train_head(album)
    train = labels.rows("train")
    expected = head.fit_logistic(
        features[train].astype(np.float32),
        labels.label[train],
        2,
        inverse_regularization=album.params["train_head"]["logistic"]["inverse_regularization"],
        max_iterations=500,
    ).head
    fitted = head.load(HEAD / "head.npz")
    assert_allclose(fitted.kernels[0], expected.kernels[0], rtol=1e-5, atol=1e-7)
    log_probability = mean_log_probability(
        [fitted.logits(features[:, view]) for view in range(count)]
    )
    found = arrays.Rows(HEAD / "predictions.zarr").read(0, 42)
    assert found.dtype == np.float32
    assert_allclose(found, log_probability, rtol=1e-6, atol=1e-7)
    best = json.loads(Path("metrics/head.json").read_text(encoding="utf-8"))["best"]
    valid = labels.rows("valid")
    loss, accuracy = head.loss_and_accuracy(log_probability[valid], labels.label[valid])
    assert best["val_loss"] == pytest.approx(loss, abs=1e-5)
    assert best["val_accuracy"] == pytest.approx(accuracy, abs=1e-5)


def test_a_dense_head_learns_from_one_view_of_each_image_an_epoch(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = ledger.labels(ledger.read_ledger(LEDGER))
    features = np.zeros((42, VIEWS, 2), np.float32)
    features[..., 0] = np.arange(42)[:, None]  # which image
    features[..., 1] = np.arange(VIEWS)  # which of its views
    write_features(features)
    epochs: list[NDArray[np.float32]] = []  # (train, 2) of each

    def fit(
        model: Any,
        schedule: object,
        draw: Callable[[], Iterable[loop.Batch]],
        validate: Callable[[], loop.Batch],
        **others: object,
    ) -> loop.Trained:
        for _ in range(20):
            batches = list(draw())
            epochs.append(np.concatenate([inputs for inputs, _ in batches]))
            label = np.concatenate([label for _, label in batches])
            assert_array_equal(label, labels.label[epochs[-1][:, 0].astype(int)])
        log_probability, label = validate()
        weights = loop.head_arrays(model)
        valid = labels.rows("valid")
        expected = [weights.logits(features[valid, view]) for view in range(2)]
        assert_allclose(log_probability, mean_log_probability(expected), atol=1e-4)
        assert_array_equal(label, labels.label[valid])
        return loop.Trained([Epoch(1, 1.0, 0.5, 1.0, 0.5)])

    monkeypatch.setattr(loop, "fit", fit)
    album.change({"train_head": {"kind": "dense"}, "predict": {"views": 2}})
    train_head(album)
    train = labels.rows("train").tolist()
    for epoch in epochs:
        assert sorted(epoch[:, 0].tolist()) == train
    drawn = {(int(image), int(view)) for image, view in np.concatenate(epochs)}
    assert drawn == {(image, view) for image in train for view in range(VIEWS)}
    # Whatever the order: an image has another view in another epoch.
    sequences = {tuple(epoch[epoch[:, 0].argsort()][:, 1]) for epoch in epochs}
    assert len(sequences) == 20


def test_a_tuned_models_predictions_are_averaged_over_predict_views(album: Album) -> None:
    album.change(
        {
            "train_head": {"kind": "logistic"},
            "predict": {"views": VIEWS},
            "fine_tune": {"epochs": 1, "unfreeze_from": "conv4"},
        }
    )
    album.resize()
    WEIGHTS.parent.mkdir()
    build.network("convnet", None, False, None).save_weights(WEIGHTS)
    album.extract()
    train_head(album)
    album.run(
        *("fine_tune", LEDGER, RESIZED, WEIGHTS, WEIGHTS, HEAD, MODEL),
        *("metrics/fine_tune.json", "metrics/fine_tune.csv"),
    )
    extractor = build.extractor(
        build.network("convnet", 48, False, None), "convnet", None, "flatten"
    )
    classifier = loop.head_model(
        head.load(HEAD / "head.npz"), input_dropout=0.5, dropout=0.0, seed=0
    )
    model = network_split.whole([extractor], classifier, (48, 48, 3))
    model.load_weights(MODEL / "model.weights.h5")
    pixels = arrays.Rows(RESIZED)
    keys = [digest.tobytes() for digest in pixels.digests]
    ranges = dict(album.params["extract"]["augment"])
    seed = ranges.pop("seed")
    logits = [
        np.asarray(model(views.make(pixels.read(0, 42), keys, view, views.Ranges(**ranges), seed)))
        for view in range(VIEWS)
    ]
    found = arrays.Rows(MODEL / "predictions.zarr").read(0, 42)
    assert_allclose(found, mean_log_probability(logits), rtol=1e-4, atol=1e-5)
    assert np.abs(found - mean_log_probability(logits[:1])).max() > 1e-3


def test_a_head_takes_the_features_of_two_backbones_side_by_side(album: Album) -> None:
    labels = ledger.labels(ledger.read_ledger(LEDGER))
    rng = np.random.default_rng(0)
    both = rng.normal(size=(42, VIEWS, 7)).astype(np.float32) + labels.label[:, None, None]
    other = Path("data/features/MobileNet.zarr")
    fingerprint = ledger.fingerprint(ledger.read_ledger(LEDGER))
    write_features(both[..., :5])
    values = np.ascontiguousarray(both[..., 5:])
    arrays.write(other, [values], shape=values.shape, dtype="float32", fingerprint=fingerprint)
    album.change(
        {
            "extract": {"backbones": ["convnet", "MobileNet"]},
            "fetch_weights": {"MobileNet": album.params["fetch_weights"]["convnet"]},
            "train_head": {"backbones": ["convnet", "MobileNet"], "kind": "logistic"},
            "fine_tune": {"epochs": 0},
        }
    )
    outs = (HEAD, "metrics/head.json", "metrics/head.csv")
    album.run("train_head", LEDGER, FEATURES, other, *outs)
    fitted = head.load(HEAD / "head.npz")
    assert fitted.kernels[0].shape == (7, 2)
    found = arrays.Rows(HEAD / "predictions.zarr").read(0, 42)
    expected = mean_log_probability([fitted.logits(both[:, view]) for view in range(1)])
    assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert album.fails("train_head", LEDGER, FEATURES, FEATURES, *outs) == (
        "error: train_head: expected a path for each of train_head.backbones (convnet, "
        f"MobileNet), got {FEATURES}; name them in that order\n"
    )


def test_more_features_than_the_memory_holds_are_refused_for_a_logistic_head(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_features(np.random.default_rng(0).normal(size=(42, VIEWS, 5)).astype(np.float32))
    album.change({"train_head": {"kind": "logistic"}})
    images = len(ledger.labels(ledger.read_ledger(LEDGER)).rows("train"))
    needed = 4 * images * VIEWS * 5
    free = types.SimpleNamespace(available=2 * needed)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    train_head(album)
    free.available = needed
    words = (LEDGER, FEATURES, FEATURES, HEAD, "metrics/head.json", "metrics/head.csv")
    amount = f"{needed / 2**30:.3g} GiB"
    assert album.fails("train_head", *words) == (
        f"error: train_head: expected features that fit into the {amount} of memory that are free, "
        f"got {amount}, 15 numbers for each of {images} train images; set train_head.kind: dense, "
        "which streams them, or take fewer (extract.pooling: avg, fewer extract.views)\n"
    )


def test_a_sigmoid_for_three_classes_is_refused(album: Album) -> None:
    rng = np.random.default_rng(0)
    write_features(rng.normal(size=(42, VIEWS, 5)).astype(np.float32))
    third = [
        replace(row, label="owl", index=2) if row.label == "dog" and number % 2 else row
        for number, row in enumerate(ledger.read_ledger(LEDGER))
    ]
    ledger.write_ledger(LEDGER, third)
    dense = {**album.params["train_head"]["dense"], "output": "sigmoid"}
    album.change({"train_head": {"kind": "dense", "dense": dense}})
    words = (LEDGER, FEATURES, FEATURES, HEAD, "metrics/head.json", "metrics/head.csv")
    assert album.fails("train_head", *words) == (
        "error: params.yaml: train_head.dense.output: expected softmax, as there are 3 classes, "
        "got 'sigmoid'; change it\n"
    )
    assert not HEAD.exists()
