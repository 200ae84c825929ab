"""A project of a few small pictures in the working folder, its stages run in this process."""

import copy
import importlib
import io
import itertools
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from project import LOGISTIC as LOGISTIC
from project import ROOT

from pipeline.storage import ledger

TRAIN, TEST, ROWS = Path("data/raw/train"), Path("data/raw/test"), Path("data/.rows")
HAPPENINGS = ("add", "remove", "rename", "shuffle", "copy", "write")
FIXES = Path("data/label_fixes.csv")
LEDGER, RESIZED = Path("data/split.csv"), Path("data/resized.zarr")
WEIGHTS, FEATURES = Path("data/weights/convnet.weights.h5"), Path("data/features/convnet.zarr")
DENSE: dict[str, Any] = {"kind": "dense", "hidden": [16], "batch_norm": False, "output": "softmax"}
DENSE |= {"input_dropout": 0.5, "dropout": 0, "optimizer": "adam", "learning_rate": 0.001}
DENSE |= {"epochs": 20, "batch_size": 32, "seed": 0}
AUGMENT = {"rotation": 15, "shift": 0.1, "shear": 0.1, "zoom": 0.1, "flip": True, "seed": 0}
SETTINGS: dict[str, Any] = {
    "data": {"train": str(TRAIN), "test": str(TEST)},
    "resize": {"size": 48},
    "extract": {"batch_size": 4, "views": 2},
    "predict": {"views": 1},
    "compute": {"threads": 1, "instruction_set": None},
}


