"""Weights from a seed, a file or a download, and what is said when they are others."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from pipeline.backbones import build, weights
from pipeline.runtime.errors import UserError
from stages import fetch_weights

ROOT = Path(__file__).parent.parent
FRESH_PROCESS = """
import hashlib, sys
from pathlib import Path
from stages.models import engine
engine.start("tensorflow", 1, None)
from stages.models import weights
path = Path(sys.argv[1])
weights.random("convnet", False, 3).save_weights(path)
print(hashlib.sha256(path.read_bytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def mobilenet() -> keras.Model:
    return weights.random("MobileNetV2", False, 5)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files of a test lie; the working folder, so that sentences are known whole."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(model: keras.Model, name: str) -> tuple[Path, str]:
    """A file of a model's weights in the working folder, and its sha256."""
    path = Path(name)
    model.save_weights(path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def refusal(name: str, path: Path, sha256: str, include_top: bool = False) -> str:
    with pytest.raises(UserError) as told:
        weights.from_file(name, include_top, path, sha256)
    return str(told.value)


def assert_same(first: keras.Model, second: keras.Model) -> None:
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        assert_array_equal(one, other)


def test_random_weights_are_those_of_their_seed() -> None:
    first, same, other = (weights.random("convnet", False, seed) for seed in (1, 1, 2))
    assert_same(first, same)
    assert not np.array_equal(first.get_weights()[0], other.get_weights()[0])
    assert weights.digest(first) == weights.digest(same) != weights.digest(other)


def test_a_digest_covers_shapes_types_and_values_in_order() -> None:
    model = weights.random("convnet", False, 1)
    expected = hashlib.sha256()
    for array in model.get_weights():
        expected.update(f"{array.shape} float32\n".encode() + array.tobytes())
    assert weights.digest(model) == expected.hexdigest()


@pytest.mark.slow
def test_the_same_weights_are_the_same_bytes_in_two_processes(folder: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FRESH_PROCESS, f"{number}.weights.h5"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert printed[0] == printed[1]
    assert len(printed[0].strip()) == 64


def test_a_file_with_its_hash_gives_its_weights(folder: Path, mobilenet: keras.Model) -> None:
    path, sha256 = saved(mobilenet, "mine.weights.h5")
    assert_same(weights.from_file("MobileNetV2", False, path, sha256), mobilenet)


def test_a_file_with_a_classifier_gives_the_layers_before_it(folder: Path) -> None:
    whole = weights.random("MobileNetV2", True, 5)
    loaded = weights.from_file("MobileNetV2", False, *saved(whole, "whole.weights.h5"))
    for one, other in zip(loaded.get_weights(), whole.get_weights()[:-2], strict=True):
        assert_array_equal(one, other)


def test_weights_fit_every_image_size(folder: Path) -> None:
    model = weights.random("convnet", False, 5)
    path, _ = saved(model, "mine.weights.h5")
    assert_same(build.network("convnet", 46, False, path), model)


def test_no_file_is_told(folder: Path) -> None:
    assert refusal("VGG16", Path("none.weights.h5"), "0" * 64) == (
        "params.yaml: fetch_weights.VGG16.path: expected a weights file, got nothing at "
        "'none.weights.h5'; put it there or correct the path"
    )


def test_another_hash_is_told(folder: Path) -> None:
    Path("mine.weights.h5").write_bytes(b"other bytes")
    found = hashlib.sha256(b"other bytes").hexdigest()
    assert refusal("VGG16", Path("mine.weights.h5"), "0" * 64) == (
        f"mine.weights.h5: expected sha256 {'0' * 64} (fetch_weights.VGG16.sha256), got {found}; "
        "get the right file, or correct the hash if you trust this one"
    )


@pytest.mark.parametrize(
    ("saved_as", "wanted", "include_top", "classifier"),
    [
        ("convnet", "MobileNetV2", False, "without"),
        ("VGG16", "VGG19", False, "without"),
        ("MobileNetV2", "convnet", False, "without"),
        ("MobileNetV2", "MobileNetV2", True, "with"),
    ],
)
def test_weights_of_another_network_are_told_in_one_sentence(
    saved_as: str,
    wanted: str,
    include_top: bool,
    classifier: str,
    folder: Path,
    mobilenet: keras.Model,
) -> None:
    model = mobilenet if saved_as == "MobileNetV2" else weights.random(saved_as, False, 0)
    path, sha256 = saved(model, "mine.weights.h5")
    assert re.fullmatch(
        rf"mine\.weights\.h5: expected weights of {wanted} {classifier} its classifier, got a file "
        rf"that does not fit \([^\n]+[^.\s]\); correct fetch_weights\.{wanted}",
        refusal(wanted, path, sha256, include_top),
    )


@pytest.mark.parametrize("name", ["mine.weights.h5", "mine.h5", "mine.bin"])
def test_a_file_of_text_is_told_in_one_sentence(name: str, folder: Path) -> None:
    Path(name).write_bytes(b"text")
    assert re.fullmatch(
        rf"{re.escape(name)}: expected weights of convnet without its classifier, got a file that "
        r"does not fit \([^\n]+\); correct fetch_weights\.convnet",
        refusal("convnet", Path(name), hashlib.sha256(b"text").hexdigest()),
    )


@pytest.mark.parametrize("name", ["convnet", "gabor"])
def test_a_backbone_of_our_own_has_no_published_weights(name: str) -> None:
    with pytest.raises(UserError) as told:
        weights.published(name, False)
    assert str(told.value) == (
        f"params.yaml: fetch_weights.{name}.source: expected random or file, got 'imagenet'; "
        f"nobody has published ImageNet weights for {name}"
    )


@pytest.mark.parametrize("length", [0, 100, 5_000])
def test_a_download_that_another_program_left_cut_short_is_told(
    length: int, folder: Path, mobilenet: keras.Model
) -> None:
    path, _ = saved(mobilenet, "whole.weights.h5")
    Path("cut.h5").write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError) as told:
        weights.from_download("MobileNetV2", False, Path("cut.h5"))
    assert re.fullmatch(
        r"fetch_weights MobileNetV2: expected a whole download in \., got a damaged file "
        r"\([^\n]+\); remove cut\.h5 and run again",
        str(told.value),
    )


def test_the_first_download_is_recorded_and_others_are_refused_later(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch_weights._check_pin("VGG16", "b" * 64)
    fetch_weights._check_pin("MobileNet-top", "a" * 64)
    pins = f"{'a' * 64}  MobileNet-top\n{'b' * 64}  VGG16\n"
    assert Path("data/weights.sha256").read_text() == pins
    assert capsys.readouterr().out == (
        "fetch_weights: recorded the digest of VGG16 in data/weights.sha256; commit that file\n"
        "fetch_weights: recorded the digest of MobileNet-top in data/weights.sha256; "
        "commit that file\n"
    )
    fetch_weights._check_pin("VGG16", "b" * 64)
    with pytest.raises(UserError) as told:
        fetch_weights._check_pin("VGG16", "c" * 64)
    assert str(told.value) == (
        f"fetch_weights VGG16: expected the weights recorded in data/weights.sha256 ({'b' * 64}), "
        f"got others ({'c' * 64}); remove the download, or its line in data/weights.sha256 if you "
        "trust it"
    )
    assert Path("data/weights.sha256").read_text() == pins
    assert capsys.readouterr().out == ""
