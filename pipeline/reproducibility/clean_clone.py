"""A clone of this project in which stages run again, beside what the commit records."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from pipeline.reproducibility import dvc_lock
from pipeline.runtime.errors import UserError

CACHES = ("data/.rows", "data/.activations", "data/.training")


class Clone:
    """Two checkouts of one commit: `folder`, in which stages run, and `committed`, left alone.

    Both share this project's DVC cache, to which `folder` adds nothing.

    Attributes:
        commit: its abbreviated hash.
    """

    def __init__(self, scratch: Path, revision: str) -> None:
        """Check out `revision` below the empty folder `scratch`.

        Raises:
            UserError: no such revision, or this is no git checkout with DVC in it.
        """
        self._here, scratch = Path.cwd(), scratch.resolve()
        self.commit = self._git(self._here, "rev-parse", "--short", f"{revision}^{{commit}}")
        if not self.commit:
            raise UserError(
                f"verify: expected a branch, tag or commit, got {revision!r}; "
                "`git branch --all` lists the branches"
            )
        self.folder, self.committed = scratch / "rerun", scratch / "committed"
        with _repo(self._here) as repo:
            self.cache = dvc_lock.cache_of(repo)
        for folder in (self.folder, self.committed):
            self._command(scratch, "git", "clone", "--quiet", self._here, folder)
            self._command(folder, "git", "checkout", "--quiet", "--detach", self.commit)
        if not (self.folder / ".dvc").is_dir():
            raise UserError(
                f"verify: expected a commit with DVC's folder .dvc, got {self.commit}, which has "
                "none; give a later one"
            )
        local = self._here / ".dvc/config.local"
        if local.is_file():
            shutil.copyfile(local, self.folder / ".dvc/config.local")
        self._dvc("cache", "dir", "--local", os.fspath(self.cache), quiet=True)
        self._recorded = self.locked()
        outs = {path for stage in self._recorded for path in stage.outs}
        with _repo(self.committed) as repo:
            self._in_git = {
                path: dvc_lock.digest(repo, self.committed / path)
                for path in outs
                if (self.committed / path).exists()
            }

    def locked(self) -> list[dvc_lock.Locked]:
        """What `dvc.lock` says of the stages of `dvc.yaml`, in the order of the DAG.

        Raises:
            UserError: it does not know one of them.
        """
        known = dvc_lock.read(self.folder / dvc_lock.PATH)
        with _repo(self.folder) as repo:
            outs = {
                stage.name: {out.def_path for out in stage.outs}
                for stage in repo.index.stages
                if not stage.is_data_source
            }
        recorded = {stage.name: stage.outs.keys() for stage in known}
        if unknown := sorted(name for name in outs if outs[name] != recorded.get(name)):
            raise UserError(
                f"{dvc_lock.PATH}: expected all stages of dvc.yaml at {self.commit}, with their "
                f"outputs, got none or others of {', '.join(unknown)}; run `dvc repro` and commit "
                "it"
            )
        return [stage for stage in known if stage.name in outs]

    def chosen(self, locked: Sequence[dvc_lock.Locked], names: Sequence[str]) -> list[str]:
        """The stages of these names, of a matrix all, in the order of the DAG; all without names.

        Raises:
            UserError: there is no such stage.
        """
        known = [stage.name for stage in locked]
        for name in names:
            if not any(_is_of(one, name) for one in known):
                raise UserError(
                    f"verify: expected stages of {dvc_lock.PATH} ({', '.join(known)}), got "
                    f"{name!r}; correct the name"
                )
        return [one for one in known if not names or any(_is_of(one, name) for name in names)]

    def run(self, names: Sequence[str], *, whole: bool) -> None:
        """Run all stages, or these alone, from the outputs that the others have recorded.

        Raises:
            UserError: an input is not to be had, or a stage fails.
        """
        for cache in CACHES:  # what an earlier run here has kept would be no new run
            shutil.rmtree(self.folder / cache, ignore_errors=True)
        stages = {stage.name: stage for stage in self._recorded}
        made = {out for stage in self._recorded for out in stage.outs}
        for name in names:
            for path in stages[name].deps:
                if not (self.folder / path).exists() and not (whole and path in made):
                    self._fetch(path, made_by_a_stage=path in made)
            if not whole:
                self._repro("--single-item", name)
        if whole:
            self._repro()

    def is_recorded(self, path: str, digest: str) -> bool:
        """Whether git, if it has that output, has what `dvc.lock` says."""
        return self._in_git.get(path, digest) == digest

    def original(self, path: str, digest: str) -> Path | None:
        """An output as it is recorded: from git, or linked together from DVC's cache; or None."""
        at = self.committed / path
        if at.exists():
            return at
        found = dvc_lock.members(self.cache, digest)
        if found is None or not all(member.is_file() for member in found.values()):
            return None
        for name, member in found.items():
            link = at / name if name else at
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(member)
        return at

    def _fetch(self, path: str, *, made_by_a_stage: bool) -> None:
        """Bring an input that is not in git: from this folder, else DVC's cache or remote."""
        here, there = self._here / path, self.folder / path
        if made_by_a_stage or there.with_name(f"{there.name}.dvc").is_file():
            for command in ("checkout", "pull"):
                if not there.exists():
                    with contextlib.suppress(subprocess.CalledProcessError):
                        self._dvc(command, path, quiet=True)
        elif here.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(here, there)
        if not there.exists():
            raise UserError(
                f"{path}: expected it in this folder, in DVC's cache or on its remote, got it "
                "nowhere; put it there, `dvc pull` it, or verify all stages"
            )

    def _repro(self, *words: str) -> None:
        try:
            self._dvc("repro", "--force", "--no-run-cache", "--no-commit", *words)
        except subprocess.CalledProcessError:
            raise UserError(
                f"verify: expected the stages of {self.commit} to run, got a failure (above); "
                "mend it there first"
            ) from None

    def _dvc(self, *words: str, quiet: bool = False) -> None:
        """Run it with the packages of this process; what it prints goes to stderr."""
        environment = _environment() | {"DVC_NO_ANALYTICS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment["PYTHONPATH"] = os.fspath(self.folder)
        subprocess.run(  # noqa: S603
            [sys.executable, "-m", "dvc", *words],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL if quiet else sys.stderr,
            stderr=subprocess.DEVNULL if quiet else None,
            check=True,
        )

    @staticmethod
    def _git(folder: Path, *words: str) -> str:
        """What git prints; "" if it fails."""
        ended = subprocess.run(  # noqa: S603
            ["git", *words],  # noqa: S607
            cwd=folder,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.stdout.strip() if ended.returncode == 0 else ""

    @staticmethod
    def _command(folder: Path, *words: str | Path) -> None:
        ended = subprocess.run(  # noqa: S603
            list(map(str, words)),
            cwd=folder,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise UserError(
                f"verify: expected `{' '.join(map(str, words[:2]))}` to work here, got "
                f"{' '.join(ended.stderr.split())!r}; run it by hand to see why"
            )


@contextlib.contextmanager
def _repo(folder: Path) -> Iterator[Any]:
    """DVC's view of a folder.

    Raises:
        UserError: what DVC cannot read.
    """
    try:
        with Repo(os.fspath(folder)) as repo:
            yield repo
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"dvc: expected to be able to read the project, got {reason!r}; see `dvc status` there"
        ) from None


def _environment() -> dict[str, str]:
    """Without what git hooks and DVC set for this folder."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") and name != "DVC_STAGE"
    }


def _is_of(stage: str, name: str) -> bool:
    return stage == name or stage.partition("@")[0] == name


def _link_or_copy(source: Path, target: Path) -> None:
    """The same content under another path; what is linked is never written to by a stage."""

    def copy(one: str, other: str) -> str:
        try:
            os.link(os.path.realpath(one), other)
        except OSError:
            shutil.copyfile(one, other)
        return other

    if source.is_dir():
        shutil.copytree(source, target, copy_function=copy)
    else:
        copy(os.fspath(source), os.fspath(target))
