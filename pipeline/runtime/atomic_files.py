"""Outputs that appear whole or not at all, and are written by one process at a time.

`replacing(path)` hands out a temporary path beside `path`; what the caller has built there, a file
or a folder, is fsynced and renamed to `path` when the block ends without an error. Until then a
previous `path` stays as it was. The names in work, `.partial-NAME` and `.NAME.lock`, are ignored by
git and DVC.
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
    """Yield a temporary path beside `path`; rename it to `path` once the block has ended well.

    The extension is kept, since some writers choose their format by it. What an earlier, killed run
    left under the temporary name is removed first. Where others write there, too, and may outlive
    this process, a `tag` of `TAG` digits keeps them out of the next run's way.

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
            _take_the_place(partial, path, aside)
            _fsync(path.parent)
        except OSError as error:
            # A write that finds no room tells no name, and a temporary name says little.
            told = error.filename
            if (told is None and error.errno in FULL) or str(told).startswith(str(partial)):
                error.filename = str(path)
            raise
        finally:
            _remove_if_possible(partial)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with `\\n` line ends, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def copy_folder(source: Path, target: Path) -> None:
    """Copy all files below `source` to the new folder `target`.

    Unlike `shutil.copytree`, it stops at the first fault with that fault's own `OSError`.
    """
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def sha256(path: Path) -> str:
    """The hash of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require(path: Path, stage: str) -> Path:
    """Give `path` back, or say which stage writes it.

    Raises:
        UserError: nothing is there, as when a stage is started by hand without its inputs.
    """
    if not path.exists():
        raise UserError(
            f"{path}: expected the output of `{stage}`, got nothing at that path; "
            f"run `dvc repro {stage}` first"
        )
    return path


@contextlib.contextmanager
def only_writer(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold `.NAME.lock` beside `path`; the kernel lets go of it when the process ends, however.

    Raises:
        UserError: another process holds it, and this one is not to `wait`.
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


def _take_the_place(partial: Path, path: Path, aside: Path) -> None:
    """Only a file can take another file's place in one step; a folder is put aside before."""
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
        error.filename = str(path)  # rmtree names what is inside, without the folders above
        if error.errno != errno.ENOTEMPTY:  # a worker of an interrupted run still writes there
            raise


def _remove_if_possible(path: Path) -> None:
    """What stays goes next time; nothing is wrong with the output."""
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
    """Flush one file or one folder's list of names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
