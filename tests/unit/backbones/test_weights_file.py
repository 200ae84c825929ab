"""A weights file is refused unless it has exactly the weights of the network."""

import errno
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import legacy_weights
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from pipeline.backbones import build, keras_private, weights_file
from pipeline.runtime.errors import UserError

LAYER = "layers/conv2d_1"
KERNEL, BIAS = f"{LAYER}/vars/0", f"{LAYER}/vars/1"
OLD_KERNEL = "conv2/conv2/0:0"
SHAPE = (3, 3, 32, 64)
FOREIGN = h5py.ExternalLink("/etc/passwd", "/x")
Change = Callable[[h5py.File], object]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return build.network("convnet", None, False, None)


@pytest.fixture(autouse=True)
def working_folder(model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the model's weights in both formats."""
    monkeypatch.chdir(tmp_path)
    model.save_weights("w.weights.h5")
    legacy_weights.save(Path("w.h5"), model)


def load(path: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    other = build.network("convnet", None, False, None)
    weights_file.load(other, Path(path), "weights", "correct it")
    return other


def refusal(path: str) -> str:
    before, after = f"{path}: expected weights, got a file that does not fit (", "); correct it"
    with pytest.raises(UserError) as refused:
        load(path)
    sentence = str(refused.value)
    assert sentence.startswith(before)
    assert sentence.endswith(after)
    assert "\n" not in sentence
    return sentence.removeprefix(before).removesuffix(after)


def put(name: str, **options: object) -> Change:
    """Replace an array by another."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **options)

    return change


def add(name: str, item: object) -> Change:
    return lambda file: file.__setitem__(name, item)


def delete(name: str) -> Change:
    return lambda file: file.__delitem__(name)


def link(name: str) -> Change:
    return lambda file: (file.__delitem__(name), file.__setitem__(name, FOREIGN))


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", SHAPE)
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


NOT_LOADED = "A total of 1 objects could not be loaded"
FOREIGN_BYTES = {"shape": SHAPE, "dtype": "f4", "external": [("/etc/passwd", 0, 73_728)]}
TERABYTES = {"shape": (2**40,), "dtype": "f4", "chunks": (2**10,)}
SURPLUS = "a weight that the network does not have, "


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (link(KERNEL), f"no '{KERNEL}'"),
        (put(KERNEL, **FOREIGN_BYTES), NOT_LOADED),
        (virtual, NOT_LOADED),
        (put(KERNEL, **TERABYTES), f"'{KERNEL}' of shape (1099511627776,), not {SHAPE}"),
        (put(BIAS, data=np.float32(1)), f"'{BIAS}' of shape (), not (64,)"),
        (put(BIAS, data=np.zeros(64, "i8")), f"'{BIAS}' of int64, not of float32"),
        (put(BIAS, data=["x"] * 64), f"'{BIAS}' of object, not of float32"),
        (delete(LAYER), f"no '{KERNEL}'"),
        (delete(BIAS), f"no '{BIAS}'"),
        (add("layers/dense/vars/0", np.zeros(3)), f"{SURPLUS}'layers/dense/vars/0'"),
        (add(f"{LAYER}/vars/2", np.zeros(3)), f"{SURPLUS}'{LAYER}/vars/2'"),
    ],
)
def test_weights_that_are_not_the_networks_are_refused(change: Change, reason: str) -> None:
    with h5py.File("w.weights.h5", "a") as file:
        change(file)
    assert refusal("w.weights.h5") == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (link(OLD_KERNEL), "Not allowed: H5 file with ExternalLink"),
        (put(OLD_KERNEL, **FOREIGN_BYTES), "Not allowed: H5 file with external Dataset: "),
        (put(OLD_KERNEL, **TERABYTES), "Not allowed: H5 dataset '0:0' declares 4.00 TB"),
        (put(OLD_KERNEL, data=np.zeros((3, 3))), "Shape mismatch in layer #1 (named conv2)"),
        (delete("conv2"), "'conv2'"),
        (
            lambda file: file["conv2"].attrs.__setitem__("weight_names", [b"conv2/0:0"]),
            "Weight count mismatch for layer #1 (named conv2 in the current model",
        ),
    ],
)
def test_other_weights_in_the_legacy_format_are_refused(change: Change, reason: str) -> None:
    with h5py.File("w.h5", "a") as file:
        change(file)
    assert refusal("w.h5").startswith(reason)


@pytest.mark.parametrize("name", ["w.keras", "w.weights.json", "w.npz", "w"])
def test_no_other_format_is_opened(name: str) -> None:
    Path("w.weights.h5").rename(name)
    assert refusal(name) == "a name that ends in neither .weights.h5 nor .h5"


@pytest.mark.parametrize("name", ["w.weights.h5", "w.h5"])
@pytest.mark.parametrize("length", [0, 8, 2_000, 100_000])
def test_a_truncated_file_is_refused(length: int, name: str) -> None:
    Path(name).write_bytes(Path(name).read_bytes()[:length])
    assert refusal(name)


def test_a_failing_disk_is_not_reported_as_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Unable to open file (a paragraph of HDF5's)")

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(OSError, match="Unable to open") as failed:
        load("w.weights.h5")
    assert (type(failed.value), failed.value.filename) == (OSError, "w.weights.h5")


@pytest.mark.parametrize("name", ["w.weights.h5", "w.h5"])
def test_saved_weights_are_loaded(name: str, model: keras.Model) -> None:
    for one, expected in zip(load(name).get_weights(), model.get_weights(), strict=True):
        assert_array_equal(one, expected)


@pytest.mark.parametrize(
    "name", ["EfficientNetB0", pytest.param("ConvNeXtTiny", marks=pytest.mark.slow), "gabor"]
)
def test_variables_are_expected_at_the_paths_that_keras_writes(name: str) -> None:
    network = build.network(name, None, False, None)
    network.save_weights("network.weights.h5")
    weights_file.load(network, Path("network.weights.h5"), "weights", "correct it")
    assert len(keras_private.saved_variables(network)) == len(network.weights)
