"""A project of two small stages in git and DVC, whose runs take a second."""

import os
import shutil
from pathlib import Path

from project import ROOT, Project

DVC_YAML = """
stages:
  draw:
    cmd: python draw.py
    deps: [draw.py, raw/numbers.txt]
    params: [split.seed]
    outs: [data/numbers.csv]
  score:
    cmd: python score.py
    deps: [score.py, data/numbers.csv]
    outs: [data/model]
    metrics: [metrics/score.json: {cache: false}]
"""
# What DVC does not see makes another machine, or chance: the files `offset` and `chance`.
DRAW = """
import os
from pathlib import Path
outside = Path(os.environ["TINY"])
offset = float((outside / "offset").read_text())
numbers = [float(line) + offset for line in Path("raw/numbers.txt").read_text().split()]
Path("data").mkdir(exist_ok=True)
Path("data/numbers.csv").write_text("".join(f"{one!r}\\n" for one in numbers))
"""
SCORE = """
import json, os, uuid
from pathlib import Path
import numpy as np
outside = Path(os.environ["TINY"])
numbers = np.loadtxt("data/numbers.csv")
os.makedirs("data/model")
np.savez("data/model/head.npz", weights=numbers * 2)
Path("data/model/note.txt").write_text(uuid.uuid4().hex if (outside / "chance").exists() else "")
os.makedirs("metrics", exist_ok=True)
Path("metrics/score.json").write_text(json.dumps({"loss": numbers.mean()}))
"""


class Tiny(Project):
    """Committed and run, with its raw input outside git, as a user's photos are."""

    @classmethod
    def made(cls, folder: Path) -> "Tiny":
        tiny = cls(folder / "tiny")
        (folder / "outside").mkdir()
        os.environ["TINY"] = str(folder / "outside")
        tiny.folder.mkdir()
        for name, text in {
            "dvc.yaml": DVC_YAML,
            "draw.py": DRAW,
            "score.py": SCORE,
            ".gitignore": "/raw\n/data\n",
            ".site-cache/repo/.gitignore": "*\n!.gitignore\n",
            ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
            "raw/numbers.txt": "1\n2\n4\n",
        }.items():
            (tiny.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tiny.folder / name).write_text(text, encoding="utf-8")
        for name in ("params.yaml", ".dvc/config"):
            shutil.copyfile(ROOT / name, tiny.folder / name)
        tiny.outside("offset", "0")
        tiny.init()
        tiny.dvc("repro", "--quiet")
        tiny.commit("run")
        return tiny

    def outside(self, name: str, text: str) -> None:
        """Write a file that no stage depends on, but all read."""
        (self.folder.parent / "outside" / name).write_text(text, encoding="utf-8")

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace the first occurrence of a text in a file."""
        text = self.read(name)
        assert old in text
        (self.folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    def dvc(self, *words: str) -> str:
        return self.run("dvc", *words)

    def clone(self, folder: Path) -> "Tiny":
        """What git has of it, in another folder."""
        self.git("clone", "--quiet", ".", str(folder))
        return Tiny(folder)
