"""A weights file is refused by what it declares, before any of its contents is read."""

import contextlib
import errno
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import legacy_weights
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from pipeline.backbones import build, keras_private, weights_file
from pipeline.backbones.weights_file import WeightsFileError

KERNEL, BIAS = "layers/conv2d_1/vars/0", "layers/conv2d_1/vars/1"
SHAPE = (3, 3, 32, 64)
Change = Callable[[h5py.File], object]
Refusal = Callable[[Path], str]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return build.network("convnet", None, False, None)


@pytest.fixture
def path(model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    model.save_weights("w.weights.h5")
    return Path("w.weights.h5")


@pytest.fixture
def legacy(model: keras.Model, path: Path) -> Path:
    legacy_weights.save(Path("w.h5"), model)
    return Path("w.h5")


@pytest.fixture
def refusal(model: keras.Model, monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """The reason; no array may be read, and nothing be left to Keras."""

    def read(*_: object, **__: object) -> None:
        raise AssertionError("contents were read")

    def refusal(path: Path) -> str:
        with monkeypatch.context() as closed:
            for name in ("__getitem__", "__array__", "read_direct"):
                closed.setattr(h5py.Dataset, name, read)
            closed.setattr(keras.Model, "load_weights", read)
            with pytest.raises(WeightsFileError) as refused:
                weights_file.load(model, path)
        return str(refused.value)

    return refusal


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


def link(name: str, to: object) -> Change:
    return lambda file: (file.__delitem__(name), file.__setitem__(name, to))


def hard_link(name: str, to: str) -> Change:
    return lambda file: file.__setitem__(name, file[to])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", SHAPE)
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


EXTERNAL = h5py.ExternalLink("/etc/passwd", "/x")
LAYER = "layers/conv2d_1"
NO_NUMBERS = "an array of something else than numbers"
NEW_FORMAT: dict[str, tuple[Change, str]] = {
    "external link": (link(KERNEL, EXTERNAL), f"a link to elsewhere, '{KERNEL}'"),
    "soft link": (link(KERNEL, h5py.SoftLink(f"/{BIAS}")), f"a link to elsewhere, '{KERNEL}'"),
    "soft link beside": (add("more", h5py.SoftLink("/nowhere")), "a link to elsewhere, 'more'"),
    "circle": (hard_link(f"{LAYER}/again", "layers"), "two names for one object, the second is "),
    "one array twice": (
        hard_link(f"{LAYER}/vars/2", BIAS),
        f"two names for one object, the second is '{LAYER}/vars/",
    ),
    "named type": (
        add(f"{LAYER}/vars/type", np.dtype("f4")),
        f"neither a group nor an array, '{LAYER}/vars/type'",
    ),
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
    "compressed": (
        put(KERNEL, data=np.zeros(SHAPE, "f4"), chunks=SHAPE, compression="gzip"),
        f"a packed array, '{KERNEL}'",
    ),
    "large chunks": (
        put(BIAS, data=np.zeros(64, "f4"), chunks=(2**20,), maxshape=(None,)),
        f"chunks larger than their array, '{BIAS}'",
    ),
    "another shape": (
        put(KERNEL, data=np.zeros((3, 3, 32, 65), "f4")),
        f"'{KERNEL}' of shape (3, 3, 32, 65), not (3, 3, 32, 64)",
    ),
    "a scalar": (put(BIAS, data=np.float32(1)), f"'{BIAS}' of shape (), not (64,)"),
    "no shape": (put(BIAS, data=h5py.Empty("f4")), f"an array without a shape, '{BIAS}'"),
    "integers": (put(BIAS, data=np.zeros(64, "i8")), f"'{BIAS}' of int64, not of float32"),
    "text": (
        put(BIAS, data=["x"] * 64, dtype=h5py.string_dtype()),
        f"{NO_NUMBERS}, '{BIAS}'",
    ),
    "arrays of any length": (
        put(BIAS, shape=(64,), dtype=h5py.vlen_dtype("f4")),
        f"{NO_NUMBERS}, '{BIAS}'",
    ),
    "references": (put(BIAS, shape=(64,), dtype=h5py.ref_dtype), f"{NO_NUMBERS}, '{BIAS}'"),
    "a missing layer": (delete(LAYER), f"no '{KERNEL}'"),
    "a missing weight": (delete(BIAS), f"no '{BIAS}'"),
    "a surplus layer": (
        add("layers/dense/vars/0", np.zeros(3, "f4")),
        "a weight that the network does not have, 'layers/dense/vars/0'",
    ),
    "a surplus weight": (
        add(f"{LAYER}/vars/2", np.zeros(3, "f4")),
        f"a weight that the network does not have, '{LAYER}/vars/2'",
    ),
    "a group for an array": (
        lambda file: (file.__delitem__(BIAS), file.create_group(BIAS)),
        f"no '{BIAS}'",
    ),
}
LEGACY_FORMAT: dict[str, tuple[Change, str]] = {
    "legacy: terabytes declared": (
        put("conv2/conv2/0:0", shape=(2**40,), dtype="f4", chunks=(9,)),
        "4,398,046,511,104 bytes that are declared but not there, ",
    ),
    "legacy: another shape": (
        put("conv2/conv2/0:0", data=np.zeros((3, 3, 32, 65), "f4")),
        "'conv2/conv2/0:0' of shape (3, 3, 32, 65), not (3, 3, 32, 64)",
    ),
    "legacy: external link": (
        link("conv2/conv2/0:0", EXTERNAL),
        "a link to elsewhere, 'conv2/conv2/0:0'",
    ),
    "legacy: a surplus weight": (
        add("conv2/more", np.zeros(3, "f4")),
        "a weight that belongs to no layer, '/conv2/more'",
    ),
    "legacy: a missing name": (
        lambda file: file["conv2"].attrs.__setitem__("weight_names", [b"conv2/0:0"]),
        "7 weights in 4 layers, not 8 in 4",
    ),
}


@pytest.mark.parametrize("fault", [*NEW_FORMAT, *LEGACY_FORMAT])
def test_a_trap_is_refused_unread(fault: str, legacy: Path, refusal: Refusal) -> None:
    change, reason = (NEW_FORMAT | LEGACY_FORMAT)[fault]
    path = legacy if fault in LEGACY_FORMAT else Path("w.weights.h5")
    with h5py.File(path, "a") as file:
        change(file)
    assert refusal(path).startswith(reason)


def test_more_objects_than_any_network_has_are_refused(
    path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_file, "MAX_OBJECTS", 20)
    assert refusal(path) == "more than 20 groups and arrays"


@pytest.mark.parametrize(("free_space", "size"), [(False, 0), (True, 0), (True, 2**62)])
def test_heaps_at_which_hdf5_would_hang_are_refused(
    free_space: bool, size: int, model: keras.Model, legacy: Path, refusal: Refusal
) -> None:
    content = bytearray(legacy.read_bytes())
    at = content.index(b"GCOL") + 16
    while free_space and content[at : at + 2] != b"\0\0":
        at += 16 + (int.from_bytes(content[at + 8 : at + 16], "little") + 7) // 8 * 8
    content[at : at + 2] = b"\0\0"
    content[at + 8 : at + 16] = size.to_bytes(8, "little")
    legacy.write_bytes(content)
    if size:
        with contextlib.suppress(WeightsFileError):
            weights_file.load(model, legacy)
    else:
        assert refusal(legacy) == "texts that never end"


def test_lengths_of_another_size_are_refused(path: Path, refusal: Refusal) -> None:
    properties = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    properties.set_sizes(8, 4)
    h5py.File(h5py.h5f.create(b"w.h5", fcpl=properties)).close()
    assert refusal(Path("w.h5")) == "addresses and lengths of another size than 8 bytes"


@pytest.mark.parametrize("name", ["w.keras", "w.weights.json", "w.npz", "w"])
def test_no_other_format_is_opened(name: str, path: Path, refusal: Refusal) -> None:
    assert refusal(path.rename(name)) == "a name that ends in neither .weights.h5 nor .h5"


@pytest.mark.parametrize("length", [0, 8, 2_000, 100_000])
def test_a_truncated_file_is_refused_in_one_line(length: int, path: Path, refusal: Refusal) -> None:
    path.write_bytes(path.read_bytes()[:length])
    assert re.fullmatch(r"[^\n]+[^.\s]", refusal(path))


def test_a_failing_disk_is_not_reported_as_damage(
    model: keras.Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Unable to open file (a paragraph of HDF5's)")

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(OSError, match="Unable to open") as failed:
        weights_file.load(model, path)
    assert (type(failed.value), failed.value.filename) == (OSError, str(path))


@pytest.mark.parametrize("name", ["w.weights.h5", "w.h5"])
def test_saved_weights_are_loaded(name: str, model: keras.Model, legacy: Path) -> None:
    keras.utils.set_random_seed(1)
    other = build.network("convnet", None, False, None)
    assert not np.array_equal(other.get_weights()[0], model.get_weights()[0])
    weights_file.load(other, Path(name))
    for one, expected in zip(other.get_weights(), model.get_weights(), strict=True):
        assert_array_equal(one, expected)


@pytest.mark.parametrize("name", ["EfficientNetB0", "gabor"])
def test_variables_are_expected_at_the_paths_that_keras_writes(name: str, tmp_path: Path) -> None:
    network = build.network(name, None, False, None)
    network.save_weights(tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "w.weights.h5") as file:
        written = {path: array.shape for path, array in weights_file._arrays(file).items()}
    variables = keras_private.saved_variables(network)
    assert {path: tuple(variable.shape) for path, variable in variables.items()} == written
    assert sum(map(np.prod, written.values())) == network.count_params()


def test_the_classifier_of_a_complete_network_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "complete.weights.h5"
    complete = build.network("MobileNet", None, True, None)
    complete.save_weights(path)
    base = build.network("MobileNet", None, False, path)
    assert_array_equal(base.get_weights()[0], complete.get_weights()[0])
    with h5py.File(path, "a") as file:
        file["layers/more/vars/0"] = np.zeros(3, "f4")
    with pytest.raises(Exception, match="a weight that the network does not have, 'layers/more/"):
        build.network("MobileNet", None, False, path)
