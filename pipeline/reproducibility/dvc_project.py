"""DVC's own view of a project: stages, `dvc.lock`, what has changed, and files of other commits.

Apart from `dvc.api`, these are interfaces that DVC does not document; read from dvc 3.67.1 and
dvc-data 3.18.3. No other module of this package imports them.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dvc.api import DVCFileSystem
from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.fs import GitFileSystem
from dvc.repo import Repo
from dvc.scm import SCM, RevError, resolve_rev
from dvc_data.index.index import DataIndexError

from pipeline import paths
from pipeline.reproducibility import git
from pipeline.runtime.errors import FULL, UserError

DELETED = "deleted"  # DVC's word for a file or folder that is absent
LOCK = Path("dvc.lock")
UNLISTED = (403, 404, 405)  # by which a web server of single files answers for a folder
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
    """The project in a folder, which is that of `.dvc` or, as in a monorepo, below it.

    Use it as `with opened(folder) as project:`.
    """

    def __init__(self, repo: Any, folder: Path) -> None:
        self._repo = repo
        self._git, self._prefix = git.place(folder)
        self._folder = folder.resolve()
        self.root = Path(repo.root_dir).resolve()
        self.cache = Path(repo.cache.local.path).parent.parent
        self.has_remote = bool(repo.config["remote"])

    def stages(self) -> list[Stage]:
        """Return the stages of `dvc.yaml` in its order."""
        stages = (one for one in self._repo.index.stages if not one.is_data_source)
        return [_stage(one) for one in stages if Path(one.wdir).resolve() == self._folder]

    def data_files(self) -> dict[str, str]:
        """Return the paths and hashes in `.dvc` files."""
        return {
            os.path.relpath(out.fs_path, self._folder): out.hash_info.value
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

    def fetch(self, revision: str, paths: Iterable[Path], folder: Path) -> dict[Path, str]:
        """Copy files and folders of a commit from git, DVC's cache or its remote below `folder`.

        Return why others are not there, as a clause; it is empty if the commit has no such file.
        """
        absent: dict[Path, Exception | None] = dict.fromkeys(paths)
        commit = str(resolve_rev(self._repo.scm, revision))
        remote = self._repo.config["core"].get("remote")
        for name in (None, remote) if remote else (None,):  # the cache alone needs no plug-in
            with self._at(commit, name) as repo:
                for path in [*absent]:
                    try:
                        if self._copy(repo, path, folder / path):
                            del absent[path]
                    except Exception as error:  # each kind of remote raises its own
                        if isinstance(error, MemoryError) or getattr(error, "errno", 0) in FULL:
                            raise
                        absent[path] = error
            if not any(absent.values()):
                break
        fault = self.remote_fault() if any(absent.values()) else ""
        return {path: _clause(error, fault) if error else "" for path, error in absent.items()}

    def remote_fault(self) -> str:
        """Return why the default remote cannot be read; empty if it can, or if there is none."""
        config = self._repo.config
        if not (name := config["core"].get("remote")):
            return ""
        try:
            remote = self._repo.cloud.get_remote(name)
            web = "http" in remote.fs.protocol
            (remote.fs.fs.cat_file if web else remote.fs.ls)(remote.path)  # the web lists nothing
        except FileNotFoundError:
            fault = (
                "" if web else "expected a folder, got none; mount it, or `dvc push` to it first"
            )
        except Exception as error:  # each plug-in raises its own
            if getattr(error, "status", 0) in UNLISTED:
                return ""
            fault = (
                f"expected an answer, got {_words(error)!r}; check its address, your keys and the "
                "network"
            )
            if package := re.search(r"'(dvc-\w+)'", str(error)):
                fault = (
                    f"expected the package {package[1]}, got none; add it to pyproject.toml, and "
                    "run `make lock`"
                )
        else:
            return ""
        url = re.sub("//[^/@]*@", "//", str(config["remote"].get(name, {}).get("url")))
        return fault and f"remote {name!r} ({url}): {fault}"

    @contextlib.contextmanager
    def _at(self, commit: str, remote: str | None) -> Iterator[Any]:
        """Open the project as it was at a commit, with the cache and the remotes of today."""
        remotes = {**self._repo.config["remote"]}
        config = {"cache": {"dir": os.fspath(self.cache)}, "remote": remotes}
        config |= _config(self._folder)
        scm = SCM(os.fspath(self._git))
        root = PurePosixPath("/", self.root.relative_to(self._git).as_posix())
        files = GitFileSystem(scm=scm, rev=commit)
        with Repo(str(root), fs=files, scm=scm, uninitialized=True, config=config) as repo:
            repo.config["core"]["remote"] = remote
            yield repo

    def _copy(self, repo: Any, path: Path, target: Path) -> bool:
        """Copy a file or folder from git or DVC; return False if the commit does not have it."""
        target.parent.mkdir(parents=True, exist_ok=True)
        in_git = f"/{self._prefix / path.as_posix()}"
        if repo.fs.isfile(in_git):  # whatever state DVC's files are in
            repo.fs.get_file(in_git, str(target))
            return True
        files, name = DVCFileSystem(repo=repo), f"/{os.path.relpath(in_git, repo.root_dir)}"
        try:
            files.info(name)
        except FileNotFoundError:
            return False
        shutil.rmtree(target, ignore_errors=True)  # of a first try, without the remote
        files.get(name, str(target), recursive=True)
        for one, info in files.find(name, detail=True).items():
            digest = (info.get("dvc_info") or {}).get("md5")
            copy = Path(os.path.normpath(target / os.path.relpath(one, name)))
            if digest and md5(copy) != digest:
                copy.unlink()
                (file,) = self.cache_files(digest)
                raise UserError(
                    f"damaged in DVC's cache; remove {os.path.relpath(file)}, then `dvc pull`, or "
                    "check that commit out and run dvc repro once"
                )
        return True

    def require_revision(self, revision: str) -> str:
        """Return the commit's hash; refuse a revision whose files are not all in this clone."""
        try:
            if not revision:
                raise RevError("empty")
            commit = str(resolve_rev(self._repo.scm, revision))
        except RevError:
            remedy = "`git branch --all` lists the branches"
            if git.run("rev-parse", "--is-shallow-repository") == "true":
                single = revision.removeprefix("origin/")
                remedy = (
                    "this clone is shallow, `git remote set-branches origin '*' && git fetch "
                    "--unshallow` fetches the whole history"
                )
                if re.fullmatch(r"[\w./-]+", single):
                    remedy += f", `git fetch --depth=1 origin {single}` one commit as FETCH_HEAD"
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
    git.place(folder)  # before DVC, whose words for a fault of git's are others
    try:
        with Repo(os.fspath(folder), config=_config(folder)) as repo:
            yield DvcProject(repo, folder)
    except NotDvcRepoError:
        raise UserError(
            f"{folder.resolve()}: expected a git clone of the project, got no .dvc in it; go to "
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


def fetch(revision: str, wanted: Iterable[Path], folder: Path) -> dict[Path, str]:
    """Copy files and folders of a commit from git, DVC's cache or its remote below `folder`.

    Return why others are not there, as a clause; it is empty if the commit has no such file.
    """
    with opened() as project:
        return project.fetch(revision, wanted, folder)


def _clause(error: Exception, remote_fault: str) -> str:
    if isinstance(error, UserError):
        return str(error)
    if remote_fault:
        return f"not in DVC's cache, and {remote_fault}"
    if isinstance(error, (FileNotFoundError, DataIndexError)):
        return (
            "neither in DVC's cache nor on a remote; push them from where they were computed, or "
            "check that commit out and run dvc repro once"
        )
    return f"not readable by DVC ({_words(error)})"


def _words(error: Exception) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 200, placeholder="...")


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
