"""Write outputs atomically, one process at a time.

`replacing(path)` yields a temporary path beside `path`. The file or folder that the caller creates
there is fsynced and renamed to `path` when the block ends without an error; until then a previous
`path` stays as it was. Git and DVC ignore the temporary names, `.partial-*` and `.NAME.lock`.
"""

import contextlib
import fcntl
import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.runtime.errors import FULL, UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` at the end of the block.

    It has the same extension, by which some writers choose a format. It is new each time, as a
    worker of an interrupted run may still write to the last one; what such a run left is removed.
    A `UserError` says that another process is writing `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(path):
        _remove_temporary(path)
        partial = _temporary(path)
        try:
            yield partial
            for written in (partial, *partial.rglob("*")):
                _fsync(written)
            if path.is_dir() or (path.exists() and partial.is_dir()):
                path.replace(_temporary(path))  # a folder cannot be replaced in one step
            partial.replace(path)
            _fsync(path.parent)
        except OSError as error:
            # A full disk gives no name, and users do not know the temporary one.
            name = error.filename
            if (name is None and error.errno in FULL) or str(name).startswith(str(partial)):
                error.filename = str(path)
            raise
        finally:
            _remove_temporary(path)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8 with `\\n` line ends."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def copy_folder(source: Path, target: Path) -> None:
    """Copy all files to a new folder; unlike `shutil.copytree`, raise the first `OSError`."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def require_room(probe: Path, size: int) -> None:
    """Write and remove `size` bytes; an `OSError`, which TensorFlow and OpenVINO hide, if full."""
    try:
        with probe.open("wb", buffering=0) as file:
            while file.tell() < size:
                file.write(bytes(2**20))
    finally:
        probe.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require(path: Path, stage: str) -> Path:
    """Return `path` if it exists; a `UserError` names the stage that writes it."""
    if not path.exists():
        raise UserError(
            f"{path}: expected the output of `{stage}`, got nothing at that path; "
            f"run `dvc repro {stage}` first"
        )
    return path


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Lock `.NAME.lock` beside `path` or raise a `UserError`; the end of the process unlocks it."""
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{path}: expected to be its only writer, got a second one at work on it; "
                "wait for the other run to end, or stop it"
            ) from None
        yield


def _temporary(path: Path) -> Path:
    return path.with_name(f".partial-{uuid.uuid4().hex}-{path.name}")


def _remove_temporary(path: Path) -> None:
    """Remove all temporary files and folders of a path, as far as possible."""
    for stray in path.parent.glob(f".partial-{'?' * 32}-{glob.escape(path.name)}"):
        if stray.is_dir() and not stray.is_symlink():
            shutil.rmtree(stray, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                stray.unlink()


def _fsync(path: Path) -> None:
    """Flush a file, or the list of names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
