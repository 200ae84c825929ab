"""Whether this folder is what its `dvc.lock` says, found without running anything.

`dvc status` ends with 1 on every fresh clone, and `dvc repro --dry --allow-missing` with 0 where
stages would run. Here what is absent is counted, and only what is wrong is a fault.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dvc.repo import Repo
from tqdm import tqdm

from stages.errors import UserError
from stages.proof import lock

RUN = "run `dvc repro`"


class State(NamedTuple):
    """What was found.

    Attributes:
        faults: sentences, each of something that is not as `dvc.lock` says.
        outputs: how many it names.
        here: how many of them are in this folder, as it says.
        to_cache: how many of them are DVC's to cache; the others are in git.
        cached: how many of these are in its cache, unharmed.
        absent: inputs that are not here and that no stage writes.
    """

    faults: list[str]
    outputs: int
    here: int
    to_cache: int
    cached: int
    absent: list[str]


def check() -> None:
    """Print what was found.

    Raises:
        UserError: a sentence for each fault.
    """
    state = look()
    told = (
        f"verify: {state.outputs} outputs in {lock.PATH}: {state.here} are here; {state.to_cache} "
        f"are DVC's to cache, and {state.cached} of these are in its cache, unharmed"
    )
    if min(state.here - state.outputs, state.cached - state.to_cache) < 0:
        told += " (`dvc pull` or `dvc repro` brings the others)"
    print(told)
    for path in state.absent:
        print(f"verify: {path}: not here, so it was not compared with {lock.PATH}")
    if state.faults:
        raise UserError("\n".join(state.faults))
    print(f"verify: params, inputs and code are those of {lock.PATH}")


def look() -> State:
    """Compare this folder and DVC's cache with `dvc.lock`; files are hashed anew."""
    known = {stage.name: stage for stage in lock.read(lock.PATH)}
    faults: list[str] = []
    absent: list[str] = []
    with Repo() as repo:
        cache = Path(repo.cache.local.path).parent.parent  # above files/md5
        stages = [stage for stage in repo.index.stages if not stage.is_data_source]
        changed = repo.status()
        told = {stage.addressing: changed.get(stage.addressing, []) for stage in stages}
        uncached = {out.def_path for stage in stages for out in stage.outs if not out.use_cache}
    locked = [known[name] for name in told if name in known]
    written = {path: digest for stage in locked for path, digest in stage.outs.items()}
    for name, changes in told.items():
        if name not in known:
            faults.append(f"{name}: expected it in {lock.PATH}, got a stage that never ran; {RUN}")
            continue
        others = []
        for path, what in _changes(changes):
            if what != "deleted":
                others.append(f"{path} {what}")
            elif path not in written and path not in absent:
                absent.append(path)
        if others:
            faults.append(
                f"{name}: expected what it reads as {lock.PATH} says, got {', '.join(others)}; "
                f"{RUN}, or undo that"
            )
        for path, digest in known[name].deps.items():
            if written.get(path, digest) != digest:
                faults.append(
                    f"{name}: expected to have read the {path} that {lock.PATH} says was written, "
                    f"got another one, as after a merge; {RUN}"
                )
    here = cached = 0
    for path, digest in tqdm(written.items(), desc="hashing", disable=None, unit="output"):
        in_cache = None if path in uncached else _of_cache(cache, path, digest, faults)
        in_folder = _of_folder(cache, path, digest, faults, in_git=path in uncached)
        here, cached = here + bool(in_folder), cached + bool(in_cache)
    return State(faults, len(written), here, len(written.keys() - uncached), cached, absent)


def _changes(told: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """What DVC's `stage.status()` says of a stage's command, deps and params: (what, how)."""
    for change in told:
        if not isinstance(change, Mapping):
            yield "its command", "changed"  # "changed command" or "always changed"
            continue
        for path, how in change.get("changed deps", {}).items():
            if isinstance(how, Mapping):
                yield from ((f"{path} {key}", what) for key, what in how.items())
            else:
                yield path, how


def _of_cache(cache: Path, path: str, digest: str, faults: list[str]) -> bool:
    """Whether an output is in the cache; what is there and harmed is a fault."""
    try:
        found = lock.members(cache, digest)
    except UserError as fault:
        faults.append(str(fault))
        return False
    if found is None:
        return False
    files = list(found.values())
    if digest.endswith(lock.FOLDER):
        files.append(lock.in_cache(cache, digest))
    whole = True
    for file in files:
        if not file.is_file():
            whole = False
        elif _md5(file) != f"{file.parent.name}{file.name}".removesuffix(lock.FOLDER):
            whole = False
            faults.append(
                f"{os.path.relpath(file)}: expected the bytes that its name tells, of {path}, got "
                "other ones; remove it, then `dvc pull`, or `dvc repro --force` the stage"
            )
    return whole


def _of_folder(cache: Path, path: str, digest: str, faults: list[str], *, in_git: bool) -> bool:
    """Whether an output is in this folder as it should be; another one is a fault."""
    at = Path(path)
    if not at.exists():
        if in_git:
            faults.append(
                f"{path}: expected a file of git's, got none; `git checkout {path}` or {RUN}"
            )
        return False
    if _digest(at) == digest:
        return True
    faults.append(
        f"{path}: expected what {lock.PATH} says, got other bytes; "
        f"{f'`git checkout {path}`' if in_git else f'`dvc checkout --force {path}`'} or {RUN}"
    )
    return False


def _digest(path: Path) -> str:
    """DVC's hash of a file or folder, computed anew (`dvc_data.hashfile.tree`)."""
    if path.is_file():
        return _md5(path)
    with Repo() as repo:
        files = sorted(
            (Path(found).relative_to(path.absolute()).as_posix(), Path(found))
            for found in repo.dvcignore.find(repo.fs, os.path.abspath(path))
        )
    listed = [{"md5": _md5(found), "relpath": name} for name, found in files]
    text = json.dumps(listed, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + lock.FOLDER


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
