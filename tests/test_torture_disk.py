"""Every write of every stage refused once by the disk: one sentence, status 1, nothing lost.

`make torture` fails each site with ENOSPC, EACCES and EIO, and runs all stages on a file system
that is too small; otherwise a few sites of the stages that need no Keras are tried.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from album import FEATURES, LEDGER, RESIZED, TRAIN, WEIGHTS, Album
from finished import FIGURES, FOLDERS, finish, in_this_process
from project import Project
from torture import LONG, mended, outputs, record, small_project, strays

from pipeline.storage import arrays, ledger

ROOT = Path(__file__).parent.parent
HEAD, MODEL = FOLDERS.values()
HISTORIES = ("metrics/head_history.csv", "metrics/fine_tune_history.csv")
INTERVALS = "metrics/intervals.json"
STAGES: dict[str, tuple[object, ...]] = {
    "split": ("data/label_fixes.csv", LEDGER, "metrics/split.json"),
    "names": ("data/names.txt",),
    "resize": (LEDGER, RESIZED),
    "audit": (LEDGER, RESIZED, FEATURES, FEATURES, "metrics/audit.json", "metrics/audit"),
    "train_head": (LEDGER, FEATURES, FEATURES, HEAD, "metrics/head.json", HISTORIES[0]),
    "fine_tune": (
        *(LEDGER, RESIZED, WEIGHTS, WEIGHTS, HEAD, MODEL, "metrics/fine_tune.json", HISTORIES[1]),
    ),
    "evaluate": (
        *(LEDGER, HEAD, MODEL, *HISTORIES, FIGURES, INTERVALS),
        *("metrics/curves", "metrics/pictures"),
    ),
    "submit": (LEDGER, HEAD, MODEL, FIGURES, "data/submission.csv"),
}
WITH_KERAS: dict[str, tuple[object, ...]] = {
    "fetch_weights": ("convnet", WEIGHTS),
    "extract": ("convnet", RESIZED, WEIGHTS, FEATURES),
    "explain": (
        *(LEDGER, RESIZED, WEIGHTS, WEIGHTS, HEAD, MODEL, FIGURES),
        *("metrics/audit", "metrics/explain"),
    ),
    "report": ("params.yaml", "metrics", "metrics/explain", "metrics/report"),
    "predict": (TRAIN, "--heatmap", "maps", "--csv"),
    "export": ("--format", "openvino"),
}
ALL = STAGES | WITH_KERAS if LONG else STAGES
NUMBERS = "ENOSPC,EACCES,EIO"
SIZES = 12  # of a disk that is too small

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="it forks")]
if not LONG:  # which is worth a finished project for each worker
    pytestmark.append(pytest.mark.xdist_group("torture_disk"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 pictures, all stages run; without Keras where that is not asked for."""
    folder = tmp_path_factory.mktemp("disk")
    mute: Any = SimpleNamespace(readouterr=lambda: SimpleNamespace(out="", err=""))
    if LONG:
        finish(folder)
    with in_this_process() as changed:
        changed.chdir(folder)
        if not LONG:
            album = Album(changed, mute)
            album.change({"train_head": {"kind": "logistic"}, "fine_tune": {"epochs": 0}})
            album.split()
            album.resize()
            WEIGHTS.parent.mkdir()
            WEIGHTS.write_bytes(b"nobody reads them")
            values = np.random.default_rng(0).normal(size=(18, 2, 8)).astype(np.float32)
            fingerprint = ledger.fingerprint(ledger.read_ledger(LEDGER))
            arrays.write(FEATURES, [values], shape=(18, 2, 8), dtype="f4", fingerprint=fingerprint)
        for stage, words in ALL.items():
            if stage not in ("predict", "export"):
                changed.setattr(sys, "argv", [stage, *map(str, words)])
                assert importlib.import_module(f"stages.{stage}").main() == 0
    return folder


