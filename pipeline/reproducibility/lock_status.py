"""Whether this folder is what its `dvc.lock` says, found without running anything.

`dvc status` ends with 1 on every fresh clone, and `dvc repro --dry --allow-missing` with 0 where
stages would run. Here what is absent is counted, and only what is wrong is a fault.
"""

import os
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dvc.exceptions import DvcException
from dvc.repo import Repo
from tqdm import tqdm

from pipeline.reproducibility import dvc_lock
from pipeline.runtime.errors import UserError

RUN = "run `dvc repro`"
GONE = "deleted"  # DVC's word for a file or folder that is not there


class State(NamedTuple):
    """What was found.

    Attributes:
        stale: by stage, a sentence on what it read that is not as `dvc.lock` says.
        faults: sentences, each of an output that is not as `dvc.lock` says.
        outputs: how many it names.
        here: how many of them are in this folder, as it says.
        to_cache: how many of them are DVC's to cache; the others are in git.
        cached: how many of these are in its cache, unharmed.
        absent: inputs that are not here and that no stage writes.
    """

    stale: dict[str, str]
    faults: list[str]
    outputs: int
    here: int
    to_cache: int
    cached: int
    absent: list[str]

    @property
    def whole(self) -> bool:
        """Whether all outputs are here, and in the cache where they should be."""
        return self.here == self.outputs and self.cached == self.to_cache

    def told(self) -> str:
        """The counts as a sentence."""
        counts = (
            f"outputs: {self.here} of {self.outputs} are here; {self.cached} of the "
            f"{self.to_cache} that DVC caches are in its cache, unharmed"
        )
        return counts if self.whole else f"{counts}; `dvc pull` or `dvc repro` brings the others"


def check() -> None:
    """Print what was found.

    Raises:
        UserError: a sentence for each fault.
    """
    state = look()
    print(f"verify: {state.told()}")
    for path in state.absent:
        print(f"verify: {path}: not here, so it was not compared with {dvc_lock.PATH}")
    if wrong := [*state.stale.values(), *state.faults]:
        raise UserError("\n".join(wrong))
    print(f"verify: params, inputs and code are those of {dvc_lock.PATH}")


def look() -> State:
    """Compare this folder and DVC's cache with `dvc.lock`; files are hashed anew."""
    known = {stage.name: stage for stage in dvc_lock.read(dvc_lock.PATH)}
    faults: list[str] = []
    try:
        with Repo() as repo:
            cache = dvc_lock.cache_of(repo)
            stages = [stage for stage in repo.index.stages if not stage.is_data_source]
            written = {
                path: digest
                for stage in stages
                if stage.addressing in known
                for path, digest in known[stage.addressing].outs.items()
            }
            in_git = {out.def_path for stage in stages for out in stage.outs if not out.use_cache}
            to_cache = [path for path in written if path not in in_git]
            cached = sum(  # before DVC looks, which removes what it finds harmed
                _of_cache(cache, path, written[path], faults) for path in _bar(to_cache)
            )
            changed = repo.status()
            told = {
                stage.addressing: list(_changes(changed.get(stage.addressing, [])))
                for stage in stages
            }
            gone = {path for changes in told.values() for path, how in changes if how == GONE}
            gone -= written.keys()
            given = {
                os.path.relpath(out.fs_path): out.hash_info.value
                for stage in repo.index.stages
                if stage.is_data_source
                for out in stage.outs
            }
            absent = {path for path in gone if path in given or _is_outside(repo, path)}
            unlike = {
                stage.addressing
                for stage in stages
                if stage.addressing in known
                and {out.def_path for out in stage.outs} != known[stage.addressing].outs.keys()
            }
            here = sum(
                _of_folder(repo, path, written[path], faults, in_git=path in in_git)
                for path in _bar(written)
            )
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"dvc: expected to be able to read this project, got {reason!r}; see `dvc status`"
        ) from None
    stale = {
        name: f"{name}: expected what it reads as {dvc_lock.PATH} says, got {', '.join(reasons)}; "
        f"{RUN}, or undo that"
        for name, changes in told.items()
        if (
            reasons := _reasons(known.get(name), changes, {**given, **written}, gone - absent)
            + ["other outputs in dvc.yaml"] * (name in unlike)
        )
    }
    return State(stale, faults, len(written), here, len(to_cache), cached, sorted(absent))


def _is_outside(repo: Any, path: str) -> bool:
    """Whether git is not to keep it, so that its absence says nothing."""
    return os.path.isabs(path) or path.startswith("..") or bool(repo.scm.is_ignored(path))


def _bar(outputs: Iterable[str]) -> Iterable[str]:
    return tqdm(list(outputs), "hashing", disable=None, unit="output")


def _reasons(
    known: dvc_lock.Locked | None,
    changes: Iterable[tuple[str, str]],
    written: Mapping[str, str],
    lost: Container[str],
) -> list[str]:
    """Why a stage is stale; none if it is not. What is not here is no reason, unless it is lost."""
    if known is None:
        return ["a stage that never ran"]
    return [
        *(f"{path} {how}" for path, how in changes if how != GONE or path in lost),
        *(
            f"another {path} than was written or given, as after a merge"
            for path, digest in known.deps.items()
            if written.get(path, digest) != digest
        ),
    ]


def _changes(told: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """What DVC's `stage.status()` says of a stage's command, deps and params: (what, how)."""
    for change in told:
        if not isinstance(change, Mapping):
            yield "its command", "changed"  # "changed command" or "always changed"
            continue
        for path, how in change.get("changed deps", {}).items():
            if isinstance(how, Mapping):  # of a file of parameters
                yield from ((f"{path} {key}", f"is {what}") for key, what in how.items())
            else:
                yield path, how


def _of_cache(cache: Path, path: str, digest: str, faults: list[str]) -> bool:
    """Whether an output is in the cache; what is there and harmed is a fault."""
    try:
        found = dvc_lock.members(cache, digest)
    except UserError as fault:
        faults.append(str(fault))
        return False
    if found is None:
        return False
    files = list(found.values())
    if digest.endswith(dvc_lock.FOLDER):
        files.append(dvc_lock.in_cache(cache, digest))
    whole = True
    for file in files:
        if not file.is_file():
            whole = False
        elif dvc_lock.md5(file) != f"{file.parent.name}{file.name}".removesuffix(dvc_lock.FOLDER):
            whole = False
            faults.append(
                f"{os.path.relpath(file)}: expected the bytes that its name tells, of {path}, got "
                "other ones; remove it, then `dvc pull`, or `dvc repro --force` the stage"
            )
    return whole


def _of_folder(repo: Any, path: str, digest: str, faults: list[str], *, in_git: bool) -> bool:
    """Whether an output is in this folder as it should be; another one is a fault."""
    at = Path(path)
    if not at.exists():
        if in_git:
            faults.append(
                f"{path}: expected a file of git's, got none; `git checkout {path}` or {RUN}"
            )
        return False
    if dvc_lock.digest(repo, at) == digest:
        return True
    faults.append(
        f"{path}: expected what {dvc_lock.PATH} says, got other bytes; "
        f"{f'`git checkout {path}`' if in_git else f'`dvc checkout --force {path}`'} or {RUN}"
    )
    return False
