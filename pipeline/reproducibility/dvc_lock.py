"""What `dvc.lock` says of each stage: the hashes of all that it read and wrote."""

import graphlib
import hashlib
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from pipeline.runtime.errors import UserError

PATH = Path("dvc.lock")
FOLDER = ".dir"  # how the hash of a folder ends


class Locked(NamedTuple):
    """A stage as it last ran: each path with the hash of its content, each param with its value."""

    name: str
    deps: dict[str, str]
    outs: dict[str, str]
    params: dict[str, Any]


def read(path: Path) -> list[Locked]:
    """The stages of a `dvc.lock`, each behind those whose outputs it reads.

    Where entries of stages that are no more close a circle, they stand as they do in the file.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        stages = {
            name: Locked(
                name,
                _hashes(given.get("deps", [])),
                _hashes(given.get("outs", [])),
                {
                    f"{file} {key}": value
                    for file, values in given.get("params", {}).items()
                    for key, value in values.items()
                },
            )
            for name, given in content["stages"].items()
        }
    except FileNotFoundError:
        raise UserError(
            f"{path}: expected what the last run wrote, got no such file; run `dvc repro` first"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
        raise UserError(
            f"{path}: expected what DVC writes, got a damaged file; `git checkout {path.name}`, "
            "then `dvc repro`"
        ) from None
    made_by = {out: name for name, stage in stages.items() for out in stage.outs}
    graph = {
        name: {made_by[path] for path in stage.deps if path in made_by}
        for name, stage in stages.items()
    }
    try:
        return [stages[name] for name in graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError:
        return list(stages.values())


def _hashes(entries: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["path"]: str(entry[entry.get("hash", "md5")]) for entry in entries}


def cache_of(repo: Any) -> Path:
    """The folder of a `dvc.repo.Repo`'s cache, above `files/md5`."""
    return Path(repo.cache.local.path).parent.parent


def digest(repo: Any, path: Path) -> str:
    """DVC's hash of a file or folder, computed anew (as `dvc_data.hashfile.tree` does).

    Args:
        repo: the `dvc.repo.Repo` that it lies in, for what `.dvcignore` leaves out.
        path: of it.
    """
    if path.is_file():
        return md5(path)
    files = sorted(
        (Path(found).relative_to(os.path.abspath(path)).as_posix(), Path(found))
        for found in repo.dvcignore.find(repo.fs, os.path.abspath(path))
    )
    listed = [{"md5": md5(found), "relpath": name} for name, found in files]
    text = json.dumps(listed, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + FOLDER


def md5(path: Path) -> str:
    """Of a file's bytes, in hex: what DVC goes by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def in_cache(cache: Path, digest: str) -> Path:
    """Where DVC's cache keeps what has that hash (DVC 3: `files/md5`)."""
    return cache / "files" / "md5" / digest[:2] / digest[2:]


def members(cache: Path, digest: str) -> dict[str, Path] | None:
    """The cached files of an output by their names in it, "" for one that is a file.

    None if the list of a folder's files is not in the cache; the files themselves may be missing.

    Raises:
        UserError: that list is damaged, or names what lies outside of the folder.
    """
    listed = in_cache(cache, digest)
    if not digest.endswith(FOLDER):
        return {"": listed}
    if not listed.is_file():
        return None
    try:
        entries = json.loads(listed.read_text(encoding="utf-8"))
        return {
            _inside(entry["relpath"]): in_cache(cache, _hash(entry["md5"])) for entry in entries
        }
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{listed}: expected a list of files, got a damaged one; remove it, then `dvc pull` or "
            "`dvc repro`"
        ) from None


def _inside(name: str) -> str:
    """Refuse a name that leads out of its folder: whoever writes to a cache may forge a list."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(name)
    return name


def _hash(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{32}", text):
        raise ValueError(text)
    return text
