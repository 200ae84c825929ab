"""What the tests of injected faults share: how long they go on, and a project that is quickly run.

`make torture` sets TORTURE=1: all kills, sites and bits. Without it a sample of them is tried.
Figures go to build/torture/.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from project import ROOT, Project

LONG = os.environ.get("TORTURE") == "1"
FIGURES = ROOT / "build" / "torture"
SMALL: dict[str, Any] = {
    "data.train": "data/raw/train.zip",
    "data.test": "data/raw/test.zip",
    "resize.size": 48,
    "extract.batch_size": 4,
    "extract.pooling": "avg",
    "train_head.kind": "logistic",
    "fine_tune.epochs": 1,
    "fine_tune.unfreeze_from": "conv3",
    "fine_tune.batch_size": 4,
    "explain.examples": 1,
    "explain.layers": 1,
    "explain.filters": 0,
    "compute.threads": 1,
}


def small_project(folder: Path) -> Project:
    """Eight pictures of each of two classes and two without a label; nothing has run."""
    project = Project.copy_of_this(folder)
    (folder / "data" / "raw").mkdir(parents=True, exist_ok=True)
    write_zips(folder, seed=0)
    project.change(SMALL)
    (folder / "dvc.lock").unlink()
    project.commit("small")
    return project


def write_zips(folder: Path, seed: int) -> None:
    """What `data.train` and `data.test` name, other pictures for another seed."""
    rng = np.random.default_rng(seed)
    for name, members in (
        ("train", [f"{label}.{number}" for label in ("cat", "dog") for number in range(8)]),
        ("test", ["1", "2"]),
    ):
        with zipfile.ZipFile(folder / "data" / "raw" / f"{name}.zip", "w") as archive:
            for member in members:
                coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(coarse).resize((40, 30)).save(buffer, "PNG")
                info = zipfile.ZipInfo(f"{name}/{member}.png")  # of one date, whenever it is
                archive.writestr(info, buffer.getvalue())


def outputs(folder: Path) -> dict[str, str]:
    """The sha256 of every file that the stages of a project have written, by its path.

    Of those in work (`.partial-NAME`, `.NAME.lock`) there is none here. `dvc.lock` is known by what
    it says of the stages: one that a kill has cut short lists them in another order later.
    """
    found = every_file(folder, *outs(folder))
    with contextlib.suppress(FileNotFoundError, yaml.YAMLError):
        says = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))
        found["dvc.lock"] = json.dumps(says, sort_keys=True)
    return found


def every_file(folder: Path, *below: str) -> dict[str, str]:
    """The sha256 of every file by its path; of `data/` and `metrics/` but caches, or of those."""
    found = {}
    for top in below or ("data", "metrics"):
        path = folder / top
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            name = file.relative_to(folder).as_posix()
            in_work = re.search(r"(^|/)\.(partial-|rows|training|.*\.lock$)", name)
            if file.is_file() and not in_work:
                found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def outs(folder: Path) -> list[str]:
    """The paths that the stages of dvc.yaml write, for the one backbone of the small project."""
    stages = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = [
        out if isinstance(out, str) else next(iter(out))
        for stage in stages.values()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    ]
    return sorted(name.replace("${item.backbone}", "convnet") for name in named)


def strays(folder: Path) -> list[Path]:
    """Temporary outputs that somebody left behind."""
    return [
        path
        for top in ("data", "metrics")
        for path in (folder / top).rglob(".partial-*")
        if ".rows" not in path.parts
    ] + [*(folder / "maps").glob(".*.partial")]


def mended(project: Project, told: str) -> str:
    """Take away what keeps `dvc repro` from starting, as `pipeline doctor` would say."""
    rwlock = project.folder / ".dvc" / "tmp" / "rwlock"
    if "rwlock" in told:
        rwlock.unlink()
        return "rwlock removed"
    if "dvc.lock" in told:
        project.git("checkout", "--", "dvc.lock")
        return "dvc.lock checked out"
    raise AssertionError(told)


def record(name: str, figures: Mapping[str, object]) -> None:
    """Keep what a long run has counted, for docs/reliability.md."""
    if LONG:
        FIGURES.mkdir(parents=True, exist_ok=True)
        text = json.dumps(figures, indent=2, sort_keys=True)
        (FIGURES / f"{name}.json").write_text(text + "\n", encoding="utf-8")
