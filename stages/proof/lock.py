"""What `dvc.lock` says of each stage: the hashes of all that it read and wrote."""

import graphlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stages.errors import UserError

PATH = Path("dvc.lock")
FOLDER = ".dir"  # how the hash of a folder ends


class Locked(NamedTuple):
    """A stage as it last ran: each path with the hash of its content."""

    name: str
    deps: dict[str, str]
    outs: dict[str, str]


def read(path: Path) -> list[Locked]:
    """The stages of a `dvc.lock`, each behind those whose outputs it reads.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        stages = {
            name: Locked(name, _hashes(given.get("deps", [])), _hashes(given.get("outs", [])))
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
    return [stages[name] for name in graphlib.TopologicalSorter(graph).static_order()]


def _hashes(entries: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["path"]: str(entry[entry.get("hash", "md5")]) for entry in entries}


def in_cache(cache: Path, digest: str) -> Path:
    """Where DVC's cache keeps what has that hash (DVC 3: `files/md5`)."""
    return cache / "files" / "md5" / digest[:2] / digest[2:]


def members(cache: Path, digest: str) -> dict[str, Path] | None:
    """The cached files of an output by their names in it, "" for one that is a file.

    None if the list of a folder's files is not in the cache; the files themselves may be missing.

    Raises:
        UserError: that list is damaged.
    """
    listed = in_cache(cache, digest)
    if not digest.endswith(FOLDER):
        return {"": listed}
    if not listed.is_file():
        return None
    try:
        entries = json.loads(listed.read_text(encoding="utf-8"))
        return {entry["relpath"]: in_cache(cache, entry["md5"]) for entry in entries}
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{listed}: expected a list of files, got a damaged one; remove it, then `dvc pull` or "
            "`dvc repro`"
        ) from None
