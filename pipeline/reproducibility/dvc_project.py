"""DVC's own view of a project: stages, `dvc.lock`, what has changed, and files of other commits.

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
from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import RevError, SCMError, resolve_rev
from dvc_data.index.index import DataIndexError

from pipeline import paths
from pipeline.reproducibility import git
from pipeline.runtime.errors import UserError

# DVC raises one of these for a file that is neither in git nor in its cache nor on a remote.
ABSENT = (FileNotFoundError, ConnectionError, TimeoutError, DvcException, DataIndexError)
DELETED = "deleted"  # DVC's word for a file or folder that is absent
LOCK = Path("dvc.lock")
FOLDER = ".dir"  # suffix of a folder's hash
Change = tuple[str, str, str]  # a path, the key if it is a file of parameters, and how it differs


class Stage(NamedTuple):
    """A stage of `dvc.yaml`, with what `dvc.lock` records of its last run, if anything."""

    name: str
    deps: dict[str, str]  # hash by path, "" if there is no record
    params: dict[str, dict[str, Any]]  # by file and key
    outs: dict[str, str]  # hash by path, "" if there is no record
    cached: list[str]  # outputs that DVC caches


class DvcProject:
    """The DVC project in a folder. Use it as `with opened(folder) as project:`."""

    def __init__(self, repo: Any) -> None:
        self._repo = repo
        self.cache = Path(repo.cache.local.path).parent.parent
        self.has_remote = bool(repo.config["remote"])

    def stages(self) -> list[Stage]:
        """Return the stages of `dvc.yaml` in its order."""
        return [_stage(one) for one in self._repo.index.stages if not one.is_data_source]

    def data_files(self) -> dict[str, str]:
        """Return the paths and hashes in `.dvc` files."""
        return {
            os.path.relpath(out.fs_path, self._repo.root_dir): out.hash_info.value
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

    def cache_files(self, digest: str) -> list[Path]:
        """Return the paths in DVC's cache of a file, or of a folder's list and its files.

        A list that is absent or damaged is alone.
        """
        at = self.cache / "files" / "md5" / digest[:2] / digest[2:]
        if not digest.endswith(FOLDER):
            return [at]
        try:
            entries = json.loads(at.read_text(encoding="utf-8"))
            return [at] + [path for one in entries for path in self.cache_files(one["md5"])]
        except (OSError, ValueError, TypeError, KeyError):
            return [at]

    def require_revision(self, revision: str) -> str:
        """Return the commit's hash; refuse a revision whose files are not all in this clone."""
        try:
            if not revision:
                raise RevError("empty")
            commit = str(resolve_rev(self._repo.scm, revision))
        except RevError:
            remedy = "`git branch --all` lists the branches"
            if git.run("rev-parse", "--is-shallow-repository") == "true":
                remedy = (
                    "this clone has only the end of the history, `git remote set-branches origin "
                    "'*' && git fetch --unshallow` fetches the rest"
                )
            raise UserError(
                f"revision: expected a branch, tag or commit, got {revision!r}; {remedy}"
            ) from None
        objects = git.run("rev-list", "--objects", "--no-walk", "--missing=print", commit) or ""
        if any(line.startswith("?") for line in objects.splitlines()):  # DVC would wait for ever
            raise UserError(
                f"revision: expected the files of {revision!r}, got a partial clone (`git clone "
                "--filter`) without them; `git fetch --refetch --no-filter` fetches them"
            )
        return commit


@contextlib.contextmanager
def opened(folder: Path = Path()) -> Iterator[DvcProject]:
    """Open the project in a folder."""
    try:
        with Repo(os.fspath(folder), config=_config(folder)) as repo:
            yield DvcProject(repo)
    except (NotDvcRepoError, SCMError) as error:
        part = ".dvc" if isinstance(error, NotDvcRepoError) else ".git"
        raise UserError(
            f"{folder.resolve()}: expected a git clone of the project, got no {part} in it; go to "
            "the project's folder"
        ) from None
    except DvcException as error:
        reason = " ".join(str(error).split())
        remedy = "correct that file, or `git checkout` it"
        if ".dvc/tmp" in reason:
            remedy = "remove that file while no dvc is running"
        raise UserError(f"dvc: expected a readable project, got {reason!r}; {remedy}") from None


def _config(folder: Path) -> dict[str, Any]:
    """Return what `.dvc/config` says of DVC's site cache, which older commits do not say."""
    return {"core": {"site_cache_dir": os.fspath(folder / paths.SITE_CACHE)}}


def md5(path: Path) -> str:
    """Return the md5 of a file's bytes in hex, which DVC identifies content by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def fetch(revision: str, wanted: Iterable[Path], folder: Path) -> list[Path]:
    """Copy files and folders of a commit from git, DVC's cache or its remote below `folder`.

    Return those that the commit does not have, or that are nowhere.
    """
    files, absent = DVCFileSystem(os.getcwd(), rev=revision, config=_config(Path())), []
    for path in wanted:
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
            yield "its command", "", "changed"  # "changed command" or "always changed"
            continue
        for path, how in change.get("changed deps", {}).items():
            keys = how if isinstance(how, Mapping) else {"": how}
            yield from ((path, key, of_key) for key, of_key in keys.items())


def _stage(stage: Any) -> Stage:
    deps, params = {}, {}
    for one in stage.deps:
        if isinstance(one, ParamsDependency):
            params[one.def_path] = one.hash_info.value or {}
        else:
            deps[one.def_path] = one.hash_info.value or ""
    outs = {one.def_path: one.hash_info.value or "" for one in stage.outs}
    return Stage(
        stage.name, deps, params, outs, [one.def_path for one in stage.outs if one.use_cache]
    )
