"""Where an array lies: a path on this machine, or the URL of an object store.

A URL is one that fsspec knows (`s3://bucket/resized.zarr`, `gs://`, `abfs://`, ...), with the
package for its scheme installed and credentials where that package looks for them. So the workers
of a cluster that share no disk can share arrays. Paths stay what they are.
"""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError

Place = Path | str  # a str is a URL


def place(text: str) -> Place:
    """What a command line names."""
    return text.rstrip("/") if "://" in text else Path(text)


def absolute(where: Place) -> Place:
    """The same place, wherever the process runs that is told it."""
    return where.resolve() if isinstance(where, Path) else where


def filesystem(where: Place) -> tuple[Any, str]:
    """The fsspec file system of a place, and the place's path in it.

    Raises:
        UserError: no package for the URL's scheme.
    """
    try:
        found, path = fsspec.core.url_to_fs(str(where))
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{where}: expected a URL of a scheme that an installed package reads, got "
            f"{_told(error)!r}; install it (`pip install s3fs` for s3://), or name a folder"
        ) from None
    found.invalidate_cache()  # of listings: another process may have written there
    return found, str(path)


def require(where: Place, stage: str) -> Place:
    """Give `where` back, or say which stage writes it, as `files.require` does."""
    if isinstance(where, Path):
        return atomic_files.require(where, stage)
    with _reached(where):
        system, path = filesystem(where)
        there = system.exists(path)
    if not there:
        raise UserError(
            f"{where}: expected the output of `{stage}`, got nothing at that URL; write it first "
            f"by `python -m stages.{stage.partition('@')[0]}`, which tells its arguments"
        )
    return where


@contextlib.contextmanager
def replacing(where: Place, tag: str = "") -> Iterator[Place]:
    """Yield a temporary place beside `where`; move it there once the block has ended well.

    A path is replaced as `files.replacing` does. An object store renames nothing in one step: there
    a folder is moved object by object, and an array that is cut short lacks shards, which no reader
    takes for a whole one. Nothing locks a URL; one run at a time is the caller's care.
    """
    if isinstance(where, Path):
        with atomic_files.replacing(where, tag) as partial:
            yield partial
        return
    parent, _, name = where.rpartition("/")
    ours = f"{parent}/.partial-{tag or uuid.uuid4().hex}{name}"
    with _reached(where):
        system, target = filesystem(where)
        _, source = filesystem(ours)
        folder = target.rpartition("/")[0]
        for stray in system.glob(f"{folder}/.partial-{'[0-9a-f]' * atomic_files.TAG}{name}"):
            system.rm(stray, recursive=True)
    try:
        yield ours
        with _reached(where):
            if system.exists(target):
                system.rm(target, recursive=True)
            for found in sorted(system.find(source)):
                moved = target + found.removeprefix(source)
                system.makedirs(moved.rpartition("/")[0], exist_ok=True)
                system.mv(found, moved)
    finally:
        with contextlib.suppress(Exception):  # what goes wrong is told; a stray goes next time
            if system.exists(source):
                system.rm(source, recursive=True)


@contextlib.contextmanager
def _reached(where: str) -> Iterator[None]:
    """Every package has errors of its own for a wrong address, no network and no permission."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"{where}: expected a store that can be reached, got {_told(error)!r}; check the "
            "address, the network and the credentials"
        ) from None


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
