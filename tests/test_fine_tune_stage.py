"""Fine-tuning goes on from the head, changes only what it may, and survives what interrupts it."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # as `engine.start` would

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from album import FEATURES, LEDGER, RESIZED, WEIGHTS, Album, contents
from numpy.testing import assert_allclose

from pipeline.backbones import build, keras_setup
from pipeline.runtime import atomic_files
from pipeline.storage import arrays, ledger
from pipeline.training import head, history, loop, network_split
from stages import fine_tune

HEAD, MODEL = Path("data/head"), Path("data/model")
FIGURES, HISTORY = Path("metrics/fine_tune.json"), Path("metrics/fine_tune.csv")
STILL = {"rotation": 0, "shift": 0, "shear": 0, "zoom": 0, "flip": False, "brightness": 0}
MOVED = {"rotation": 10, "shift": 0.1, "shear": 0.1, "zoom": 0.1, "flip": True, "brightness": 0.1}
SETTINGS: dict[str, Any] = {
    "train_head": {"kind": "logistic"},
    "fine_tune": {
        "unfreeze_from": "conv3",
        "cache_frozen": False,
        "epochs": 3,
        "batch_size": 4,
        "learning_rate": 0.001,
        "input_dropout": 0,
        "patience": None,
        "augment": STILL,
    },
}


@pytest.fixture
def album(album: Album, monkeypatch: pytest.MonkeyPatch) -> Album:
    """18 pictures, features and a head."""
    monkeypatch.setattr(keras_setup, "limit_blas", lambda threads: None)
    album.change(SETTINGS)
    album.split()
    album.resize()
    album.fetch_weights()
    album.extract()
    train_head(album)
    return album


def train_head(album: Album) -> str:
    words = (LEDGER, FEATURES, FEATURES, HEAD, "metrics/head.json", "metrics/head.csv")
    return album.run("train_head", *words)


def command(out: Path = MODEL) -> tuple[object, ...]:
    return LEDGER, RESIZED, WEIGHTS, WEIGHTS, HEAD, out, FIGURES, HISTORY


def tune(album: Album, out: Path = MODEL, **changes: Any) -> str:
    album.change({"fine_tune": changes})
    return album.run("fine_tune", *command(out))


def losses() -> tuple[list[float], list[float]]:
    """Of all epochs, on train and on valid."""
    found = ledger.read_numbers(HISTORY, "fine_tune")
    return found["loss"], found["val_loss"]


def figures() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return content


def test_the_loss_before_the_first_step_is_the_heads(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    fit = loop.fit

    def before(
        model: Any, schedule: Any, draw: Any, validate: Any, *words: Any, **named: Any
    ) -> Any:
        log_probability, label = validate()
        seen.append(-log_probability[np.arange(len(label)), label].mean())
        return fit(model, schedule, draw, validate, *words, **named)

    monkeypatch.setattr(loop, "fit", before)
    for cached in (False, True):
        tune(album, cache_frozen=cached)
    assert len(seen) == 2
    assert_allclose(seen, losses()[1][0], atol=1e-4)


def moved() -> set[str]:
    """The convolutions whose weights in the tuned model are not those that it started from."""
    before = build.network("convnet", 48, False, WEIGHTS)
    extractor = build.extractor(
        build.network("convnet", 48, False, None), "convnet", None, "flatten"
    )
    classifier = loop.head_model(
        head.load(HEAD / "head.npz"), input_dropout=0.0, dropout=0.0, seed=0
    )
    model = network_split.whole([extractor], classifier, (48, 48, 3))
    model.load_weights(MODEL / "model.weights.h5")
    after = extractor.get_layer("trunk").model
    names = [layer.name for layer in before.layers if layer.weights]
    assert names == ["conv1", "conv2", "conv3", "conv4"]
    return {
        name
        for name in names
        if not all(
            map(
                np.array_equal,
                before.get_layer(name).get_weights(),
                after.get_layer(name).get_weights(),
            )
        )
    }


@pytest.fixture
def bad_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a trained epoch is the best one, though these pictures teach nothing."""
    start = history.Epoch(0, 9.0, 0.0, 9.0, 0.0)
    monkeypatch.setattr(fine_tune, "_before_the_first_step", lambda *_: start)


def test_frozen_layers_stay_as_they_were_bit_for_bit_and_the_others_move(
    bad_start: None, album: Album
) -> None:
    tune(album)
    assert figures()["taken"] == "fine_tuned"
    assert moved() == {"conv3", "conv4"}


def test_from_cached_activations_the_losses_are_those_of_training_end_to_end(
    album: Album,
) -> None:
    album.change({"extract": {"views": 1}})
    album.extract()
    train_head(album)
    tune(album)
    end_to_end = losses()
    predicted = arrays.Rows(MODEL / "predictions.zarr").read(0, 18)
    tune(album, cache_frozen=True)
    assert len(end_to_end[0]) == 4
    assert end_to_end[0][3] < end_to_end[0][1]
    assert_allclose(losses(), end_to_end, atol=2e-5)
    assert_allclose(arrays.Rows(MODEL / "predictions.zarr").read(0, 18), predicted, atol=1e-3)


