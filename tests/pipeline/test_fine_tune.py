"""Fine-tuning starts from the head, changes only what it may, and survives interruptions."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from album import AUGMENT, LEDGER, LOGISTIC, RESIZED, WEIGHTS, Album, contents
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import build
from pipeline.evaluation.probabilities import mean_log_probability
from pipeline.images import views
from pipeline.storage import arrays, ledger, sealed_files, tables
from pipeline.training import head, history, network

MOVED = {"rotation": 10, "shift": 0.1, "shear": 0.1, "zoom": 0.1, "flip": True, "brightness": 0.1}
MORE = {"mixup": 0.4, "label_smoothing": 0.1, "ema": 0.9, "layer_rate": 0.5, "clip_norm": 1}
OF_IMAGES = {"cutmix": 1, "augment": MOVED | {"rand_augment": 0.5}}
ADAM = {"optimizer": "adam", "warmup_epochs": 1, "decay": "cosine", "input_dropout": 0.5}
TUNE: dict[str, Any] = {"epochs": 3, "batch_size": 4, "learning_rate": 0.001, "patience": None}
TUNE |= {"cache_frozen": False, "input_dropout": 0, "augment": None}
CONVNET = "backbones.convnet"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages before `fine_tune` wrote, once the first test has run them."""
    return tmp_path_factory.mktemp("prepared") / "data"


