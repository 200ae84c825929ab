"""Clones of a commit, one to run its stages again and one to compare with."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import config, paths
from pipeline.reproducibility import dvc_lock, dvc_project, git
from pipeline.runtime.errors import UserError

# Kept between runs; found again, they would make a new run no new one.
KEPT = (paths.ROW_CACHE, paths.FROZEN_ACTIVATIONS, paths.CHECKPOINT.parent)


class Clone:
    """Two checkouts of `commit`: stages run in `folder`, `committed` stays as it is.

    Both read this project's DVC cache; `folder` adds nothing to it.
    """

    def __init__(self, scratch: Path, revision: str) -> None:
        """Check out `revision` below the empty folder `scratch`."""
        self._here, scratch = Path.cwd(), scratch.resolve()
        self.commit = git.run("rev-parse", "--short", f"{revision}^{{commit}}") or ""
        if not self.commit:
            raise UserError(
                f"verify: expected a branch, tag or commit, got {revision!r}; "
                "`git branch --all` lists the branches"
            )
        self.folder, self.committed = scratch / "rerun", scratch / "committed"
        with dvc_project.opened() as project:
            self.cache = project.cache
        for folder in (self.folder, self.committed):
            cloned = git.run("clone", "--quiet", str(self._here), str(folder))
            if (cloned, git.run("checkout", "--quiet", self.commit, folder=folder)) != ("", ""):
                raise UserError(
                    f"verify: expected `git clone {self._here}` to work, got a failure; run it by "
                    "hand to see why"
                )
        if not (self.folder / ".dvc").is_dir():
            raise UserError(
                f"verify: expected a commit with DVC's folder .dvc, got {self.commit}, which has "
                "none; choose a later one"
            )
        local = self._here / ".dvc/config.local"
        if local.is_file():
            shutil.copyfile(local, self.folder / ".dvc/config.local")
        self._dvc("cache", "dir", "--local", os.fspath(self.cache), quiet=True)
        self._recorded = {stage.name: stage for stage in self.locked()}
        self._outs = {path for stage in self._recorded.values() for path in stage.outs}
        with dvc_project.opened(self.folder) as project:
            outs = [out for stage in project.stages() for out in stage.outs.items()]
        self._cached = {path for path, cached in outs if cached}
        with dvc_project.opened(self.committed) as project:
            self._in_git = {
                path: project.digest(self.committed / path)
                for path in self._outs
                if (self.committed / path).exists()
            }

    def locked(self) -> list[dvc_lock.Locked]:
        """Return the entries of `dvc.lock` for the stages of `dvc.yaml`, in the DAG's order."""
        entries = dvc_lock.read(self.folder / dvc_lock.PATH)
        with dvc_project.opened(self.folder) as project:
            outs = {stage.name: stage.outs.keys() for stage in project.stages()}
        recorded = {entry.name: entry.outs.keys() for entry in entries}
        if unknown := sorted(name for name in outs if outs[name] != recorded.get(name)):
            raise UserError(
                f"{dvc_lock.PATH}: expected all stages of dvc.yaml at {self.commit}, with their "
                f"outputs, got none or others of {', '.join(unknown)}; run `dvc repro` and commit "
                "it"
            )
        return [entry for entry in entries if entry.name in outs]

    def select(self, names: Sequence[str]) -> list[str]:
        """Return the stages of these names in the DAG's order; all without names.

        `extract` means `extract@NAME` of every backbone.
        """
        every = {stage: {stage, stage.partition("@")[0]} for stage in self._recorded}
        for name in names:
            if not any(name in called for called in every.values()):
                raise UserError(
                    f"verify: expected stages of {dvc_lock.PATH} ({', '.join(every)}), got "
                    f"{name!r}; correct the name"
                )
        return [stage for stage, called in every.items() if not names or called & {*names}]

    def run(self, names: Sequence[str], *, everything: bool) -> None:
        """Run all stages, or only these from the recorded outputs of the others."""
        for kept in KEPT:
            shutil.rmtree(self.folder / kept, ignore_errors=True)
        self._bring_inputs()
        for name in names:
            for path in self._recorded[name].deps:
                outs = sorted(out for out in self._outs if dvc_lock.overlap(path, out))
                if everything and outs:
                    continue
                for one in outs or [path]:  # a folder may hold outputs of several stages
                    if not self._bring(one):
                        raise UserError(
                            f"{one}: expected it in this folder, in DVC's cache or on its remote, "
                            "got none; put it there, `dvc pull` it, or verify all stages"
                        )
            if not everything:
                self._repro("--single-item", name)
        if everything:
            self._repro()

    def is_recorded(self, path: str, digest: str) -> bool:
        """Return whether git has the bytes in `dvc.lock`; true for an output that is not in git."""
        return self._in_git.get(path, digest) == digest

    def original(self, path: str, digest: str) -> Path | None:
        """Return an output as recorded, from git or linked from DVC's cache; None if in neither."""
        at = self.committed / path
        if at.exists():
            return at
        members = dvc_lock.members(self.cache, digest)
        if members is None or not all(member.is_file() for member in members.values()):
            return None
        for name, member in members.items():
            link = at / name if name else at
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(member)
        return at

    def _bring_inputs(self) -> None:
        """Bring the files that `params.yaml` names; the stage itself says which is missing."""
        with contextlib.suppress(UserError):  # an older commit lists them as dependencies
            params = config.read(self.folder / paths.PARAMS)
            named = [params.data.train, params.data.test]
            named += [one.path for one in params.backbones.values() if one.path is not None]
            for path in named:
                self._bring(path)

    def _bring(self, path: str) -> bool:
        """Bring a file or folder that is not in git, from this folder or DVC's cache or remote."""
        here, there = self._here / path, self.folder / path
        if there.exists():
            return True
        if path in self._cached or there.with_name(f"{there.name}.dvc").is_file():
            for command in ("checkout", "pull"):
                if not there.exists():
                    with contextlib.suppress(subprocess.CalledProcessError):
                        self._dvc(command, path, quiet=True)
        elif here.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(here, there)
        return there.exists()

    def _repro(self, *words: str) -> None:
        try:
            self._dvc("repro", "--force", "--no-run-cache", "--no-commit", *words)
        except subprocess.CalledProcessError:
            raise UserError(
                f"verify: expected the stages of {self.commit} to run, got a failure (above); "
                "fix it there first"
            ) from None

    def _dvc(self, *words: str, quiet: bool = False) -> None:
        """Run DVC with the packages of this process; its output goes to stderr."""
        environment = git.environment() | {"DVC_NO_ANALYTICS": "1"}
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


def _link_or_copy(source: Path, target: Path) -> None:
    """Link or copy a file or folder; no stage writes into its inputs."""

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
