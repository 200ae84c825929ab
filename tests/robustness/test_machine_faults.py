"""Memory, disk or permissions that fail while a file is read: that is told, not that it is damaged.

Removing the file, which is the remedy for damage, would cost hours and mend nothing.
"""

import errno
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import zarr

from pipeline.images import sources
from pipeline.runtime import atomic_files
from pipeline.runtime.entrypoint import script
from pipeline.runtime.errors import UserError, of_the_machine
from pipeline.storage import arrays, places
from pipeline.training import head, npz

STORE, NPZ = Path("data/store.zarr"), Path("data/arrays.npz")


class Reader(NamedTuple):
    """What is read, the file that it then names, and the function below it that will fail."""

    read: Callable[[], object]
    names: str
    fails: tuple[object, str]


READERS = {
    "opening an array": Reader(lambda: arrays.Rows(STORE), str(STORE), fails=(zarr, "open_array")),
    "rows": Reader(
        lambda: arrays.Rows(STORE).read(0, 2), str(STORE), fails=(zarr.Array, "__getitem__")
    ),
    "digests": Reader(
        lambda: arrays.Rows(STORE).digests, f"{STORE}/{arrays.DIGESTS}", fails=(np, "load")
    ),
    "a head": Reader(lambda: head.load(NPZ), str(NPZ), fails=(npz, "read")),
    "a checkpoint": Reader(
        lambda: atomic_files.read_arrays(NPZ, "mine"), str(NPZ), fails=(np, "load")
    ),
}
ZIP = Path("train.zip")


class Failing(io.BytesIO):
    """A file that fails once its reader comes to a place in it."""

    def __init__(self, content: bytes, number: int, at: int) -> None:
        super().__init__(content)
        self.number, self.at = number, at

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() == self.at:
            raise OSError(self.number, os.strerror(self.number))
        return super().read(size)


SENTENCES = {
    errno.EIO: (
        "expected a disk that reads and writes, got 'Input/output error'; nothing half-written was "
        "kept, see the system's log for what the disk says"
    ),
    errno.EACCES: "expected a place to read or write, got 'Permission denied'; check permissions",
    errno.EMFILE: (
        "expected to open one more file, got 'Too many open files'; raise the limit (`ulimit -n`)"
    ),
}
LESS = "end other programs, or lower STAGES_MEMORY_GIB or a batch_size in params.yaml"


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store and an npz, both whole."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stages/train_head.py"])
    values = np.ones((4, 3), np.float32)
    arrays.write(STORE, [values], shape=(4, 3), dtype="f4", fingerprint="one")
    arrays.write_digests(STORE, np.zeros((4, 32), np.uint8))
    atomic_files.write_arrays(NPZ, "mine", {"kernel": values})


def failing(error: Exception, fails: tuple[object, str], patch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    patch.setattr(*fails, fail)


@pytest.mark.parametrize("number", SENTENCES, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", READERS)
def test_a_disk_that_fails_while_a_file_is_read_is_told_as_that(
    name: str, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = READERS[name]
    failing(OSError(number, os.strerror(number)), reader.fails, monkeypatch)
    assert script(lambda: (reader.read(), None)[1])() == 1
    assert capsys.readouterr().err == f"error: {reader.names}: {SENTENCES[number]}\n"


@pytest.mark.parametrize("name", READERS)
def test_a_lack_of_memory_while_a_file_is_read_is_told_as_that(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = READERS[name]
    failing(MemoryError("Unable to allocate 8.00 GiB"), reader.fails, monkeypatch)
    assert script(lambda: (reader.read(), None)[1])() == 1
    assert capsys.readouterr().err == (
        f"error: train_head: expected more memory, got 'Unable to allocate 8.00 GiB'; {LESS}\n"
    )


@pytest.mark.parametrize("name", READERS)
def test_damage_is_still_told_as_damage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = READERS[name]
    failing(OSError(errno.EINVAL, "seek before the start"), reader.fails, monkeypatch)
    if name == "a checkpoint":  # training starts over
        assert reader.read() is None
    else:
        with pytest.raises(UserError, match=r"seek before the start|Invalid argument"):
            reader.read()


@pytest.mark.parametrize("number", SENTENCES, ids=errno.errorcode.get)
@pytest.mark.parametrize("place", ["its directory", "a photo"])
def test_a_disk_that_fails_in_a_zip_is_no_reason_to_download_it_again(
    place: str, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(ZIP, "w") as archive:
        archive.writestr("cat.0.jpg", b"photo")
        start = archive.start_dir
    content = ZIP.read_bytes()

    def opened(path: Path, mode: str = "r") -> Failing:
        assert (path, mode) == (ZIP, "rb")
        return Failing(content, number, start if place == "its directory" else 0)

    monkeypatch.setattr(Path, "open", opened)

    @script
    def read() -> None:
        with sources.open_source(ZIP) as found:
            found.read("cat.0.jpg")

    assert read() == 1
    assert capsys.readouterr().err == f"error: {ZIP}: {SENTENCES[number]}\n"


def test_a_store_elsewhere_lets_a_lack_of_memory_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(MemoryError("none"), (places, "filesystem"), monkeypatch)
    with pytest.raises(MemoryError), places.replacing("memory://bucket/store.zarr"):
        pass


def test_memory_that_numpy_does_not_get_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @script
    def ask() -> None:
        np.empty(2**55)

    assert ask() == 1
    assert capsys.readouterr().err == (
        "error: train_head: expected more memory, got 'Unable to allocate 256. PiB for an array "
        f"with shape (36028797018963968,) and data type float64'; {LESS}\n"
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "none left"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate\n2 GiB"), "CUDA out of memory. Tried"),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), "RESOURCE_EXHAUSTED"),
        (RuntimeError("OOM " + "x" * 900), "OOM " + "x" * 196 + "...'"),
    ],
)
def test_memory_that_python_or_the_system_lacks_is_one_sentence(
    error: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @script
    def ask() -> None:
        raise error

    assert ask() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: train_head: expected more memory, got '{told}")
    assert said.endswith(f"'; {LESS}\n")


def test_memory_that_tensorflow_does_not_get_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ops = pytest.importorskip("keras").ops

    @script
    def ask() -> None:
        ops.zeros((2**25, 2**20)) + 1

    assert ask() == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: train_head: expected more memory, got '")
    assert said[-1].endswith(f"'; {LESS}")
    assert "Traceback" not in said


def test_a_file_that_is_named_like_a_lack_of_memory_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @script
    def write() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "OOM/out of memory.csv")

    assert write() == 1
    assert capsys.readouterr().err.startswith("error: OOM/out of memory.csv: expected room on the")


def test_an_error_that_is_no_lack_of_memory_keeps_its_traceback() -> None:
    @script
    def ask() -> None:
        raise RuntimeError("a ROOM of memory")

    with pytest.raises(RuntimeError, match="a ROOM"):
        ask()


def test_an_error_that_has_a_name_keeps_it() -> None:
    named = PermissionError(errno.EACCES, "Permission denied", "data/store.zarr/c/0")
    assert of_the_machine(named, STORE)
    assert named.filename == "data/store.zarr/c/0"
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory")
    assert not of_the_machine(missing, STORE)
    assert missing.filename is None
