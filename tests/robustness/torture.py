"""Shared by the tests of injected faults: how long they run, and a project that runs quickly.

`make torture` sets TORTURE=1: all kills, sites and bits. Without it, a sample of them is tried.
Counts go to build/torture/.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from project import ROOT, Project

TESTS = ROOT / "tests"
FOLDERS = [ROOT, TESTS, TESTS / "robustness", TESTS / "robustness" / "inputs"]
PYTHONPATH = os.pathsep.join(map(str, FOLDERS))
LONG = os.environ.get("TORTURE") == "1"
COUNTS = ROOT / "build" / "torture"
SMALL: dict[str, Any] = {
    "data.train": "data/raw/train.zip",
    "data.test": "data/raw/test.zip",
    "resize.size": 48,
    "backbones.convnet.pooling": "avg",
    "backbones.convnet.unfreeze_from": "conv3",
    "extract.batch_size": 4,
    "train_head": {"kind": "logistic", "inverse_regularization": 0.01, "max_iterations": 500},
    "fine_tune.epochs": 1,
    "fine_tune.batch_size": 4,
    "explain.examples": 1,
    "explain.layers": 1,
    "explain.filters": 0,
    "compute.threads": 1,
}


def small_project(folder: Path) -> Project:
    """Create a project of eight images per class and two unlabelled ones, without running it."""
    project = Project.copy_of_this(folder)
    (folder / "data" / "raw").mkdir(parents=True, exist_ok=True)
    write_zips(folder, seed=0)
    project.change(SMALL)
    (folder / "dvc.lock").unlink()
    project.commit("small")
    return project


def write_zips(folder: Path, seed: int) -> None:
    """Write `data.train` and `data.test`, with other images for another seed."""
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
                info = zipfile.ZipInfo(f"{name}/{member}.png")  # with a fixed date
                archive.writestr(info, buffer.getvalue())


def outputs(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file that stages wrote, by its path, and the content of dvc.lock.

    A `dvc.lock` that a kill has cut short lists its stages in another order later.
    """
    hashes = hash_files(folder, *outs(folder))
    with contextlib.suppress(FileNotFoundError, yaml.YAMLError):
        content = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))
        hashes["dvc.lock"] = json.dumps(content, sort_keys=True)
    return hashes


def hash_files(folder: Path, *below: str) -> dict[str, str]:
    """Return the sha256 of every finished file below `data/` and `metrics/`, or other paths."""
    hashes = {}
    for top in below or ("data", "metrics"):
        path = folder / top
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            name = file.relative_to(folder).as_posix()
            unfinished = re.search(
                r"(^|/)\.(partial-|rows|training|activations|machines|.*\.lock$)", name
            )
            if file.is_file() and not unfinished:
                hashes[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return hashes


def outs(folder: Path, only: str = "") -> list[str]:
    """Return the paths that one stage or all of dvc.yaml write, for the backbone `convnet`."""
    stages = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    names = [
        out if isinstance(out, str) else next(iter(out))
        for name, stage in stages.items()
        if only in ("", name)
        for kind in ("outs", "metrics", "plots")
        for out in stage.get("do", stage).get(kind, [])
    ]
    return sorted(path.replace("${key}", "convnet") for path in names)


def strays(folder: Path) -> list[Path]:
    """Return temporary outputs that were left behind."""
    return [
        path
        for top in ("data", "metrics")
        for path in (folder / top).rglob(".partial-*")
        if ".rows" not in path.parts
    ] + [*(folder / "maps").glob(".*.partial")]


def digest(folder: Path) -> str:
    """Return a hash of names and bytes of all files in a folder; "" if there are none."""
    hashes = hash_files(folder.parent, folder.name) if folder.exists() else {}
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest() if hashes else ""


def repair(project: Project, printed: str) -> str:
    """Remove what keeps `dvc repro` from starting, as `pipeline doctor` advises."""
    if "rwlock" in printed:
        (project.folder / ".dvc" / "tmp" / "rwlock").unlink()
        return "rwlock removed"
    if "dvc.lock" in printed:
        project.git("checkout", "--", "dvc.lock")
        return "dvc.lock checked out"
    raise AssertionError(printed)


def inject(
    stage: Sequence[str], runs: Sequence[Mapping[str, Any]], folder: Path, **environment: str
) -> list[dict[str, Any]]:
    """Let `faults.py` run a stage in `folder`; return the result of each run."""
    ended = subprocess.run(
        [sys.executable, Path(__file__).with_name("faults.py"), *stage],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": PYTHONPATH,
            "PYTHONDONTWRITEBYTECODE": "1",  # such files would count as sites
            "MPLCONFIGDIR": str(folder.parent / "matplotlib"),
            **environment,
        },
        input=json.dumps(list(runs)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    results: list[dict[str, Any]] = json.loads(ended.stdout.splitlines()[-1])
    return results


def record(name: str, counts: Mapping[str, object]) -> None:
    """Store what a long run has counted, for docs/reliability.md."""
    if LONG:
        COUNTS.mkdir(parents=True, exist_ok=True)
        text = json.dumps(counts, indent=2, sort_keys=True)
        (COUNTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
