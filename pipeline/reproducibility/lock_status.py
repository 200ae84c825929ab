"""Compare this folder with its `dvc.lock` without running anything.

`dvc status` ends with 1 on every fresh clone, and `dvc repro --dry --allow-missing` with 0 where
stages would run. Here an absent file is counted, and only a wrong one is a fault.
"""

import os
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm import tqdm

from pipeline import config, paths
from pipeline.reproducibility import code_changes, dvc_lock, dvc_project
from pipeline.reproducibility.dvc_project import DELETED, Change, DvcProject
from pipeline.runtime import fingerprint
from pipeline.runtime.errors import UserError

RUN = "run `dvc repro`"
CODE_STAGE = "code"


class State(NamedTuple):
    """The result, in sentences and numbers of outputs."""

    stale: dict[str, str]  # by stage, on inputs, code or parameters unlike those of `dvc.lock`
    faults: list[str]  # on outputs that are not as `dvc.lock` says
    notes: list[str]  # on differences that change no output
    outputs: int  # in `dvc.lock`
    present: int  # of them in this folder, unharmed
    to_cache: int  # of them that DVC caches; the others are in git
    cached: int  # of these in its cache, unharmed
    absent: list[str]  # inputs that are not here and that no stage writes

    @property
    def complete(self) -> bool:
        """Whether all outputs are here, and in the cache if DVC caches them."""
        return self.present == self.outputs and self.cached == self.to_cache

    def counts(self) -> str:
        """Return the counts as a sentence."""
        counts = (
            f"outputs: {self.present} of {self.outputs} are here; {self.cached} of the "
            f"{self.to_cache} that DVC caches are in its cache, unharmed"
        )
        return counts if self.complete else f"{counts}; `dvc pull` or `dvc repro` adds the others"


def check() -> None:
    """Print the result."""
    state = compare()
    print(f"verify: {state.counts()}")
    for path in state.absent:
        print(f"verify: {path}: not here, so it was not compared with {dvc_lock.PATH}")
    for note in state.notes:
        print(f"verify: {note}")
    if faults := [*state.stale.values(), *state.faults]:
        raise UserError("\n".join(faults))
    print(f"verify: inputs, parameters and code are those of {dvc_lock.PATH}")


def compare() -> State:
    """Compare this folder and DVC's cache with `dvc.lock`; files are hashed anew."""
    locked = {stage.name: stage for stage in dvc_lock.read()}
    faults: list[str] = []
    with dvc_project.opened() as project:
        stages = [stage for stage in project.stages() if stage.name in locked]
        outs = {
            path: digest for stage in stages for path, digest in locked[stage.name].outs.items()
        }
        uncached = {path for stage in stages for path, cached in stage.outs.items() if not cached}
        to_cache = [path for path in outs if path not in uncached]
        in_git = {path for path in uncached & outs.keys() if not project.is_ignored(path)}
        cached = sum(  # before DVC looks, which removes damaged files
            _cached(project.cache, path, outs[path], faults) for path in _bar(to_cache)
        )
        changes = project.changes()
        stages = project.stages()
        data_files = project.data_files()
        lost = {one.path for of_one in changes.values() for one in of_one if one.how == DELETED}
        # The outputs of all backbones are an input by their folder: data/features, data/weights.
        folders = {parent.as_posix() for path in outs for parent in PurePosixPath(path).parents}
        lost -= outs.keys() | folders
        absent = {path for path in lost if path in data_files or _is_outside(project, path)}
        present = sum(
            _present(project, path, outs[path], faults, in_git=path in in_git)
            for path in _bar(outs)
        )
    notes: list[str] = []
    stale = {}
    for stage in stages:
        entry = locked.get(stage.name)
        reasons = ["a stage that never ran"]
        if entry is not None:
            reported = changes.get(stage.name, [])
            reasons = []
            if stage.name == CODE_STAGE:
                reported, reasons = _without_edits(reported, notes)
            reasons += _reasons(entry, reported, {**data_files, **outs}, lost - absent)
            if stage.outs.keys() != entry.outs.keys():
                reasons.append("other outputs in dvc.yaml")
        if reasons:
            stale[stage.name] = (
                f"{stage.name}: expected inputs, parameters and code as {dvc_lock.PATH} says, got "
                f"{', '.join(reasons)}; {RUN}, or undo that"
            )
    return State(stale, faults, notes, len(outs), present, len(to_cache), cached, sorted(absent))