def test_activations_are_computed_once_a_view_and_kept_for_the_next_run(album: Album) -> None:
    """The second view does not predict, so it is needed of the training images alone."""
    tune(album, cache_frozen=True)
    train = len(ledger.labels(ledger.read_ledger(LEDGER)).rows("train"))
    root = Path("data/.activations")
    (folder,) = root.iterdir()
    views = [folder / "0.zarr", folder / "1.zarr"]
    assert [arrays.Rows(path).shape for path in views] == [
        (18, 10 * 10 * 64),
        (train, 10 * 10 * 64),
    ]
    made = [(path / "zarr.json").stat().st_mtime_ns for path in views]
    assert "takes up to" not in tune(album, learning_rate=0.002)
    assert [(path / "zarr.json").stat().st_mtime_ns for path in views] == made
    album.change({"predict": {"views": 2}})
    assert "takes up to" in tune(album)
    now = [(path / "zarr.json").stat().st_mtime_ns for path in views]
    assert now[0] == made[0]
    assert now[1] != made[1]
    assert arrays.Rows(views[1]).shape[0] == 18
    tune(album, unfreeze_from="conv4")
    (other,) = root.iterdir()
    assert other != folder


def test_more_than_the_disk_budget_is_refused_before_anything_is_computed(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGES_DISK_GIB", "0.0001")
    album.change({"fine_tune": {"cache_frozen": True}})
    told = album.fails("fine_tune", *command())
    assert told == (
        "error: data/.activations: expected at most the 0.0001 GiB that STAGES_DISK_GIB leaves, "
        "got 0.000715 GiB for 18 images in 2 views; make room, take fewer views (extract.views) or "
        "a later layer (fine_tune.unfreeze_from), or set fine_tune.cache_frozen: false\n"
    )
    assert not MODEL.exists()
    assert list(Path("data/.activations").iterdir()) == []


class Gone(Exception):  # noqa: N818
    """As if the machine had gone."""


@pytest.mark.parametrize("cached", [False, True], ids=["from images", "from activations"])
@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_bytes_of_one_that_was_not(
    cached: bool, album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "cache_frozen": cached,
        "epochs": 4,
        "input_dropout": 0.5,
        "optimizer": "adam",
        "warmup_epochs": 1,
        "decay": "cosine",
        "augment": STILL if cached else MOVED,
    }
    tune(album, **settings)
    whole, history = contents(MODEL), HISTORY.read_bytes()
    assert not fine_tune.CHECKPOINT.exists()
    shutil.rmtree(MODEL)
    write, written = atomic_files.write_arrays, []

    def interrupt(*words: Any) -> None:
        write(*words)
        written.append(words)
        if len(written) in (2, 3):
            raise Gone

    monkeypatch.setattr(atomic_files, "write_arrays", interrupt)
    for _ in range(2):
        with pytest.raises(Gone):
            album.run("fine_tune", *command())
        assert fine_tune.CHECKPOINT.exists()
    album.run("fine_tune", *command())
    assert len(written) == 4  # no epoch was trained twice
    assert (contents(MODEL), HISTORY.read_bytes()) == (whole, history)
    assert not fine_tune.CHECKPOINT.exists()


@pytest.mark.parametrize("kind", ["other settings", "damaged"])
def test_what_an_interrupted_run_left_is_used_for_the_same_run_only(
    kind: str, album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = atomic_files.write_arrays

    def interrupt(*words: Any) -> None:
        write(*words)
        raise Gone

    with monkeypatch.context() as changed:
        changed.setattr(atomic_files, "write_arrays", interrupt)
        with pytest.raises(Gone):
            album.run("fine_tune", *command())
    if kind == "damaged":
        content = fine_tune.CHECKPOINT.read_bytes()
        fine_tune.CHECKPOINT.write_bytes(content[: len(content) // 2])
    tune(album, seed=1)
    after, history = contents(MODEL), HISTORY.read_bytes()
    tune(album)
    assert (contents(MODEL), HISTORY.read_bytes()) == (after, history)


def test_the_figures_tell_what_was_taken_and_by_how_much_it_is_better(album: Album) -> None:
    tune(album)
    labels = ledger.labels(ledger.read_ledger(LEDGER))
    valid = labels.rows("valid")
    of = {
        folder: arrays.Rows(folder / "predictions.zarr").read(0, 18)[valid, labels.label[valid]]
        for folder in (HEAD, MODEL)
    }
    told = figures()
    gain = told["valid_log_loss_gain"]
    assert gain["mean"] == pytest.approx(float((of[MODEL] - of[HEAD]).mean()), abs=1e-5)
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert told["taken"] == ("fine_tuned" if told["best"]["epoch"] else "head")
    assert told["fault"] == ""


def test_a_run_that_is_never_better_leaves_the_head(album: Album) -> None:
    """Steps so long that the loss grows, though not beyond numbers."""
    tune(album, optimizer="sgd", learning_rate=30.0, epochs=1, unfreeze_from=None)
    told = figures()
    assert (told["best"]["epoch"], told["taken"], told["epochs"]) == (0, "head", 1)
    assert told["valid_log_loss_gain"] == pytest.approx({"mean": 0, "low": 0, "high": 0}, abs=1e-4)


def test_a_loss_that_diverges_is_told_and_the_last_good_weights_are_kept(album: Album) -> None:
    printed = tune(album, optimizer="sgd", learning_rate=1e30, epochs=3)
    expected = "fine_tune epoch 1: expected a finite loss, got "
    assert expected in printed
    assert "at learning rate 1e+30; lower fine_tune.learning_rate" in printed
    assert figures()["fault"].startswith(expected)
    assert figures()["taken"] == "head"
    of_head = arrays.Rows(HEAD / "predictions.zarr").read(0, 18)
    assert_allclose(arrays.Rows(MODEL / "predictions.zarr").read(0, 18), of_head, atol=1e-4)


def test_a_head_on_other_features_is_refused(album: Album) -> None:
    kernel = np.zeros((96, 2), np.float32)
    head.Head((kernel,), (np.zeros(2, np.float32),)).save(HEAD / "head.npz")
    assert album.fails("fine_tune", *command()) == (
        "error: head: expected one on 128 features for 2 classes, got one on 96 for 2; run "
        "`dvc repro train_head` again\n"
    )
    assert not MODEL.exists()


@pytest.mark.slow
def test_of_two_backbones_one_may_stay_frozen_with_and_without_the_cache(album: Album) -> None:
    both = ["gabor", "convnet"]
    album.change(
        {
            "extract": {"backbones": both, "views": 1},
            "fetch_weights": {"gabor": album.params["fetch_weights"]["convnet"]},
            "train_head": {"backbones": both},
            "fine_tune": {"unfreeze_from": [None, "conv3"]},
        }
    )
    weights, features = Path("data/weights/gabor.weights.h5"), Path("data/features/gabor.zarr")
    album.run("fetch_weights", "gabor", weights)
    album.run("extract", "gabor", RESIZED, weights, features)
    album.extract()
    album.run(
        "train_head", LEDGER, features, FEATURES, HEAD, "metrics/head.json", "metrics/head.csv"
    )
    words = (LEDGER, RESIZED, weights, WEIGHTS, HEAD, MODEL, FIGURES, HISTORY)
    curves = []
    for cached in (False, True):
        album.change({"fine_tune": {"cache_frozen": cached}})
        album.run("fine_tune", *words)
        curves.append(losses())
    (end_to_end, _), _ = curves
    assert len(end_to_end) == 4
    assert end_to_end[3] != end_to_end[0]
    assert_allclose(curves[1], curves[0], atol=1e-4)


def test_without_a_layer_the_head_alone_is_trained(bad_start: None, album: Album) -> None:
    tune(album, unfreeze_from=None)
    assert figures()["taken"] == "fine_tuned"
    assert moved() == set()
    assert losses()[0][3] < losses()[0][1]


def test_in_bfloat16_the_losses_are_near_those_in_float32(album: Album) -> None:
    tune(album, learning_rate=0.0001)
    exact = losses()[1]
    tune(album, precision="bfloat16")
    assert losses()[1] != exact
    assert_allclose(losses()[1], exact, rtol=0.1)


def test_classes_may_weigh_differently(album: Album) -> None:
    tune(album)
    plain = losses()[0][1:]
    tune(album, class_weights="balanced")  # the classes are equally large
    assert losses()[0][1:] == pytest.approx(plain, rel=1e-5)
    tune(album, class_weights=[2, 2])
    assert losses()[0][1] == pytest.approx(2 * plain[0], rel=0.5)
    assert losses()[0][1] > plain[0] * 1.5
    told = album
    told.change({"fine_tune": {"class_weights": [1, 2, 3]}})
    assert told.fails("fine_tune", *command()) == (
        "error: params.yaml: fine_tune.class_weights: expected 2 numbers, one a class, got 3; "
        "list them in the classes' order\n"
    )


def test_a_head_with_a_sigmoid_is_tuned_as_one_with_a_softmax(album: Album) -> None:
    dense = {**album.params["train_head"]["dense"], "output": "sigmoid", "epochs": 2}
    album.change({"train_head": {"kind": "dense", "dense": dense}})
    train_head(album)
    tune(album, unfreeze_from="conv4")
    assert arrays.Rows(MODEL / "predictions.zarr").shape == (18, 2)
    with np.load(HEAD / "head.npz") as stored:
        assert stored["kernel_1"].shape[1] == 1
