"""Memory, disk or permissions that fail while a file is read are reported as that, not as damage.

Removing the file, which is the remedy for damage, would cost hours and fix nothing.
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
from pipeline.runtime.entrypoint import command
from pipeline.runtime.errors import UserError, of_the_machine
from pipeline.storage import arrays, sealed_files
from pipeline.training import head

STORE, NPZ, HEAD = Path("data/store.zarr"), Path("data/arrays.npz"), Path("data/head.npz")


class Reader(NamedTuple):
    """A reader, the file that its sentence names, and the function below it that fails."""

    read: Callable[[], object]
    names: str
    fails: tuple[object, str]


READERS = {
    "opening an array": Reader(
        lambda: arrays.StoredArray(STORE), str(STORE), fails=(zarr, "open_array")
    ),
    "rows": Reader(
        lambda: arrays.StoredArray(STORE).read(0, 2), str(STORE), fails=(zarr.Array, "__getitem__")
    ),
    "digests": Reader(
        lambda: arrays.StoredArray(STORE).digests, f"{STORE}/{arrays.DIGESTS}", fails=(np, "load")
    ),
    "a head": Reader(lambda: head.load(HEAD), str(HEAD), fails=(zipfile, "ZipFile")),
    "a checkpoint": Reader(
        lambda: sealed_files.read_arrays(NPZ, "mine"), str(NPZ), fails=(np, "load")
    ),
}
ZIP = Path("train.zip")


class Failing(io.BytesIO):
    """A file that fails at one position."""

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
    """Write an array and an npz."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stages/train_head.py"])
    values = np.ones((4, 3), np.float32)
    arrays.write(STORE, [values], shape=(4, 3), dtype="f4", fingerprint="one")
    arrays.write_digests(STORE, np.zeros((4, 32), np.uint8))
    sealed_files.write_arrays(NPZ, "mine", {"kernel": values})
    head.Head((values,), (np.zeros(3, np.float32),)).save(HEAD)


def failing(error: Exception, fails: tuple[object, str], patch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    patch.setattr(*fails, fail)


@pytest.mark.parametrize("number", SENTENCES, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", READERS)
def test_a_disk_that_fails_while_a_file_is_read_is_reported_as_that(
    name: str, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = READERS[name]
    failing(OSError(number, os.strerror(number)), reader.fails, monkeypatch)
    assert command(lambda: (reader.read(), None)[1])() == 1
    assert capsys.readouterr().err == f"error: {reader.names}: {SENTENCES[number]}\n"


@pytest.mark.parametrize("name", READERS)
def test_a_lack_of_memory_while_a_file_is_read_is_reported_as_that(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = READERS[name]
    failing(MemoryError("Unable to allocate 8.00 GiB"), reader.fails, monkeypatch)
    assert command(lambda: (reader.read(), None)[1])() == 1
    assert capsys.readouterr().err == (
        f"error: train_head: expected more memory, got 'Unable to allocate 8.00 GiB'; {LESS}\n"
    )


@pytest.mark.parametrize("name", READERS)
def test_damage_is_still_reported_as_damage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
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

    @command
    def read() -> None:
        with sources.open_source(ZIP) as found:
            found.read("cat.0.jpg")

    assert read() == 1
    assert capsys.readouterr().err == f"error: {ZIP}: {SENTENCES[number]}\n"


def test_an_error_that_has_a_name_keeps_it() -> None:
    named = PermissionError(errno.EACCES, "Permission denied", "data/store.zarr/c/0")
    assert of_the_machine(named, STORE)
    assert named.filename == "data/store.zarr/c/0"
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory")
    assert not of_the_machine(missing, STORE)
    assert missing.filename is None
