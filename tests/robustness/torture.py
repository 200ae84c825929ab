"""Shared by the tests of injected faults: a project that runs quickly, and what a run left.

`make torture` sets TORTURE=1: all kills, sizes and bits. Without it, a sample of them is tried.
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
from collections.abc import Sequence
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
LAST = [] if LONG else ["resize"]  # run the small project up to this stage; none: all
UNFINISHED = re.compile(r"(^|/)\.(partial-|rows|training|activations|machines|.*\.lock$)")
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
            if file.is_file() and not UNFINISHED.search(name):
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
    ]


def digest(folder: Path) -> str:
    """Return a hash of names and bytes of all files in a folder; "" if there are none."""
    hashes = hash_files(folder.parent, folder.name) if folder.exists() else {}
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest() if hashes else ""


def complete(project: Project, *words: str) -> None:
    """Run `dvc repro` to its end; first remove what keeps it from starting, as `doctor` advises."""
    for _ in range(3):
        printed = project.run("sh", "-c", 'dvc repro "$@" && echo completed || true', "sh", *words)
        if "completed\n" in printed:
            return
        if "rwlock" in printed:
            (project.folder / ".dvc" / "tmp" / "rwlock").unlink()
        else:
            assert "dvc.lock" in printed, printed
            project.git("checkout", "--", "dvc.lock")
    raise AssertionError(printed)


def inject(
    stage: Sequence[str], faults: Sequence[tuple[str, int]], folder: Path, **environment: str
) -> list[dict[str, Any]]:
    """Let `faults.py` run a stage in `folder`; return the result of each run."""
    ended = subprocess.run(
        [sys.executable, Path(__file__).with_name("faults.py"), *stage],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": PYTHONPATH,
            "PYTHONDONTWRITEBYTECODE": "1",  # such files would count as changes
            "MPLCONFIGDIR": str(folder.parent / "matplotlib"),
            **environment,
        },
        input=json.dumps(list(faults)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    results: list[dict[str, Any]] = json.loads(ended.stdout.splitlines()[-1])
    return results
