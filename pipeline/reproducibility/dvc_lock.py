"""Read `dvc.lock`, the hashes and parameters of each stage's last run, and DVC's cache folder."""

import graphlib
import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from pipeline.runtime.errors import UserError

PATH = Path("dvc.lock")
FOLDER = ".dir"  # suffix of a folder's hash


class Locked(NamedTuple):
    """A stage as it last ran: hashes by path, and values by parameter file and key."""

    name: str
    deps: dict[str, str]
    outs: dict[str, str]
    params: dict[str, dict[str, Any]]


def read(path: Path = PATH) -> list[Locked]:
    """Read the stages, each behind those that write its inputs.

    If entries of removed stages form a cycle, the order is that of the file.
    """
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        stages = {
            name: Locked(
                name,
                _hashes(entry.get("deps", [])),
                _hashes(entry.get("outs", [])),
                {file: dict(values) for file, values in entry.get("params", {}).items()},
            )
            for name, entry in content["stages"].items()
        }
    except FileNotFoundError:
        raise UserError(
            f"{path}: expected the record of the last run, got no such file; run `dvc repro` first"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError, ValueError):
        raise UserError(
            f"{path}: expected a file written by DVC, got a damaged one; `git checkout "
            f"{path.name}`, then `dvc repro`"
        ) from None
    graph = {
        name: {
            other
            for other, writer in stages.items()
            for out in writer.outs
            if other != name and any(overlap(path, out) for path in (*stage.deps, *stage.params))
        }
        for name, stage in stages.items()
    }
    try:
        return [stages[name] for name in graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError:
        return list(stages.values())


def overlap(path: str, out: str) -> bool:
    """Return whether one path is the other or lies in it, as `data/features/a.zarr`."""
    return path == out or path.startswith(f"{out}/") or out.startswith(f"{path}/")


def _hashes(entries: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["path"]: str(entry[entry.get("hash", "md5")]) for entry in entries}


def md5(path: Path) -> str:
    """Return the md5 of a file's bytes in hex, which DVC identifies content by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def in_cache(cache: Path, digest: str) -> Path:
    """Return where the cache of DVC 3 keeps the content with that hash."""
    return cache / "files" / "md5" / digest[:2] / digest[2:]


def members(cache: Path, digest: str) -> dict[str, Path] | None:
    """Return the cached files of an output by their names in it; "" for a file.

    None if the list of a folder's files is not in the cache; the files themselves may be absent.
    """
    listed = in_cache(cache, digest)
    if not digest.endswith(FOLDER):
        return {"": listed}
    if not listed.is_file():
        return None
    try:
        entries = json.loads(listed.read_text(encoding="utf-8"))
        return dict(_member(cache, entry["relpath"], entry["md5"]) for entry in entries)
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{listed}: expected a list of files, got a damaged one; remove it, then `dvc pull` or "
            "`dvc repro`"
        ) from None


def _member(cache: Path, name: str, digest: str) -> tuple[str, Path]:
    """Refuse a name that leads out of its folder: anyone who can write to a cache can forge one."""
    path = PurePosixPath(name)
    inside = path.parts and not path.is_absolute() and ".." not in path.parts
    if not inside or not re.fullmatch("[0-9a-f]{32}", digest):
        raise ValueError(name)
    return name, in_cache(cache, digest)
