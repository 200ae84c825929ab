"""DVC's own view of a project: stages, outputs, what has changed, and files of other commits.

Apart from `dvc.api`, these are interfaces that DVC does not document; read from dvc 3.67.1 and
dvc-data 3.18.3. No other module of this package imports them.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import RevError, SCMError, resolve_rev
from dvc_data.index.index import DataIndexError

from pipeline.reproducibility.dvc_lock import FOLDER, md5
from pipeline.runtime.errors import UserError

# DVC raises one of these for a file that is neither in git nor in its cache nor on a remote.
ABSENT = (FileNotFoundError, ConnectionError, TimeoutError, DvcException, DataIndexError)
DELETED = "deleted"  # DVC's word for a file or folder that is absent


class Stage(NamedTuple):
    """A stage of `dvc.yaml`: its name, and for each output whether DVC caches it."""

    name: str
    outs: dict[str, bool]


class Change(NamedTuple):
    """A difference from `dvc.lock`: a path, the key if it is a file of parameters, and how."""

    path: str
    key: str
    how: str


class DvcProject:
    """The DVC project in a folder. Use it as `with opened(folder) as project:`."""

    def __init__(self, repo: Any) -> None:
        self._repo = repo
        self.cache = Path(repo.cache.local.path).parent.parent

    def stages(self) -> list[Stage]:
        """Return the stages of `dvc.yaml`."""
        return [
            Stage(stage.name, {out.def_path: bool(out.use_cache) for out in stage.outs})
            for stage in self._repo.index.stages
            if not stage.is_data_source
        ]

    def data_files(self) -> dict[str, str]:
        """Return the paths and hashes in `.dvc` files."""
        return {
            os.path.relpath(out.fs_path): out.hash_info.value
            for stage in self._repo.index.stages
            if stage.is_data_source
            for out in stage.outs
        }

    def changes(self) -> dict[str, list[Change]]:
        """Return what each stage reads that is not as `dvc.lock` says; DVC hashes the files."""
        return {name: list(_changes(status)) for name, status in self._repo.status().items()}

    def is_ignored(self, path: str) -> bool:
        """Return whether git ignores a path."""
        return bool(self._repo.scm.is_ignored(path))

    def digest(self, path: Path) -> str:
        """Compute DVC's hash of a file or folder, like `dvc_data.hashfile.tree`."""
        if path.is_file():
            return md5(path)
        root = os.path.abspath(path)
        files = sorted(
            (Path(file).relative_to(root).as_posix(), Path(file))
            for file in self._repo.dvcignore.find(self._repo.fs, root)
        )
        listed = [{"md5": md5(file), "relpath": name} for name, file in files]
        text = json.dumps(listed, sort_keys=True)
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + FOLDER

    def require_revision(self, revision: str) -> None:
        """Refuse a revision that git and DVC do not know."""
        try:
            resolve_rev(self._repo.scm, revision)
        except RevError:
            shallow = Path(self._repo.scm.gitpython.repo.common_dir, "shallow").exists()
            remedy = (
                "this clone has only the end of the history, "
                "`git remote set-branches origin '*' && git fetch --unshallow` fetches the rest"
                if shallow
                else "`git branch --all` lists the branches"
            )
            raise UserError(
                f"expected a branch, tag or commit, got {revision!r}; {remedy}"
            ) from None


@contextlib.contextmanager
def opened(folder: Path = Path()) -> Iterator[DvcProject]:
    """Open the project in a folder."""
    try:
        with Repo(os.fspath(folder)) as repo:
            yield DvcProject(repo)
    except NotDvcRepoError:
        raise UserError(
            f"expected to run in the project's folder, got {folder.resolve()}; go there first"
        ) from None
    except SCMError:
        raise UserError(
            "expected a git checkout, got a folder without git; clone the project"
        ) from None
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"dvc: expected a readable project, got {reason!r}; see `dvc status`"
        ) from None


def fetch(revision: str, paths: Iterable[Path], folder: Path) -> list[Path]:
    """Copy files and folders of a commit from git, DVC's cache or its remote below `folder`.

    Return those that the commit does not have, or that are nowhere.
    """
    files, absent = DVCFileSystem(os.getcwd(), rev=revision), []
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            files.get(path.as_posix(), str(folder / path), recursive=True)
        except ABSENT:
            absent.append(path)
    return absent


def _changes(status: Iterable[Any]) -> Iterator[Change]:
    """Read what DVC's `repo.status()` reports of a stage's command, deps and params."""
    for change in status:
        if not isinstance(change, Mapping):
            yield Change("its command", "", "changed")  # "changed command" or "always changed"
            continue
        for path, how in change.get("changed deps", {}).items():
            if isinstance(how, Mapping):
                yield from (Change(path, key, of_key) for key, of_key in how.items())
            else:
                yield Change(path, "", how)
