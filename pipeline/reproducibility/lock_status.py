"""Compare this folder with its `dvc.lock` without running anything.

`dvc status` ends with 1 on every fresh clone, and `dvc repro --dry --allow-missing` with 0 where
stages would run. Here an absent file is counted, and only a wrong one is a fault.
"""

import os
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from pipeline import config, paths
from pipeline.reproducibility import code_changes, dvc_project
from pipeline.reproducibility.dvc_project import DELETED, LOCK, Change, DvcProject, Stage
from pipeline.runtime import fingerprint
from pipeline.runtime.errors import UserError

RUN = "run `dvc repro`"
CODE_STAGE = "code"


class State(NamedTuple):
    """The result, in sentences and numbers of outputs."""

    stale: dict[str, str]  # by stage, on inputs, code or parameters unlike those of `dvc.lock`
    faults: list[str]  # on outputs that are not as `dvc.lock` says
    notes: list[str]  # on differences that change no output, and on absent inputs
    outputs: int  # in `dvc.lock`
    present: int  # of them in this folder, unharmed
    to_cache: int  # of them that DVC caches; the others are in git
    cached: int  # of these in its cache, unharmed

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
    for line in (state.counts(), *state.notes):
        print(f"verify: {line}")
    if faults := [*state.stale.values(), *state.faults]:
        raise UserError("\n".join(faults))
    print(f"verify: inputs, parameters and code are those of {LOCK}")


def compare() -> State:
    """Compare this folder and DVC's cache with `dvc.lock`; files are hashed anew."""
    faults: list[str] = []
    notes: list[str] = []
    with dvc_project.opened() as project:
        stages, data_files = project.stages(), project.data_files()
        outs = {path: of for stage in stages for path, of in stage.outs.items() if of}
        if not outs:
            raise UserError(f"{LOCK}: expected the record of the last run, got none; {RUN} first")
        to_cache = [path for stage in stages for path in stage.cached if path in outs]
        keepers = dict.fromkeys(to_cache, "dvc checkout --force")
        others = [path for path in outs if path not in keepers and not project.is_ignored(path)]
        keepers |= dict.fromkeys(others, "git checkout")
        cached = sum(  # before DVC looks, which removes damaged files
            _cached(project, path, outs[path], faults) for path in tqdm(to_cache, disable=None)
        )
        changes = project.changes()
        lost = {path for of_one in changes.values() for path, _, how in of_one if how == DELETED}
        # The outputs of all backbones are an input by their folder: data/features, data/weights.
        folders = {parent.as_posix() for path in outs for parent in PurePosixPath(path).parents}
        lost -= outs.keys() | folders
        absent = {path for path in lost if path in data_files or project.is_ignored(path)}
        present = sum(
            _present(project, path, outs[path], keepers.get(path, ""), faults)
            for path in tqdm(outs, disable=None)
        )
    notes += [f"{path}: not here, so it was not compared with {LOCK}" for path in sorted(absent)]
    stale = {}
    for stage in stages:
        changed = changes.get(stage.name, [])
        reasons: list[str] = []
        if stage.name == CODE_STAGE:
            changed, reasons = _without_edits(changed, notes)
        if any((*stage.deps.values(), *stage.params.values(), *stage.outs.values())):
            reasons += _reasons(stage, changed, {**data_files, **outs}, lost - absent)
        else:
            reasons.append("a stage that never ran")
        if reasons:
            stale[stage.name] = (
                f"{stage.name}: expected inputs, parameters and code as {LOCK} says, got "
                f"{', '.join(reasons)}; {RUN}, or undo that"
            )
    return State(stale, faults, notes, len(outs), present, len(to_cache), cached)


def _without_edits(changes: list[Change], notes: list[str]) -> tuple[list[Change], list[str]]:
    """Replace edited sources and parameters of stage `code` by what they change in its outputs.

    Edits that change neither `code.yaml` nor `settings.yaml` become a note.
    """
    edited = [path for path, _, how in changes if how == "modified"]
    if not edited:
        return changes, []
    settings = config.settings(config.read())
    reasons = []
    for path, content in (
        (paths.CODE, fingerprint.everything([*settings, "report"])),
        (paths.SETTINGS, settings),
    ):
        if differences := code_changes.differences(code_changes.read(path), content):
            reasons.append(f"edits that change {path} ({code_changes.listed(differences)})")
    if not reasons:
        notes.append(
            f"{', '.join(edited)}: edited, but code.yaml and settings.yaml stay as they are"
        )
    return [one for one in changes if one[0] not in edited], reasons


def _reasons(
    stage: Stage, changes: Iterable[Change], hashes: Mapping[str, str], lost: Container[str]
) -> Iterator[str]:
    """Yield why a stage is stale; an absent input is a reason only if it is lost."""
    for path, key, how in changes:
        if how == DELETED and path not in lost:
            continue
        if key and how == "modified":
            before = {key: stage.params.get(path, {}).get(key)}
            every = code_changes.flattened(code_changes.read(Path(path)))
            now = {one: every[one] for one in every if f"{one}.".startswith(f"{key}.")}
            listed = code_changes.listed(code_changes.differences(before, now))
            yield f"other values in {path} ({listed})"
        else:
            yield f"{path} {key} {how}".replace("  ", " ")
    for path, digest in stage.deps.items():
        if hashes.get(path, digest) != digest:
            yield f"{path} with another hash than its stage recorded, as after a merge"
    if not all(stage.outs.values()):
        yield "other outputs in dvc.yaml"


def _cached(project: DvcProject, path: str, digest: str, faults: list[str]) -> bool:
    """Return whether the cache has an output; add a fault for each damaged file."""
    complete = True
    for file in project.cache_files(digest):
        if not file.is_file():
            complete = False
        elif dvc_project.md5(file) != f"{file.parent.name}{file.stem}":
            complete = False
            faults.append(
                f"{os.path.relpath(file)}: expected the bytes of {path} that its name is the hash "
                "of, got others; remove it, then `dvc pull`, or `dvc repro --force` the stage"
            )
    return complete


def _present(project: DvcProject, path: str, digest: str, keeper: str, faults: list[str]) -> bool:
    """Return whether an output is in this folder, unharmed; add a fault for another one."""
    at = Path(path)
    if at.exists() and project.digest(at) == digest:
        return True
    if at.exists() or keeper == "git checkout":
        remedy = f"`{keeper} {path}` or " if keeper else ""  # none for a link to an input
        got = "others" if at.exists() else "nothing"
        faults.append(f"{path}: expected the bytes that {LOCK} records, got {got}; {remedy}{RUN}")
    return False
