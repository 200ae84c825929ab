"""How `train_head` uses the views of an image: to learn, and to predict."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from album import AUGMENT, DENSE, FEATURES, LEDGER, LOGISTIC, Album
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from pipeline import paths
from pipeline.backbones import keras_setup
from pipeline.evaluation.probabilities import log_softmax, mean_log_probability
from pipeline.storage import arrays, ledger
from pipeline.training import head, logistic, loop
from pipeline.training.history import Epoch

VIEWS = 3


@pytest.fixture
def album(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Album:
    """A ledger of 42 images; Keras runs in this process already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras_setup, "start", lambda **settings: None)
    monkeypatch.setattr(
        "threadpoolctl.threadpool_limits", lambda *_, **__: contextlib.nullcontext()
    )
    album = Album(monkeypatch, capsys, each=20)
    album.change({"extract": {"views": VIEWS, "augment": AUGMENT}, "train_head": LOGISTIC})
    album.split()
    return album


def labels_of_ledger() -> ledger.Labels:
    return ledger.labels(ledger.read_ledger(LEDGER))


def write_features(values: NDArray[Any], path: Path = FEATURES) -> None:
    fingerprint = ledger.fingerprint(ledger.read_ledger(LEDGER))
    path.parent.mkdir(exist_ok=True)
    arrays.write(path, [values], shape=values.shape, dtype=values.dtype, fingerprint=fingerprint)


def some_features(width: int = 5) -> NDArray[np.float32]:
    """Draw features that tell the classes apart."""
    noise = np.random.default_rng(0).normal(size=(42, VIEWS, width))
    return (noise + labels_of_ledger().label[:, None, None]).astype(np.float32)


def predictions() -> NDArray[np.float32]:
    values: NDArray[np.float32] = arrays.StoredArray(paths.predictions(paths.HEAD)).read(0, 42)
    return values


@pytest.mark.parametrize("count", [1, 3])
def test_a_heads_predictions_are_averaged_over_predict_views(count: int, album: Album) -> None:
    labels, features = labels_of_ledger(), some_features()
    write_features(features)
    album.change({"predict": {"views": count}})
    album.run("train_head")
    train, valid = labels.rows("train"), labels.rows("valid")
    given: Any = {
        "inverse_regularization": LOGISTIC["inverse_regularization"],
        "max_iterations": 500,
    }
    expected = logistic.fit(features[train], labels.label[train], 2, **given).head
    fitted = head.load(paths.head_file())
    assert_allclose(fitted.kernels[0], expected.kernels[0], rtol=1e-5, atol=1e-7)
    logits = [fitted.logits(features[:, view]) for view in range(count)]
    log_probability = mean_log_probability(logits)
    assert_allclose(predictions(), log_probability, rtol=1e-6, atol=1e-7)
    best = json.loads(paths.HEAD_METRICS.read_text(encoding="utf-8"))["best"]
    measured = head.loss_and_accuracy(log_probability[valid], labels.label[valid])
    assert_allclose([best["val_loss"], best["val_accuracy"]], measured, atol=1e-5)