def _is_outside(project: DvcProject, path: str) -> bool:
    """Return whether git does not keep a path, so that its absence means nothing."""
    return os.path.isabs(path) or path.startswith("..") or project.is_ignored(path)


def _bar(outputs: Iterable[str]) -> Iterable[str]:
    return tqdm(list(outputs), "hashing", disable=None, unit="output")


def _without_edits(changes: list[Change], notes: list[str]) -> tuple[list[Change], list[str]]:
    """Replace edited sources and parameters of stage `code` by what they change in its outputs.

    Edits that change neither `code.yaml` nor `settings.yaml` become a note.
    """
    edited = [one.path for one in changes if one.how == "modified"]
    if not edited:
        return changes, []
    settings = config.settings(config.read())
    reasons = []
    for path, content in (
        (paths.CODE, fingerprint.everything([*settings, "report"])),
        (paths.SETTINGS, settings),
    ):
        text = path.read_text(encoding="utf-8") if path.exists() else None
        if differences := code_changes.differences(code_changes.parsed(text), content):
            reasons.append(f"edits that change {path} ({code_changes.listed(differences)})")
    if not reasons:
        notes.append(
            f"{', '.join(edited)}: edited, but code.yaml and settings.yaml stay as they are"
        )
    return [one for one in changes if one.path not in edited], reasons


def _reasons(
    locked: dvc_lock.Locked,
    changes: Iterable[Change],
    hashes: Mapping[str, str],
    lost: Container[str],
) -> Iterator[str]:
    """Yield why a stage is stale; an absent input is a reason only if it is lost."""
    contents: dict[str, Any] = {}
    for path, key, how in changes:
        if how == DELETED and path not in lost:
            continue
        if path in (str(paths.CODE), str(paths.SETTINGS)) and how == "modified":
            if path not in contents:
                contents[path] = code_changes.parsed(Path(path).read_text(encoding="utf-8"))
            before = locked.params.get(path, {}).get(key)
            now = code_changes.lookup(contents[path], key)
            name = "code" if path == str(paths.CODE) else "parameters"
            yield f"other {name} ({code_changes.listed(code_changes.differences(before, now))})"
        else:
            yield f"{path} {key} is {how}" if key else f"{path} {how}"
    for path, digest in locked.deps.items():
        if hashes.get(path, digest) != digest:
            yield f"{path} with another hash than its stage recorded, as after a merge"


def _cached(cache: Path, path: str, digest: str, faults: list[str]) -> bool:
    """Return whether the cache has an output; add a fault for each damaged file."""
    try:
        members = dvc_lock.members(cache, digest)
    except UserError as fault:
        faults.append(str(fault))
        return False
    if members is None:
        return False
    files = list(members.values())
    if digest.endswith(dvc_lock.FOLDER):
        files.append(dvc_lock.in_cache(cache, digest))
    complete = True
    for file in files:
        if not file.is_file():
            complete = False
        elif dvc_lock.md5(file) != f"{file.parent.name}{file.name}".removesuffix(dvc_lock.FOLDER):
            complete = False
            faults.append(
                f"{os.path.relpath(file)}: expected the bytes of {path} that its name is the hash "
                "of, got others; remove it, then `dvc pull`, or `dvc repro --force` the stage"
            )
    return complete


def _present(
    project: DvcProject, path: str, digest: str, faults: list[str], *, in_git: bool
) -> bool:
    """Return whether an output is in this folder, unharmed; add a fault for another one."""
    at = Path(path)
    if not at.exists():
        if in_git:
            faults.append(
                f"{path}: expected a file that git tracks, got none; `git checkout {path}` or {RUN}"
            )
        return False
    if project.digest(at) == digest:
        return True
    remedy = f"git checkout {path}" if in_git else f"dvc checkout --force {path}"
    remedy = "" if at.is_symlink() and not in_git else f"`{remedy}` or "
    faults.append(
        f"{path}: expected the bytes that {dvc_lock.PATH} records, got others; {remedy}{RUN}"
    )
    return False
