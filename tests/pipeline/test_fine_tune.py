"""Fine-tuning starts from the head, changes only what it may, and survives interruptions."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from album import DENSE, LEDGER, LOGISTIC, WEIGHTS, Album, contents
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from pipeline import paths
from pipeline.backbones import build
from pipeline.storage import arrays, ledger, sealed_files, tables
from pipeline.training import head, loop, network_split
from stages import fine_tune

STILL = {"rotation": 0, "shift": 0, "shear": 0, "zoom": 0, "flip": False, "brightness": 0}
MOVED = {"rotation": 10, "shift": 0.1, "shear": 0.1, "zoom": 0.1, "flip": True, "brightness": 0.1}
SETTINGS: dict[str, Any] = {
    "train_head": LOGISTIC,
    "backbones.convnet": {"unfreeze_from": "conv3"},
    "fine_tune": {
        "cache_frozen": False,
        "epochs": 3,
        "batch_size": 4,
        "learning_rate": 0.001,
        "input_dropout": 0,
        "patience": None,
        "augment": STILL,
    },
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages before `fine_tune` wrote, once the first test has run them."""
    return tmp_path_factory.mktemp("prepared") / "data"


@pytest.fixture
def album(album: Album, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Album:
    """18 images, features and a head."""
    monkeypatch.setattr("threadpoolctl.threadpool_limits", lambda *_, **__: None)
    album.change(SETTINGS)
    if prepared.exists():
        shutil.copytree(prepared, "data", dirs_exist_ok=True)
        return album
    album.split()
    album.resize()
    album.fetch_weights()
    album.extract()
    album.run("train_head")
    shutil.copytree("data", prepared)
    return album


def tune(album: Album, **changes: Any) -> str:
    if "unfreeze_from" in changes:
        album.change({"backbones.convnet": {"unfreeze_from": changes.pop("unfreeze_from")}})
    album.change({"fine_tune": changes})
    return album.run("fine_tune")


def losses() -> tuple[list[float], list[float]]:
    """Return those of all epochs, on train and on valid."""
    history = tables.read_numbers(paths.FINE_TUNE_HISTORY, "fine_tune")
    return history["loss"], history["val_loss"]


def metrics() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(paths.FINE_TUNE_METRICS.read_text(encoding="utf-8"))
    return content


def predictions(folder: Path) -> NDArray[np.float32]:
    values: NDArray[np.float32] = arrays.StoredArray(paths.predictions(folder)).read(0, 18)
    return values


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
    """Return the convolutions with other weights in the tuned model than at the start."""
    before = build.network("convnet", 48, False, WEIGHTS)
    extractor = build.extractor(
        build.network("convnet", 48, False, None), "convnet", None, "flatten"
    )
    classifier = loop.head_model(
        head.load(paths.head_file()), input_dropout=0.0, dropout=0.0, seed=0
    )
    model = network_split.join([extractor], classifier, (48, 48, 3))
    model.load_weights(paths.model_weights())
    after = extractor.get_layer("trunk").model
    names = [layer.name for layer in before.layers if layer.weights]
    assert names == ["conv1", "conv2", "conv3", "conv4"]
    weights = {
        name: [model.get_layer(name).get_weights() for model in (before, after)] for name in names
    }
    return {name for name, (old, new) in weights.items() if not all(map(np.array_equal, old, new))}


@pytest.fixture
def bad_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a trained epoch the best one, though nothing can be learnt from these images."""
    monkeypatch.setattr(fine_tune, "_score", lambda *_: [9.0, 0.0, 9.0, 0.0])


def test_frozen_layers_stay_as_they_were_bit_for_bit_and_the_others_move(
    bad_start: None, album: Album
) -> None:
    tune(album)
    assert metrics()["taken"] == "fine_tuned"
    assert moved() == {"conv3", "conv4"}


def test_from_cached_activations_the_losses_are_those_of_training_end_to_end(
    album: Album,
) -> None:
    album.change({"extract": {"views": 1}})
    album.extract()
    album.run("train_head")
    tune(album)
    end_to_end = losses()
    predicted = predictions(paths.MODEL)
    tune(album, cache_frozen=True)
    assert len(end_to_end[0]) == 4
    assert end_to_end[0][3] < end_to_end[0][1]
    assert_allclose(losses(), end_to_end, atol=2e-5)
    assert_allclose(predictions(paths.MODEL), predicted, atol=1e-3)


@pytest.mark.slow
def test_activations_are_computed_once_per_view_and_kept_for_the_next_run(album: Album) -> None:
    """The second view does not predict, so only training images need it."""
    tune(album, cache_frozen=True)
    train = len(ledger.labels(ledger.read_ledger(LEDGER)).rows("train"))
    root = Path("data/.activations")
    (folder,) = root.iterdir()
    views = [folder / "0.zarr", folder / "1.zarr"]

    def written() -> list[int]:
        return [(path / "zarr.json").stat().st_mtime_ns for path in views]

    width = 10 * 10 * 64
    assert [arrays.StoredArray(path).shape for path in views] == [(18, width), (train, width)]
    first = written()
    assert "takes up to" not in tune(album, learning_rate=0.002)
    assert written() == first
    album.change({"predict": {"views": 2}})
    assert "takes up to" in tune(album)
    assert written()[0] == first[0]
    assert written()[1] != first[1]
    assert arrays.StoredArray(views[1]).shape[0] == 18
    tune(album, unfreeze_from="conv4")
    (other,) = root.iterdir()
    assert other != folder


def test_more_than_the_disk_budget_is_refused_before_anything_is_computed(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGES_DISK_GIB", "0.0001")
    album.change({"fine_tune": {"cache_frozen": True}})
    assert (
        "data/.activations: expected at most the 0.0001 GiB that STAGES_DISK_GIB leaves, got "
        "0.000715 GiB for 18 images in 2 views; make room"
    ) in album.fails("fine_tune")
    assert not paths.MODEL.exists()
    assert list(Path("data/.activations").iterdir()) == []


class Gone(Exception):  # noqa: N818
    """Stands for a machine that fails."""


@pytest.mark.parametrize("cached", [False, True], ids=["from images", "from activations"])
@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_bytes_of_an_uninterrupted_one(
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
    complete, history = contents(paths.MODEL), paths.FINE_TUNE_HISTORY.read_bytes()
    assert not paths.CHECKPOINT.exists()
    shutil.rmtree(paths.MODEL)
    write, written = sealed_files.write_arrays, []

    def interrupt(*words: Any) -> None:
        write(*words)
        written.append(words)
        if len(written) in (2, 3):
            raise Gone

    monkeypatch.setattr(sealed_files, "write_arrays", interrupt)
    for _ in range(2):
        with pytest.raises(Gone):
            album.run("fine_tune")
        assert paths.CHECKPOINT.exists()
    album.run("fine_tune")
    assert len(written) == 4  # no epoch was trained twice
    assert (contents(paths.MODEL), paths.FINE_TUNE_HISTORY.read_bytes()) == (complete, history)
    assert not paths.CHECKPOINT.exists()


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_not_used(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = sealed_files.write_arrays

    def interrupt(*words: Any) -> None:
        write(*words)
        raise Gone

    with monkeypatch.context() as changed:
        changed.setattr(sealed_files, "write_arrays", interrupt)
        with pytest.raises(Gone):
            album.run("fine_tune")
    tune(album, seed=1)
    after, history = contents(paths.MODEL), paths.FINE_TUNE_HISTORY.read_bytes()
    tune(album)
    assert (contents(paths.MODEL), paths.FINE_TUNE_HISTORY.read_bytes()) == (after, history)


def test_the_metrics_say_what_was_taken_and_how_much_better_it_is(album: Album) -> None:
    tune(album)
    labels = ledger.labels(ledger.read_ledger(LEDGER))
    valid = labels.rows("valid")
    rows = valid, labels.label[valid]
    expected = float((predictions(paths.MODEL)[rows] - predictions(paths.HEAD)[rows]).mean())
    report = metrics()
    gain = report["valid_log_loss_gain"]
    assert gain["mean"] == pytest.approx(expected, abs=1e-5)
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert report["taken"] == ("fine_tuned" if report["best"]["epoch"] else "head")
    assert report["fault"] == ""


def test_a_run_that_is_never_better_leaves_the_head(album: Album) -> None:
    """Large steps let the loss grow, but stay finite."""
    tune(album, optimizer="sgd", learning_rate=30.0, epochs=1, unfreeze_from=None)
    report = metrics()
    assert (report["best"]["epoch"], report["taken"], report["epochs"]) == (0, "head", 1)
    assert report["valid_log_loss_gain"] == pytest.approx(
        {"mean": 0, "low": 0, "high": 0}, abs=1e-4
    )


def test_a_loss_that_diverges_is_reported_and_the_last_good_weights_are_kept(album: Album) -> None:
    printed = tune(album, optimizer="sgd", learning_rate=1e30, epochs=3)
    expected = "fine_tune epoch 1: expected a finite loss, got "
    assert expected in printed
    assert "at learning rate 1e+30; lower fine_tune.learning_rate" in printed
    assert metrics()["fault"].startswith(expected)
    assert metrics()["taken"] == "head"
    assert_allclose(predictions(paths.MODEL), predictions(paths.HEAD), atol=1e-4)


def test_a_head_on_other_features_is_refused(album: Album) -> None:
    kernel = np.zeros((96, 2), np.float32)
    head.Head((kernel,), (np.zeros(2, np.float32),)).save(paths.head_file())
    assert "got one on 96 for 2; run `dvc repro train_head` again" in album.fails("fine_tune")
    assert not paths.MODEL.exists()


@pytest.mark.slow
def test_of_two_backbones_one_may_stay_frozen_with_and_without_the_cache(album: Album) -> None:
    convnet = album.params["backbones"].pop("convnet")
    album.change(
        {
            "backbones": {"gabor": {**convnet, "unfreeze_from": None}, "convnet": convnet},
            "extract": {"views": 1},
        }
    )
    for backbone in ("gabor", "convnet"):
        album.run("fetch_weights", backbone)
        album.run("extract", backbone)
    album.run("train_head")
    curves = []
    for cached in (False, True):
        tune(album, cache_frozen=cached)
        curves.append(losses())
    (end_to_end, _), _ = curves
    assert len(end_to_end) == 4
    assert end_to_end[3] != end_to_end[0]
    assert_allclose(curves[1], curves[0], atol=1e-4)


def test_without_a_layer_the_head_alone_is_trained(bad_start: None, album: Album) -> None:
    tune(album, unfreeze_from=None)
    assert metrics()["taken"] == "fine_tuned"
    assert moved() == set()
    assert losses()[0][3] < losses()[0][1]


@pytest.mark.slow
def test_in_bfloat16_the_losses_are_near_those_in_float32(album: Album) -> None:
    tune(album, learning_rate=0.0001)
    exact = losses()[1]
    tune(album, precision="bfloat16")
    assert losses()[1] != exact
    assert_allclose(losses()[1], exact, rtol=0.1)


@pytest.mark.slow
def test_a_head_with_a_sigmoid_is_tuned_as_one_with_a_softmax(album: Album) -> None:
    album.change({"train_head": {**DENSE, "output": "sigmoid", "epochs": 2}})
    album.run("train_head")
    tune(album, unfreeze_from="conv4")
    assert predictions(paths.MODEL).shape == (18, 2)
    assert head.load(paths.head_file()).kernels[1].shape[1] == 1
