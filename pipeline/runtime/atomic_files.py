"""Write outputs atomically, one process at a time.

`replacing(path)` yields a temporary path beside `path`. The file or folder that the caller creates
there is fsynced and renamed to `path` when the block ends without an error; until then a previous
`path` stays as it was. Git and DVC ignore the temporary names, `.partial-NAME` and `.NAME.lock`.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.runtime.errors import FULL, UserError

TAG = 32  # hexadecimal digits of a tag


@contextlib.contextmanager
def replacing(path: Path, tag: str = "") -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` at the end of the block.

    It has the same extension, by which some writers choose a format. Remains of a killed run are
    removed first. If other processes write there that may outlive this one, a `tag` of `TAG` digits
    keeps them from writing into the output of the next run.

    Raises:
        UserError: another process is writing `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{tag}{path.name}")
    with only_writer(path):
        tagged = path.parent.glob(f".partial-{'[0-9a-f]' * TAG}{path.name}")
        aside = path.with_name(f".partial-old-{path.name}")
        for stray in (partial, aside, *tagged):
            _remove(stray)
        try:
            yield partial
            _sync(partial)
            _replace(partial, path, aside)
            _fsync(path.parent)
        except OSError as error:
            # A full disk gives no name, and users do not know the temporary one.
            name = error.filename
            if (name is None and error.errno in FULL) or str(name).startswith(str(partial)):
                error.filename = str(path)
            raise
        finally:
            _remove_if_possible(partial)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8 with `\\n` line ends."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def copy_folder(source: Path, target: Path) -> None:
    """Copy all files below `source` to the new folder `target`.

    Unlike `shutil.copytree`, stop at the first fault and raise its own `OSError`.
    """
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require(path: Path, stage: str) -> Path:
    """Return `path` if it exists.

    Raises:
        UserError: it does not, and `stage` writes it.
    """
    if not path.exists():
        raise UserError(
            f"{path}: expected the output of `{stage}`, got nothing at that path; "
            f"run `dvc repro {stage}` first"
        )
    return path


@contextlib.contextmanager
def only_writer(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock `.NAME.lock` beside `path`; the kernel unlocks it when the process ends in any way.

    Raises:
        UserError: another process has locked it, and `wait` is false.
    """
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{path}: expected to be its only writer, got a second one at work on it; "
                "wait for the other run to end, or stop it"
            ) from None
        yield
    finally:
        os.close(lock)


def _replace(partial: Path, path: Path, aside: Path) -> None:
    """Rename `partial` to `path`. A folder cannot be replaced in one step: rename it first."""
    folder = path.is_dir() and not path.is_symlink()
    if not path.exists() or not (folder or partial.is_dir()):
        partial.replace(path)
        return
    path.replace(aside)
    try:
        partial.replace(path)
    except BaseException:
        aside.replace(path)
        raise
    _remove_if_possible(aside)


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        error.filename = str(path)  # rmtree names a file inside, without its folder
        if error.errno != errno.ENOTEMPTY:  # a worker of an interrupted run still writes there
            raise


def _remove_if_possible(path: Path) -> None:
    """Remove a path or leave it to the next run; the output is complete."""
    with contextlib.suppress(OSError):
        _remove(path)


def _sync(path: Path) -> None:
    if path.is_dir():
        for folder, _, names in os.walk(path, topdown=False):
            for name in names:
                _fsync(Path(folder) / name)
            _fsync(Path(folder))
    else:
        _fsync(path)


def _fsync(path: Path) -> None:
    """Flush a file, or the list of names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