class Album:
    """Pictures by their file names, as `data.train` will hold them, and the stages."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], each: int = 8
    ) -> None:
        """`each` pictures of two classes and two without a label, in the working folder."""
        self.rng = np.random.default_rng(0)
        self.pictures: dict[str, bytes] = {}
        text = (ROOT / "params.yaml").read_text(encoding="utf-8")
        self.params: dict[str, Any] = yaml.load(text, Loader=yaml.CSafeLoader)
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.change(SETTINGS)
        for label in ("cat", "dog"):
            self.add(label, each)
        TEST.mkdir(parents=True)
        FIXES.parent.mkdir(exist_ok=True)
        FIXES.write_text("member,label,source\n", encoding="utf-8")
        for number in (1, 2):
            (TEST / f"{number}.png").write_bytes(self.picture())

    def picture(self, kind: str = "PNG") -> bytes:
        """A picture unlike any other, of 16 to 40 pixels a side."""
        height, width = self.rng.integers(16, 41, 2)
        coarse = self.rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((int(width), int(height))).save(buffer, kind)
        return buffer.getvalue()

    def add(self, label: str, count: int) -> list[str]:
        """New pictures under new names, every other one a JPEG."""
        names = []
        for number in range(count):
            kind = "JPEG" if number % 2 else "PNG"
            names.append(self.new_name(label, ".jpg" if kind == "JPEG" else ".png"))
            self.pictures[names[-1]] = self.picture(kind)
        return names

    def new_name(self, label: str, suffix: str) -> str:
        """One that stands anywhere in the order."""
        taken = {name.split(".")[1] for name in self.pictures}
        free = [number for number in range(1000) if str(number) not in taken]
        return f"{label}.{self.rng.choice(free)}{suffix}"

    def of(self, label: str) -> list[str]:
        return [name for name in self.pictures if name.startswith(label)]

    def rename(self, names: Iterable[str]) -> None:
        for name in names:
            content = self.pictures.pop(name)
            self.pictures[self.new_name(name.split(".")[0], Path(name).suffix)] = content

    def shuffle(self) -> None:
        """The same names, each with the bytes of another one of its class and kind."""
        for label, suffix in itertools.product(("cat", "dog"), (".png", ".jpg")):
            names = [name for name in self.of(label) if name.endswith(suffix)]
            contents = self.rng.permutation(
                np.array([self.pictures[name] for name in names], object)
            )
            self.pictures |= dict(zip(names, contents, strict=True))

    def happen(self, kind: str) -> None:
        """One of `HAPPENINGS`, to pictures drawn from a drawn class."""
        label = str(self.rng.choice(["cat", "dog"]))
        some = [str(name) for name in self.rng.choice(self.of(label), 2, replace=False)]
        if kind == "add":
            self.add(label, int(self.rng.integers(1, 4)))
        elif kind == "remove" and len(self.of(label)) > 7:
            for name in some:
                del self.pictures[name]
        elif kind == "rename":
            self.rename(some)
        elif kind == "shuffle":
            self.shuffle()
        elif kind == "copy":
            self.pictures[self.new_name(label, Path(some[0]).suffix)] = self.pictures[some[0]]
        elif kind == "write":
            self.pictures[some[0]] = self.picture()

    def change(self, sections: dict[str, Any]) -> None:
        """Update sections of params.yaml, named with dots; None or another `kind` replaces one."""
        for name, changed in sections.items():
            *above, last = name.split(".")
            section = self.params
            for key in above:
                section = section[key]
            if isinstance(changed, dict) and "kind" not in changed and section.get(last):
                section[last] |= changed
            else:
                section[last] = copy.deepcopy(changed)
        text = yaml.dump(self.params, Dumper=yaml.CSafeDumper, sort_keys=False)  # 10 times faster
        Path("params.yaml").write_text(text, encoding="utf-8")

    def split(self) -> None:
        """Write the pictures and the ledger."""
        shutil.rmtree(TRAIN, ignore_errors=True)
        TRAIN.mkdir(parents=True)
        for name, content in self.pictures.items():
            (TRAIN / name).write_bytes(content)
        self.run("split")

    def resize(self) -> str:
        return self.run("resize")

    def fetch_weights(self) -> None:
        self.run("fetch_weights", "convnet")

    def extract(self) -> str:
        return self.run("extract", "convnet")

    def fresh(self, stage: str) -> dict[str, bytes]:
        """What `resize` or `extract` writes without the row cache; its output stays as it was."""
        out = {"resize": RESIZED, "extract": FEATURES}[stage]
        aside = out.with_name("aside")
        if out.exists():
            out.rename(aside)
        with self._monkeypatch.context() as changed:
            changed.setenv("STAGES_ROW_CACHE_GIB", "0")
            printed = getattr(self, stage)()
        copies = len(self.hashes()) - len(set(self.hashes()))
        assert known(printed) <= copies * self.params["extract"]["views"]
        assert printed.splitlines()[-2] == "row cache: off"
        written = contents(out)
        shutil.rmtree(out)
        if aside.exists():
            aside.rename(out)
        return written

    def run(self, stage: str, *words: str) -> str:
        """What a stage prints; it ends well."""
        status, out, err = self._run(stage, *words)
        assert (status, err) == (0, ""), err
        return out

    def fails(self, stage: str, *words: str) -> str:
        """What a stage tells on stderr; it ends with status 1."""
        status, _, err = self._run(stage, *words)
        assert status == 1
        return err

    def _run(self, stage: str, *words: str) -> tuple[int, str, str]:
        with self._monkeypatch.context() as changed:
            changed.setattr(sys, "argv", [stage, *words])
            status = importlib.import_module(f"stages.{stage}").main()
        printed = self._capsys.readouterr()
        return status, printed.out, printed.err

    def hashes(self) -> list[str]:
        """The sha256 of each accepted picture's bytes, in the order of the ledger."""
        return [row.sha256 for row in ledger.read_ledger(LEDGER) if row.accepted]


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert files
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def computed(printed: str) -> int:
    """How many rows a stage has computed, by its own words."""
    ((count, _),) = counts(printed)
    return count


def known(printed: str) -> int:
    ((_, count),) = counts(printed)
    return count


def counts(printed: str) -> list[tuple[int, int]]:
    """How many rows each of several runs has computed, and how many it knew."""
    found = re.findall(r"(\d+) computed, (\d+) known before$", printed, re.M)
    return [(int(one), int(other)) for one, other in found]


def segments() -> list[Path]:
    """The files of the row cache of `resize`."""
    return sorted(path for path in ROWS.glob("*/*.shards/**/*") if path.is_file())


def damage(rng: np.random.Generator, path: Path) -> None:
    """A bit flips, the end lacks, or the file is gone."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["bit", "end", "gone"])
    if kind == "bit":
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
    elif kind == "end":
        path.write_bytes(content[: rng.integers(len(content))])
    else:
        path.unlink()
