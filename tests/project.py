"""A copy of this project in a folder of its own, with `dvc repro` run in it for real."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
Keys = dict[str, Any]
STAGES = [
    *("code", "split", "resize", "fetch_weights@convnet", "extract@convnet", "audit"),
    *("train_head", "fine_tune", "evaluate", "explain", "submit", "report"),
]


class Project:
    """A git repository with the project's files as they are in the working tree, committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def copy_of_this(cls, folder: Path) -> "Project":
        listed = Project(ROOT).git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
        project = cls(folder)
        project.init()
        project.commit("as it is")
        return project

    def init(self) -> None:
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "a tester")
        self.git("config", "user.email", "tester@example.org")

    def copy_to(self, folder: Path) -> "Project":
        """This project with all that was computed in it, in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def git(self, *words: str) -> str:
        return self.run("git", *words)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", f"--message={message}")

    def change(self, changes: Mapping[str, Any]) -> None:
        """Set keys of params.yaml, given by their full names."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key, value in changes.items():
            *sections, last = key.split(".")
            section = params
            for name in sections:
                section = section.setdefault(name, {})
            section[last] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    def repro(self, *words: str) -> list[str]:
        """`dvc repro`; the stages that were run, in order (not those restored from a cache)."""
        return re.findall(r"^Running stage '(.+)':$", self.run("dvc", "repro", *words), re.M)

    def run(self, *command: str, passes: bool = True) -> str:
        """What a command printed; it must end with status 0, or with another if not `passes`."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        module = (sys.executable, "-m") if command[0] == "dvc" else ()  # scripts cannot be moved
        ended = subprocess.run(
            [*module, *command],
            cwd=self.folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        printed = ended.stdout + ended.stderr
        assert (ended.returncode == 0) is passes, f"{command}: {ended.returncode}\n{printed}"
        return printed

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


# The embedded sample with little training, so that all of it takes half a minute.
_FEW: Keys = {"resize.size": 48, "fine_tune.epochs": 1, "compute.threads": 1}
_FEW |= {"explain.filters": 1, "explain.layers": 1, "explain.examples": 3}
QUICK = _FEW | {"train_head.epochs": 2, "train_head.hidden": [16]}
LOGISTIC: Keys = {"kind": "logistic", "inverse_regularization": 0.01, "max_iterations": 500}
QUICK_LOGISTIC = _FEW | {"train_head": LOGISTIC}
