"""A clone of a commit, to run its stages again and compare with what it records."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import config, paths
from pipeline.reproducibility import dvc_project, git
from pipeline.reproducibility.dvc_project import LOCK, Stage
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError

# Kept between runs; found again, they would make a new run no new one.
KEPT = (paths.ROW_CACHE, paths.FROZEN_ACTIVATIONS, paths.CHECKPOINT.parent)


class Clone:
    """A checkout in `folder` that reads this project's DVC cache and adds nothing to it."""

    def __init__(self, scratch: Path, revision: str) -> None:
        """Check out `revision` below the empty folder `scratch`."""
        self._here, scratch = Path.cwd(), scratch.resolve()
        top, prefix = git.place()
        clone, self.recorded = scratch / "rerun", scratch / "recorded"
        self.folder = clone / prefix
        with dvc_project.opened() as project:
            commit = project.require_revision(revision)
            cache, dvc = project.cache, project.root / ".dvc"
        self.commit = commit[:10]
        cloned = git.run("clone", "--quiet", str(top), str(clone))
        checkout = ("checkout", "--quiet", commit)
        done = git.run(*checkout, folder=clone)
        if done is None:  # a shallow clone gives branches only
            git.run("fetch", "--quiet", "--depth=1", str(top), commit, folder=clone)
            done = git.run(*checkout, folder=clone)
        if (cloned, done) != ("", ""):
            raise UserError(
                f"verify: expected `git clone {top}` to work, got a failure; run it by hand to see "
                "why"
            )
        if not (there := clone / dvc.relative_to(top)).is_dir():
            raise UserError(
                f"verify: expected a commit with DVC's folder .dvc, got {self.commit}, which has "
                "none; choose a later one"
            )
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(dvc / "config.local", there / "config.local")
        self._dvc("cache", "dir", "--local", os.fspath(cache), quiet=True)
        self.stages = self.locked()
        outs = {path: of for stage in self.stages.values() for path, of in stage.outs.items()}
        with dvc_project.opened(self.folder) as project:
            self._hashes = project.data_files() | outs
            self.forged = [  # outputs in git that are not as dvc.lock says
                path
                for path, digest in outs.items()
                if (self.folder / path).exists() and project.digest(self.folder / path) != digest
            ]

    def locked(self) -> dict[str, Stage]:
        """Return the stages of the clone by name, in the order of `dvc.yaml`."""
        with dvc_project.opened(self.folder) as project:
            stages = {stage.name: stage for stage in project.stages()}
        unknown = [name for name, stage in stages.items() if not all(stage.outs.values())]
        if unknown:
            raise UserError(
                f"{LOCK}: expected all stages of dvc.yaml at {self.commit}, with their outputs, "
                f"got none or others of {', '.join(unknown)}; run `dvc repro` and commit it"
            )
        return stages

    def select(self, names: Sequence[str]) -> list[str]:
        """Return the stages of these names in the order of `dvc.yaml`; all without names.

        `extract` means `extract@NAME` of every backbone.
        """
        called = {stage: {stage, stage.partition("@")[0]} for stage in self.stages}
        for name in names:
            if not any(name in known for known in called.values()):
                raise UserError(
                    f"verify: expected stages of {LOCK} ({', '.join(called)}), got {name!r}; "
                    "correct the name"
                )
        return [stage for stage, known in called.items() if not names or known & {*names}]

    def run(self, names: Sequence[str], *, everything: bool) -> None:
        """Run all stages, or only these from the recorded outputs of the others."""
        for kept in KEPT:
            shutil.rmtree(self.folder / kept, ignore_errors=True)
        with contextlib.suppress(UserError):  # an older commit lists its inputs as dependencies
            params = config.read(self.folder / paths.PARAMS)
            weights = [one.path or "" for one in params.backbones.values()]
            for path in (params.data.train, params.data.test, *weights):
                self._bring(path)  # the stage itself says which is missing
        every = [out for stage in self.stages.values() for out in stage.outs]
        for name in names:
            for path in self.stages[name].deps:
                outs = [out for out in every if f"{path}/".startswith(f"{out}/")]
                outs += [out for out in every if out.startswith(f"{path}/")]  # of several stages
                if everything and outs:
                    continue
                for one in outs or [path]:
                    if not self._bring(one):
                        with dvc_project.opened() as project:
                            fault = project.remote_fault()
                        remedy = fault or "put it there, `dvc pull` it, or verify all stages"
                        raise UserError(
                            f"{one}: expected it in this folder as {LOCK} records it, in DVC's "
                            f"cache or on its remote, got none; {remedy}"
                        )
            if not everything:
                self._repro("--single-item", name)
        if everything:
            self._repro()

    def fetch(self, path: str) -> Path | str:
        """Return what the commit recorded: here, or a copy from git, DVC's cache or its remote.

        Text says why there is none.
        """
        if self._is_here(path):
            return self._here / path
        absent = dvc_project.fetch(self.commit, [Path(path)], self.recorded)
        return absent.get(Path(path), self.recorded / path)

    def _bring(self, path: str) -> bool:
        """Check a file or folder out of DVC's cache or remote, or link or copy it from here."""
        here, there = self._here / path, self.folder / path
        cached = any(path in stage.cached for stage in self.stages.values())
        if not there.exists() and (cached or there.with_name(f"{there.name}.dvc").is_file()):
            for command in ("checkout", "pull"):
                if not there.exists():
                    with contextlib.suppress(subprocess.CalledProcessError):
                        self._dvc(command, path, quiet=True)
            if not there.exists() and self._is_here(path):  # and not in the cache, or damaged there
                there.parent.mkdir(parents=True, exist_ok=True)
                copy = atomic_files.copy_folder if here.is_dir() else shutil.copyfile
                copy(here, there)
        elif not there.exists() and (
            self._is_here(path) if path in self._hashes else here.exists()
        ):
            # No stage writes into its inputs.
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(here.resolve())
        return there.exists()

    def _is_here(self, path: str) -> bool:
        """Return whether an output, or data in DVC, is in this folder as the commit records it."""
        if not (self._here / path).exists():
            return False
        with dvc_project.opened() as project:
            return project.digest(self._here / path) == self._hashes.get(path)

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
        environment["DVC_SITE_CACHE_DIR"] = os.fspath(self.folder / paths.SITE_CACHE)
        subprocess.run(  # noqa: S603
            [sys.executable, "-m", "dvc", *words],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL if quiet else sys.stderr,
            stderr=subprocess.DEVNULL if quiet else None,
            check=True,
        )
