"""What a commit holds of a run: parameters and figures as DVC sees them, and files.

A revision is whatever DVC takes for a commit: a branch, a tag, `HEAD~1`, an experiment's name.
None is the working tree.
"""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import RevError, SCMError, resolve_rev
from dvc_data.index.index import DataIndexError

from pipeline.runtime.errors import UserError

# What DVC raises where a file is neither in git nor in its cache nor in a remote that answers.
ABSENT = (FileNotFoundError, ConnectionError, TimeoutError, DvcException, DataIndexError)
WORKSPACE = "workspace"  # as DVC calls the working tree


class Value(NamedTuple):
    """A parameter or figure on both sides, as YAML or JSON has it; None where a side lacks it."""

    path: str
    key: str
    old: Any
    new: Any

    @property
    def differs(self) -> bool:
        return bool(self.old != self.new)


class AbsentError(Exception):
    """What is neither in DVC's cache nor in a remote of it."""


def values(old: str, new: str | None) -> tuple[list[Value], list[Value]]:
    """All parameters, and all of DVC's metrics, of two revisions, whether they differ or not.

    Raises:
        UserError: this folder is no DVC project in git, a revision is unknown, or a file of it is
            damaged.
    """
    try:
        repo = Repo()
    except NotDvcRepoError:
        raise UserError(
            f"compare: expected to run in the project's folder, got {Path.cwd()}; go there first"
        ) from None
    except SCMError:
        raise UserError(
            "compare: expected a git checkout, got a folder without git; clone the project"
        ) from None
    with repo:
        for revision in (old, new):
            _require(repo, revision)
        sides = (old, new or WORKSPACE)
        params, metrics = (show.diff(*sides, all=True) for show in (repo.params, repo.metrics))
    figures = list(_values(metrics))
    return _values(params), figures


def fetch(revision: str, paths: Iterable[str], folder: Path) -> None:
    """Copy files of a commit below `folder`, those that git keeps, or DVC's cache or remote.

    One that the commit does not have, or that is nowhere here, is left out.
    """
    there = DVCFileSystem(str(Path.cwd()), rev=revision)
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(*ABSENT):
            there.get_file(path, str(folder / path))


def fetch_outputs(revision: str, paths: Iterable[str], folder: Path) -> None:
    """Copy files and folders that DVC keeps of a commit below `folder`, from its cache or remote.

    Raises:
        AbsentError: one of them is in neither.
    """
    there = DVCFileSystem(str(Path.cwd()), rev=revision)
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            there.get(path, str(folder / path), recursive=True)
        except ABSENT:
            raise AbsentError(path) from None


def _require(repo: Any, revision: str | None) -> None:
    if revision is None:
        return
    try:
        resolve_rev(repo.scm, revision)
    except RevError:
        shallow = Path(repo.scm.gitpython.repo.common_dir, "shallow").exists()
        remedy = (
            "this clone has only the end of the history, "
            "`git remote set-branches origin '*' && git fetch --unshallow` brings the rest"
            if shallow
            else "`git branch --all` lists the branches"
        )
        raise UserError(
            f"compare: expected a branch, tag or commit, got {revision!r}; {remedy}"
        ) from None


def _values(found: Mapping[str, Any]) -> list[Value]:
    """What DVC has compared, in its order of files and keys.

    A file that the old side does not have is none of its faults: the commit may be older than it.
    """
    for side, faults in found.get("errors", {}).items():
        for path, fault in (
            faults if isinstance(faults, dict) else {"what dvc.yaml names": faults}
        ).items():
            if side != WORKSPACE and isinstance(fault, FileNotFoundError):
                continue
            where = "the working tree" if side == WORKSPACE else side
            raise UserError(
                f"compare: expected to read {path} of {where}, got {' '.join(str(fault).split())}; "
                "restore it by git, or run `dvc repro` there"
            )
    return [
        Value(path, key, both["old"], both["new"])
        for path, keys in found.get("diff", {}).items()
        for key, both in keys.items()
    ]