def test_a_dense_head_learns_from_another_view_of_each_image_in_every_epoch(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = labels_of_ledger()
    features = np.moveaxis(np.mgrid[:42, :VIEWS], 0, 2).astype(np.float32)  # (image, view)
    write_features(features)
    epochs: list[NDArray[np.float32]] = []  # (train, 2) each

    def fit(learning: loop.Learning, **others: object) -> tuple[list[Epoch], str]:
        for _ in range(20):
            inputs, label = zip(*learning.draw(), strict=True)
            epochs.append(np.concatenate(inputs))
            expected = labels.label[epochs[-1][:, 0].astype(int)]
            assert_array_equal(np.concatenate(label), expected)
        valid, weights = labels.rows("valid"), loop.head_arrays(learning.model)
        logits = [weights.logits(features[valid, view]) for view in range(2)]
        found = np.concatenate([*learning.predict(valid)])
        assert_allclose(found, mean_log_probability(logits), atol=1e-4)
        return [Epoch(1, 1.0, 0.5, 1.0, 0.5)], ""

    monkeypatch.setattr(loop, "fit", fit)
    album.change({"train_head": DENSE, "predict": {"views": 2}})
    album.run("train_head")
    train = labels.rows("train").tolist()
    for epoch in epochs:
        assert sorted(epoch[:, 0].tolist()) == train
    drawn = {(int(image), int(view)) for image, view in np.concatenate(epochs)}
    assert drawn == {(image, view) for image in train for view in range(VIEWS)}
    assert len({tuple(epoch[epoch[:, 0].argsort()][:, 1]) for epoch in epochs}) == 20


def test_a_head_takes_the_features_of_all_backbones_side_by_side(album: Album) -> None:
    features = some_features(7)
    write_features(np.ascontiguousarray(features[..., :5]))
    write_features(np.ascontiguousarray(features[..., 5:]), paths.features("MobileNet"))
    album.change({"backbones.MobileNet": album.params["backbones"]["convnet"]})
    album.run("train_head")
    fitted = head.load(paths.head_file())
    expected = log_softmax(fitted.logits(features[:, 0]))
    assert_allclose(predictions(), expected, rtol=1e-5, atol=1e-6)


def test_a_logistic_head_streams_what_exceeds_the_budget_with_the_same_bytes(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_features(some_features())
    album.change({"train_head.inverse_regularization": None})
    runs, inside = [], []
    fit = logistic.fit

    def watched(features: Any, *arguments: Any, **options: Any) -> logistic.Logistic:
        inside.append(isinstance(features, np.ndarray))
        return fit(features, *arguments, **options)

    monkeypatch.setattr(logistic, "fit", watched)
    for budget in ("1", "0"):
        monkeypatch.setenv("STAGES_MEMORY_GIB", budget)
        album.run("train_head")
        files = [path for path in Path("data/head").rglob("*") if path.is_file()]
        runs.append({path: path.read_bytes() for path in files})
    assert inside == [True, False]
    assert runs[0] == runs[1]


def test_a_sigmoid_for_three_classes_is_refused(album: Album) -> None:
    write_features(some_features())
    third = [
        replace(row, label="owl", index=2) if row.label == "dog" and number % 2 else row
        for number, row in enumerate(ledger.read_ledger(LEDGER))
    ]
    ledger.write_ledger(LEDGER, third)
    album.change({"train_head": {**DENSE, "output": "sigmoid"}})
    expected = "params.yaml: train_head.output: expected softmax, as there are 3 classes"
    assert expected in album.fails("train_head")


def write_groups(members: int) -> None:
    """Make so many images of each class, from the first on, copies of each other."""
    rows, seen = [], dict[str, int]()
    for row in ledger.read_ledger(LEDGER):
        seen[row.label] = seen.get(row.label, 0) + 1
        if row.label and seen[row.label] <= members:
            row = replace(row, group=f"copies of {row.label}")
        rows.append(row)
    ledger.write_ledger(LEDGER, rows)


def test_with_folds_each_image_is_predicted_by_the_head_that_has_not_seen_it_or_its_copies(
    album: Album,
) -> None:
    write_groups(5)
    labels, features = labels_of_ledger(), some_features()
    write_features(features)
    album.change({"train_head.folds": 4, "fine_tune": None, "predict": {"views": 2}})
    album.run("train_head")
    given: Any = {"inverse_regularization": 1.0, "max_iterations": 500}
    given["inverse_regularization"] = LOGISTIC["inverse_regularization"]
    group = ledger.read_ledger(LEDGER).accepted().texts("group")
    dealt = np.flatnonzero((labels.subset == "train") | (labels.subset == "valid"))
    fold = ledger.dealt(labels.label[dealt], group[dealt], 4)
    for name in set(group[dealt].tolist()):
        assert len(set(fold[group[dealt] == name])) == 1
    assert np.bincount(fold).max() - np.bincount(fold).min() <= 6
    kernels, found = [], predictions()
    for number in range(4):
        seen, unseen = dealt[fold != number], dealt[fold == number]
        one = logistic.fit(features[seen], labels.label[seen], 2, **given).head
        kernels.append(one.kernels[0])
        logits = [one.logits(features[unseen, view]) for view in range(2)]
        assert_allclose(found[unseen], mean_log_probability(logits), rtol=1e-4, atol=1e-6)
    fitted = head.load(paths.head_file())
    assert_allclose(fitted.kernels[0], np.mean(kernels, axis=0), rtol=1e-4, atol=1e-6)
    others = np.setdiff1d(np.arange(42), dealt)
    assert set(labels.subset[others].tolist()) == {"test", "unlabelled"}
    logits = [fitted.logits(features[others, view]) for view in range(2)]
    assert_allclose(found[others], mean_log_probability(logits), rtol=1e-5, atol=1e-6)
    assert json.loads(paths.HEAD_METRICS.read_text(encoding="utf-8"))["folds"] == 4


def test_dense_heads_of_folds_differ_in_seed_and_choose_their_epochs_by_their_own_fold(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_features(some_features())
    seeds, chosen_on = [], list[set[int]]()
    fit = loop.fit

    def watched(learning: loop.Learning, **others: Any) -> Any:
        seeds.append(learning.settings.seed)
        chosen_on.append(set(learning.labels.rows("valid").tolist()))
        return fit(learning, **others)

    monkeypatch.setattr(loop, "fit", watched)
    album.change({"train_head": {**DENSE, "epochs": 2, "folds": 3, "seed": 5}, "fine_tune": None})
    album.run("train_head")
    labels = labels_of_ledger()
    assert seeds == [5, 6, 7]
    assert sum(map(len, chosen_on)) == len(set.union(*chosen_on))
    assert set.union(*chosen_on) == {*labels.rows("train"), *labels.rows("valid")}
    assert head.load(paths.head_file()).biases[0].shape == (3 * 16,)
    assert np.isfinite(predictions()).all()


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (
            0,
            "params.yaml: train_head.folds: expected at most 34, the number of distinct images "
            "to train on, got 99; lower it",
        ),
        (
            20,
            "params.yaml: train_head.folds: expected two distinct images of every class to train "
            "on, got fewer of 'cat'; add images of it",
        ),
    ],
)
def test_folds_without_enough_images_are_refused(members: int, expected: str, album: Album) -> None:
    write_groups(members)
    write_features(some_features())
    album.change({"train_head.folds": 2 if members else 99, "fine_tune": None})
    assert expected in album.fails("train_head")
