"""A file of weights is refused by what it declares, before any of its contents is read."""

import contextlib
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import keras
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from pipeline.backbones import build, weights_file

KERNEL, BIAS = "layers/conv2d_1/vars/0", "layers/conv2d_1/vars/1"
SHAPE = (3, 3, 32, 64)
Change = Callable[[h5py.File], object]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return build.network("convnet", None, False, None)


@pytest.fixture
def path(model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    model.save_weights("w.weights.h5")
    return Path("w.weights.h5")


def as_published(path: Path, model: keras.Model) -> None:
    """The older format of Keras' downloads."""
    with h5py.File(path, "w") as file:
        layers = [layer for layer in model.layers if layer.weights]
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            names = [f"{layer.name}/{number}:0" for number in range(len(layer.weights))]
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, layer.get_weights(), strict=True):
                group[name] = array


def refusal(model: keras.Model, path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is told; nothing may be read of an array, nor be left to Keras."""

    def read(*_: object, **__: object) -> None:
        raise AssertionError("contents were read")

    with monkeypatch.context() as closed:
        closed.setattr(h5py.Dataset, "__getitem__", read)
        closed.setattr(h5py.Dataset, "__array__", read)
        closed.setattr(h5py.Dataset, "read_direct", read)
        closed.setattr(keras.Model, "load_weights", read)
        with pytest.raises(weights_file.WeightsFileError) as told:
            weights_file.load(model, path)
    return str(told.value)


def put(name: str, **how: object) -> Change:
    """Another array under the name of one that is there."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **how)

    return change


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", SHAPE)
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


def link(name: str, to: object) -> Change:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = to

    return change


def compressed_bomb(file: h5py.File) -> None:
    """Of the right shape, in chunks of which each unpacks to a thousand times its size."""
    put(KERNEL, data=np.zeros(SHAPE, "f4"), chunks=SHAPE, compression="gzip")(file)


def reference(file: h5py.File) -> None:
    put(KERNEL, shape=SHAPE, dtype=h5py.ref_dtype)(file)


def committed_type(file: h5py.File) -> None:
    file["layers/conv2d_1/vars/type"] = np.dtype("f4")


def circle(file: h5py.File) -> None:
    file["layers/conv2d_1/again"] = file["layers"]


def twice(file: h5py.File) -> None:
    file["layers/conv2d_1/vars/2"] = file[BIAS]


FAULTS: dict[str, tuple[Change, str]] = {
    "external link": (
        link(KERNEL, h5py.ExternalLink("/etc/passwd", "/x")),
        f"a link to elsewhere, '{KERNEL}'",
    ),
    "external link in place of a layer": (
        link("layers/conv2d_1", h5py.ExternalLink("other.h5", "/")),
        "a link to elsewhere, 'layers/conv2d_1'",
    ),
    "soft link": (link(KERNEL, h5py.SoftLink(f"/{BIAS}")), f"a link to elsewhere, '{KERNEL}'"),
    "soft link beside": (
        lambda file: file.__setitem__("more", h5py.SoftLink("/nowhere")),
        "a link to elsewhere, 'more'",
    ),
    "hard link in a circle": (circle, "two names for one thing, the second is "),
    "one array twice": (twice, "two names for one thing, the second is 'layers/conv2d_1/vars/"),
    "named type": (committed_type, "neither a group nor an array, 'layers/conv2d_1/vars/type'"),
    "external storage": (
        put(KERNEL, shape=SHAPE, dtype="f4", external=[("/etc/passwd", 0, 73_728)]),
        f"an array that lies in another file, '{KERNEL}'",
    ),
    "virtual dataset": (virtual, f"an array made up of other files' arrays, '{KERNEL}'"),
    "terabytes declared": (
        put(KERNEL, shape=(2**40,), dtype="f4", chunks=(2**10,)),
        f"4,398,046,511,104 bytes that are declared but not there, '{KERNEL}'",
    ),
    "the right shape without its bytes": (
        put(KERNEL, shape=SHAPE, dtype="f4", chunks=SHAPE),
        f"73,728 bytes that are declared but not there, '{KERNEL}'",
    ),
    "compressed": (compressed_bomb, f"a packed array, '{KERNEL}'"),
    "large chunks": (
        put(BIAS, data=np.zeros(64, "f4"), chunks=(2**20,), maxshape=(None,)),
        f"chunks larger than their array, '{BIAS}'",
    ),
    "another shape": (
        put(KERNEL, data=np.zeros((3, 3, 32, 65), "f4")),
        f"'{KERNEL}' of shape (3, 3, 32, 65), not (3, 3, 32, 64)",
    ),
    "as many numbers in another order": (
        put(KERNEL, data=np.zeros((3, 3, 64, 32), "f4")),
        f"'{KERNEL}' of shape (3, 3, 64, 32), not (3, 3, 32, 64)",
    ),
    "a scalar": (put(BIAS, data=np.float32(1)), f"'{BIAS}' of shape (), not (64,)"),
    "no shape": (put(BIAS, data=h5py.Empty("f4")), f"an array without a shape, '{BIAS}'"),
    "integers": (put(BIAS, data=np.zeros(64, "i8")), f"'{BIAS}' of int64, not of float32"),
    "text": (
        put(BIAS, data=["x"] * 64, dtype=h5py.string_dtype()),
        f"an array of something else than numbers, '{BIAS}'",
    ),
    "arrays of any length": (
        put(BIAS, shape=(64,), dtype=h5py.vlen_dtype("f4")),
        f"an array of something else than numbers, '{BIAS}'",
    ),
    "fields": (
        put(BIAS, data=np.zeros(64, "f4,f4")),
        f"an array of something else than numbers, '{BIAS}'",
    ),
    "references": (reference, f"an array of something else than numbers, '{KERNEL}'"),
    "a layer less": (lambda file: file.__delitem__("layers/conv2d_1"), f"no '{KERNEL}'"),
    "a weight less": (lambda file: file.__delitem__(BIAS), f"no '{BIAS}'"),
    "a layer more": (
        lambda file: file.__setitem__("layers/dense/vars/0", np.zeros(3, "f4")),
        "a weight that the network does not have, 'layers/dense/vars/0'",
    ),
    "a weight more": (
        lambda file: file.__setitem__("layers/conv2d_1/vars/2", np.zeros(3, "f4")),
        "a weight that the network does not have, 'layers/conv2d_1/vars/2'",
    ),
    "a group for an array": (
        lambda file: (file.__delitem__(BIAS), file.create_group(BIAS)),
        f"no '{BIAS}'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_trap_is_refused_unread(
    fault: str, model: keras.Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words = FAULTS[fault]
    with h5py.File(path, "a") as file:
        change(file)
    told = refusal(model, path, monkeypatch)
    assert told.startswith(words)
    assert "\n" not in told


def test_more_objects_than_any_network_has_are_refused(
    model: keras.Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_file, "MOST_OBJECTS", 20)
    assert refusal(model, path, monkeypatch) == "more than 20 groups and arrays"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("terabytes declared", "4,398,046,511,104 bytes that are declared but not there, "),
        ("another shape", "'conv2/conv2/0:0' of shape (3, 3, 32, 65), not (3, 3, 32, 64)"),
        ("external link", "a link to elsewhere, 'conv2/conv2/0:0'"),
        ("a weight more", "a weight that belongs to no layer, '/conv2/more'"),
    ],
)
def test_so_is_one_in_the_format_of_downloads(
    fault: str, words: str, model: keras.Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Path("published.h5")
    as_published(published, model)
    changes: dict[str, Change] = {
        "terabytes declared": put("conv2/conv2/0:0", shape=(2**40,), dtype="f4", chunks=(9,)),
        "another shape": put("conv2/conv2/0:0", data=np.zeros((3, 3, 32, 65), "f4")),
        "external link": link("conv2/conv2/0:0", h5py.ExternalLink("/etc/passwd", "/x")),
        "a weight more": lambda file: file.__setitem__("conv2/more", np.zeros(3, "f4")),
    }
    with h5py.File(published, "a") as file:
        changes[fault](file)
    assert refusal(model, published, monkeypatch).startswith(words)


@pytest.mark.parametrize(
    ("position", "size", "told"),
    [
        ("the first", 0, "texts that never end"),
        ("the free space", 0, "texts that never end"),
        ("the free space", 2**62, None),
    ],
)
def test_texts_at_which_hdf5_would_hang_are_refused(
    position: str,
    size: int,
    told: str | None,
    model: keras.Model,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_published(path, model)
    path = path.rename("w.h5")
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL") + 16
    while position == "the free space" and content[at : at + 2] != b"\0\0":
        at += 16 + (int.from_bytes(content[at + 8 : at + 16], "little") + 7) // 8 * 8
    content[at : at + 2] = b"\0\0"
    content[at + 8 : at + 16] = size.to_bytes(8, "little")
    path.write_bytes(content)
    if told is None:
        with contextlib.suppress(weights_file.WeightsFileError):
            weights_file.load(model, path)
    else:
        assert refusal(model, path, monkeypatch) == told


def test_lengths_of_another_size_are_refused(
    model: keras.Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    made.set_sizes(8, 4)
    h5py.File(h5py.h5f.create(b"w.h5", fcpl=made)).close()
    told = refusal(model, Path("w.h5"), monkeypatch)
    assert told == "addresses and lengths of another size than 8 bytes"


def test_layers_and_weights_are_counted_in_the_format_of_downloads(
    model: keras.Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_published(Path("published.h5"), model)
    with h5py.File("published.h5", "a") as file:
        file["conv2"].attrs["weight_names"] = [b"conv2/0:0"]
    told = refusal(model, Path("published.h5"), monkeypatch)
    assert told == "7 weights in 4 layers, not 8 in 4"


@pytest.mark.parametrize("name", ["w.keras", "w.weights.json", "w.npz", "w"])
def test_no_other_format_is_opened(
    name: str, model: keras.Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.rename(name)
    told = refusal(model, Path(name), monkeypatch)
    assert told == "a name that ends in neither .weights.h5 nor .h5"


def test_a_disk_that_fails_is_not_told_as_damage(
    model: keras.Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Unable to open file (a paragraph of HDF5's)")

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(OSError, match="Unable to open") as told:
        weights_file.load(model, path)
    assert (type(told.value), told.value.filename) == (OSError, str(path))


@pytest.mark.parametrize("length", [0, 8, 2_000, 100_000])
def test_a_file_that_was_cut_short_is_refused(
    length: int, model: keras.Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(path.read_bytes()[:length])
    assert re.fullmatch(r"[^\n]+[^.\s]", refusal(model, path, monkeypatch))


@pytest.mark.parametrize("name", ["again.weights.h5", "again.h5"])
def test_what_was_saved_is_loaded(name: str, model: keras.Model, path: Path) -> None:
    model.save_weights(name) if name.endswith("weights.h5") else as_published(Path(name), model)
    keras.utils.set_random_seed(1)
    other = build.network("convnet", None, False, None)
    assert not np.array_equal(other.get_weights()[0], model.get_weights()[0])
    weights_file.load(other, Path(name))
    for one, expected in zip(other.get_weights(), model.get_weights(), strict=True):
        assert_array_equal(one, expected)


@pytest.mark.parametrize("name", ["EfficientNetB0", "gabor"])
def test_the_paths_of_a_network_are_those_that_keras_writes(name: str, tmp_path: Path) -> None:
    network = build.network(name, None, False, None)
    network.save_weights(tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "w.weights.h5") as file:
        written = {
            path: (array.shape, array.dtype) for path, array in weights_file._arrays(file).items()
        }
    wanted = keras_private.saved_variables(network)
    assert {path: tuple(one.shape) for path, one in wanted.items()} == {
        path: shape for path, (shape, _) in written.items()
    }
    assert sum(np.prod(shape) for shape, _ in written.values()) == network.count_params()


def test_of_a_network_with_its_classifier_the_classifier_is_left_aside(tmp_path: Path) -> None:
    whole = build.network("MobileNet", None, True, None)
    path = tmp_path / "whole.weights.h5"
    whole.save_weights(path)
    base = build.network("MobileNet", None, False, path)
    assert_array_equal(base.get_weights()[0], whole.get_weights()[0])
    with h5py.File(path, "a") as file:
        file["layers/more/vars/0"] = np.zeros(3, "f4")
    with pytest.raises(Exception, match="a weight that the network does not have, 'layers/more/"):
        build.network("MobileNet", None, False, path)