@pytest.fixture
def album(album: Album, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Album:
    """18 images, features and a head."""
    monkeypatch.setattr(
        "threadpoolctl.threadpool_limits", lambda *_, **__: contextlib.nullcontext()
    )
    album.change({"train_head": LOGISTIC, CONVNET: {"unfreeze_from": "conv3"}, "fine_tune": TUNE})
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
        album.change({CONVNET: {"unfreeze_from": changes.pop("unfreeze_from")}})
    album.change({"fine_tune": changes})
    return album.run("fine_tune")


def losses() -> tuple[list[float], list[float]]:
    """Return those of all epochs, on train and on valid."""
    written = tables.read_numbers(paths.FINE_TUNE_HISTORY, "fine_tune")
    return written["loss"], written["val_loss"]


def metrics() -> dict[str, Any]:
    return tables.read_json(paths.FINE_TUNE_METRICS, "fine_tune")


def predictions(folder: Path) -> NDArray[np.float32]:
    values: NDArray[np.float32] = arrays.StoredArray(paths.predictions(folder)).read(0, 18)
    return values


@pytest.mark.parametrize("cached", [False, True])
def test_the_loss_before_the_first_step_is_the_heads(cached: bool, album: Album) -> None:
    tune(album, cache_frozen=cached, epochs=1, learning_rate=1e-30)
    start, after = losses()[1]
    assert after == pytest.approx(start, abs=1e-4)


@pytest.mark.parametrize(
    ("layer", "moved"), [("conv3", {"conv3", "conv4"}), (None, set())], ids=["conv3", "head alone"]
)
def test_frozen_layers_stay_as_they_were_bit_for_bit_and_the_others_move(
    layer: str | None, moved: set[str], album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a bad start, as nothing can be learnt from these images."""
    monkeypatch.setattr(history, "measured", lambda *_: history.Epoch(0, 9.0, 0.0, 9.0, 0.0))
    tune(album, unfreeze_from=layer)
    labels = ledger.labels(ledger.read_ledger(LEDGER))
    valid = labels.rows("valid")
    rows = valid, labels.label[valid]
    better = float((predictions(paths.MODEL)[rows] - predictions(paths.HEAD)[rows]).mean())
    gain = metrics()["valid_log_loss_gain"]
    assert gain["mean"] == pytest.approx(better, abs=1e-5)
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert (metrics()["taken"], metrics()["fault"]) == ("fine_tuned", "")
    before = build.network("convnet", 48, False, WEIGHTS)
    net = network.load(config.read(), 48, 2, "fine_tune")
    after = net.extractors["convnet"].get_layer("trunk").model
    names = ("conv1", "conv2", "conv3", "conv4")
    weights = [[model.get_layer(name).get_weights() for name in names] for model in (before, after)]
    same = [all(map(np.array_equal, old, new)) for old, new in zip(*weights, strict=True)]
    assert {name for name, equal in zip(names, same, strict=True) if not equal} == moved
    assert losses()[0][3] != losses()[0][1]


@pytest.mark.parametrize("cached", [False, True])
def test_each_layer_takes_shorter_steps_than_the_one_after_it(
    cached: bool, album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of plain gradient descent, from a start that it is better than."""
    monkeypatch.setattr(history, "measured", lambda *_: history.Epoch(0, 9.0, 0.0, 9.0, 0.0))
    before = build.network("convnet", 48, False, WEIGHTS)
    steps = []
    for rate in (None, 0.5):
        once = {"optimizer": "sgd", "epochs": 1, "batch_size": 16, "cache_frozen": cached}
        tune(album, unfreeze_from="conv2", layer_rate=rate, learning_rate=0.1, **once)
        net = network.load(config.read(), 48, 2, "fine_tune")
        after = net.extractors["convnet"].get_layer("trunk").model
        kernels = [
            [model.get_layer(name).get_weights()[0] for name in ("conv2", "conv3", "conv4")]
            for model in (before, after)
        ]
        steps.append([new - old for old, new in zip(*kernels, strict=True)])
    for depth, whole, shorter in zip((3, 2, 1), *steps, strict=True):
        assert np.abs(whole).max() > 1e-4
        assert_allclose(shorter, 0.5**depth * whole, rtol=0.01, atol=1e-6)


@pytest.mark.slow
def test_cached_activations_give_the_losses_of_training_end_to_end(album: Album) -> None:
    """With two backbones, one of them frozen."""
    convnet = album.params["backbones"].pop("convnet")
    backbones = {"gabor": {**convnet, "unfreeze_from": None}, "convnet": convnet}
    album.change({"backbones": backbones, "extract": {"views": 1}})
    for backbone in backbones:
        album.run("fetch_weights", backbone)
        album.run("extract", backbone)
    album.run("train_head")
    tune(album)
    end_to_end, predicted = losses(), predictions(paths.MODEL)
    tune(album, cache_frozen=True)
    assert end_to_end[0][3] != end_to_end[0][1]
    assert_allclose(losses(), end_to_end, atol=1e-4)
    assert_allclose(predictions(paths.MODEL), predicted, atol=1e-3)


def test_predictions_are_averaged_over_predict_views(album: Album) -> None:
    album.change({"extract": {"views": 3, "augment": AUGMENT}, "predict": {"views": 3}})
    tune(album, epochs=1)
    params, pixels = config.read(), arrays.StoredArray(RESIZED)
    model = network.load(params, 48, 2, "fine_tune").model
    digests = [digest.tobytes() for digest in pixels.digests]
    images, options = pixels.read(0, 18), params.extract
    logits = [np.asarray(model(views.view(options, images, digests, view))) for view in range(3)]
    predicted = predictions(paths.MODEL)
    assert_allclose(predicted, mean_log_probability(logits), rtol=1e-4, atol=1e-5)
    assert np.abs(predicted - mean_log_probability(logits[:1])).max() > 1e-3


@pytest.mark.slow
def test_activations_are_computed_once_per_view_and_kept_for_the_next_run(album: Album) -> None:
    """The second view does not predict, so only training images need it."""
    tune(album, cache_frozen=True)
    train = len(ledger.labels(ledger.read_ledger(LEDGER)).rows("train"))
    (folder,) = Path("data/.activations").iterdir()
    views = [folder / "0.zarr", folder / "1.zarr"]

    def written() -> list[int]:
        return [(path / "zarr.json").stat().st_mtime_ns for path in views]

    assert [len(arrays.StoredArray(path)) for path in views] == [18, train]
    first = written()
    assert "takes up to" not in tune(album, learning_rate=0.002)
    assert written() == first
    album.change({"predict": {"views": 2}})
    tune(album)
    assert written()[0] == first[0]
    assert [len(arrays.StoredArray(path)) for path in views] == [18, 18]
    tune(album, unfreeze_from="conv4")
    assert not folder.exists()


def test_more_than_the_disk_budget_is_refused_before_anything_is_computed(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGES_DISK_GIB", "0.0001")
    album.change({"fine_tune": {"cache_frozen": True}})
    expected = (
        "the 0.0001 GiB that STAGES_DISK_GIB leaves, got 0.000715 GiB for 18 images in 2 views"
    )
    assert expected in album.fails("fine_tune")
    assert not paths.MODEL.exists()


class Gone(Exception):  # noqa: N818
    """Stands for a machine that fails."""


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": MOVED},
        {"cache_frozen": True},
        {**MORE, **OF_IMAGES},
        {**MORE, "cache_frozen": True},
    ],
    ids=["from images", "from activations", "images, all keys", "activations, all keys"],
)
@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_bytes_of_an_uninterrupted_one(
    changes: dict[str, Any], album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the checkpoint of a run with another seed, which is not used."""
    tune(album, epochs=4, **ADAM, **changes)
    complete, epochs = contents(paths.MODEL), paths.FINE_TUNE_HISTORY.read_bytes()
    assert not paths.CHECKPOINT.exists()
    shutil.rmtree(paths.MODEL)
    write, written = sealed_files.write_arrays, []

    def interrupt(*words: Any) -> None:
        write(*words)
        written.append(words)
        if len(written) in (1, 3, 4):
            raise Gone

    monkeypatch.setattr(sealed_files, "write_arrays", interrupt)
    for seed in (1, 0, 0):
        with pytest.raises(Gone):
            tune(album, seed=seed)
        assert paths.CHECKPOINT.exists()
    album.run("fine_tune")
    assert len(written) == 1 + 4  # no epoch was trained twice
    assert (contents(paths.MODEL), paths.FINE_TUNE_HISTORY.read_bytes()) == (complete, epochs)
    assert not paths.CHECKPOINT.exists()


@pytest.mark.parametrize("rate", [30.0, 1e38], ids=["never better", "diverges"])
def test_a_run_that_is_never_better_leaves_the_head(rate: float, album: Album) -> None:
    """Large steps let the loss grow, but stay finite; with larger ones it does not."""
    printed = tune(album, optimizer="sgd", learning_rate=rate, epochs=1, unfreeze_from=None)
    report, fault = metrics(), "fine_tune epoch 1: expected a finite loss, got "
    assert (report["best"]["epoch"], report["taken"]) == (0, "head")
    assert report["valid_log_loss_gain"]["mean"] == pytest.approx(0, abs=1e-4)
    assert_allclose(predictions(paths.MODEL), predictions(paths.HEAD), atol=1e-4)
    assert report["fault"].startswith(fault) is (fault in printed) is (rate == 1e38)


def test_a_head_on_other_features_is_refused(album: Album) -> None:
    kernel = np.zeros((96, 2), np.float32)
    head.Head((kernel,), (np.zeros(2, np.float32),)).save(paths.head_file())
    assert "got one on 96 for 2; run `dvc repro train_head` again" in album.fails("fine_tune")
    assert not paths.MODEL.exists()


@pytest.mark.slow
def test_in_bfloat16_the_losses_are_near_those_in_float32(album: Album) -> None:
    tune(album, learning_rate=0.0001)
    exact = losses()[1]
    tune(album, precision="bfloat16")
    assert losses()[1] != exact
    assert_allclose(losses()[1], exact, rtol=0.1)