def faulty(project: Path, stage: str, times: int, numbers: str) -> dict[str, Any]:
    """What `faulting.py` tells."""
    words = [stage, str(times), numbers, *map(str, ALL[stage])]
    ended = subprocess.run(
        [sys.executable, ROOT / "tests" / "faulting.py", *words],
        cwd=project,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "MPLCONFIGDIR": str(project.parent / "matplotlib"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told


def judged(told: dict[str, Any], name: str, started: float) -> None:
    """Each fault is one sentence and status 1, or the run went on; no output is another one."""
    counts: Counter[str] = Counter()
    wrong = []
    for run in told["runs"]:
        lines = run["stderr"].splitlines()
        told_once = [line.startswith("error: ") for line in lines].count(True) == 1
        refused = run["status"] == 1 and told_once and "Traceback" not in run["stderr"]
        removal = run["site"][0] in ("os.remove", "os.rmdir")  # then what should go is left
        if (
            not run["differs"]
            and (refused or run["status"] == 0)
            and (removal or not run["strays"])
        ):
            counts["refused" if refused else "went on"] += 1
        else:
            wrong.append(json.dumps(run))
    seconds = round(time.perf_counter() - started, 1)
    figures = {"sites": told["sites"], "faults": len(told["runs"]), "seconds": seconds}
    record(name, {**figures, **counts, "wrong": len(wrong)})
    assert not wrong, "\n".join([f"{len(wrong)} of {len(told['runs'])}", *wrong[:10]])
    assert counts["refused"] > 0


@pytest.mark.parametrize("stage", ALL)
def test_a_write_that_the_disk_refuses_is_one_sentence_and_loses_nothing(
    project: Path, stage: str
) -> None:
    started = time.perf_counter()
    numbers = NUMBERS if LONG else f"each:{NUMBERS}"
    judged(faulty(project, stage, 0 if LONG else 3, numbers), f"disk-{stage}", started)


@pytest.mark.parametrize("stage", ALL if LONG else ["train_head"])
def test_a_file_that_may_not_grow_is_one_sentence_and_loses_nothing(
    project: Path, stage: str
) -> None:
    started = time.perf_counter()
    judged(faulty(project, stage, 12 if LONG else 4, "EFBIG"), f"disk-size-{stage}", started)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own, in memory; not below pytest's folders, which others clean up."""
    with tempfile.TemporaryDirectory(prefix="small-disk-") as above:
        folder = Path(above, "disk")
        folder.mkdir()
        if not LONG or os.geteuid() != 0 or _mount(folder, "size=1g").returncode:
            pytest.skip("all stages many times, where a file system may be mounted: make torture")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def _mount(folder: Path, options: str) -> "subprocess.CompletedProcess[bytes]":
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(words, check=False, capture_output=True)


def test_a_disk_too_small_for_a_run_loses_nothing_and_with_room_the_run_completes(
    small_disk: Path, tmp_path: Path
) -> None:
    started = time.perf_counter()
    untouched, project = small_project(tmp_path / "untouched"), Project(small_disk / "project")
    untouched.copy_to(project.folder)
    before = outputs(project.folder)
    least = shutil.disk_usage(small_disk).used
    project.repro()
    known, most = outputs(project.folder), shutil.disk_usage(small_disk).used
    counts: Counter[str] = Counter()
    for size in np.linspace(least, most, SIZES + 1)[:-1].astype(int).tolist():
        shutil.rmtree(project.folder)
        untouched.copy_to(project.folder)
        _mount(small_disk, f"remount,size={size + 2**15}")
        said = project.run("dvc", "repro", passes=False)
        sentences = [line for line in said.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in said, said
        assert all("expected room on the disk" in line for line in sentences), said
        counts[told_by(sentences, said)] += 1
        for name, digest in outputs(project.folder).items():
            assert name == "dvc.lock" or digest in (before.get(name), known.get(name)), name
        _mount(small_disk, "remount,size=1g")
        while True:
            ended = project.run("sh", "-c", "dvc repro && echo completed || true")
            if ended.endswith("completed\n"):
                break
            counts[mended(project, ended)] += 1
        assert outputs(project.folder) == known
        assert strays(project.folder) == []
    seconds = round(time.perf_counter() - started)
    record("disk-too-small", {"sizes": SIZES, **counts, "seconds": seconds})


def told_by(sentences: list[str], said: str) -> str:
    """Who tells that there is no room; DVC, in two ways, where it is its own write that fails."""
    assert len(sentences) < 2, said
    if sentences:
        return "a stage tells it"
    if "No possible cache link types" in said:
        return "dvc finds no way to link"
    assert "No space left on device" in said, said
    return "dvc tells it"
