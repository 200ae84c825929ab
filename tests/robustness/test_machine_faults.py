"""Memory, disk or permissions that fail while a file is read are reported as that, not as damage.

Removing the file, which is the remedy for damage, would cost hours and fix nothing.
"""

import errno
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import zarr

from pipeline.images import sources
from pipeline.runtime.entrypoint import command
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays
from pipeline.training import head

STORE, HEAD, ZIP = Path("data/store.zarr"), Path("data/head.npz"), Path("train.zip")


def stored() -> arrays.StoredArray:
    return arrays.StoredArray(STORE)


Reader = tuple[Callable[[], object], str, object, str]
# How a file is read, the path in the sentence, and the function that fails below.
READERS: dict[str, Reader] = {
    "opening an array": (stored, str(STORE), zarr, "open_array"),
    "rows": (lambda: stored().read(0, 2), str(STORE), zarr.Array, "__getitem__"),
    "digests": (lambda: stored().digests, f"{STORE}/{arrays.DIGESTS}", np, "load"),
    "a zip": (lambda: sources.open_source(ZIP), str(ZIP), sources, "_Directory"),
    "a head": (lambda: head.load(HEAD), str(HEAD), zipfile, "ZipFile"),
}
ERRORS = {
    "error: {}: expected a disk that reads and writes": errno.EIO,
    "error: {}: expected a place to read or write": errno.EACCES,
    "error: {}: expected to open one more file": errno.EMFILE,
    "error: train_head: expected more memory, got ": 0,
}


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write an array, a head and a zip."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stages/train_head.py"])
    values = np.ones((4, 3), np.float32)
    arrays.write(STORE, [values], shape=(4, 3), dtype="f4", fingerprint="one")
    arrays.write_digests(STORE, np.zeros((4, 32), np.uint8))
    head.Head((values,), (np.zeros(3, np.float32),)).save(HEAD)
    with zipfile.ZipFile(ZIP, "w") as archive:
        archive.writestr("cat.0.jpg", b"image")


@pytest.fixture(params=list(READERS.values()), ids=list(READERS))
def reader(request: pytest.FixtureRequest) -> Reader:
    found: Reader = request.param
    return found


def fail_with(error: Exception, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(*reader[2:], fail)


@pytest.mark.parametrize("sentence", ERRORS)
def test_a_machine_that_fails_while_a_file_is_read_is_reported_as_that(
    reader: Reader,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    number = ERRORS[sentence]
    error = OSError(number, os.strerror(number)) if number else MemoryError("of 8 GiB")
    fail_with(error, reader, monkeypatch)
    assert command(lambda: (reader[0](), None)[1])() == 1
    assert capsys.readouterr().err.startswith(sentence.format(reader[1]))


def test_damage_is_still_reported_as_damage(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(OSError(errno.EINVAL, "seek before the start"), reader, monkeypatch)
    with pytest.raises(UserError, match=f"^{reader[1]}"):
        reader[0]()
