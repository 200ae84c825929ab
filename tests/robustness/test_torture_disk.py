"""Every write of every stage refused once by the disk: one sentence, status 1, nothing lost.

`make torture` fails each site with ENOSPC, EACCES and EIO, and runs all stages on a file system
that is too small; otherwise a few sites of the stages that need no Keras are tried.
"""

import contextlib
import importlib
import os
import re
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
from album import LEDGER, LOGISTIC, TRAIN, WEIGHTS, Album
from finished import finish, in_this_process
from project import Project
from torture import LONG, inject, outputs, record, repair, small_project, strays

from pipeline import paths
from pipeline.storage import arrays, ledger

STAGES = [["split"], ["resize"], ["audit"], ["train_head"], ["fine_tune"], ["evaluate"], ["submit"]]
WITH_KERAS = [["fetch_weights", "convnet"], ["extract", "convnet"], ["explain"], ["report"]]
COMMANDS = [
    ["predict", str(TRAIN), "--heatmap", "maps", "--csv"],
    ["export", "--format", "openvino"],
]
ALL = STAGES + WITH_KERAS + COMMANDS if LONG else STAGES
FAST = ("split", "resize")  # the others are tried by `make test-slow`
CASES = [pytest.param(words, marks=[] if words[0] in FAST else pytest.mark.slow) for words in ALL]
MUTE: Any = SimpleNamespace(readouterr=lambda: SimpleNamespace(out="", err=""))
ERRNOS = ["ENOSPC", "EACCES", "EIO"]
SIZES = 12  # of a disk that is too small

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="the driver uses /proc")]
if not LONG:  # one finished project for all
    pytestmark.append(pytest.mark.xdist_group("torture_disk"))


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of 18 images after `resize`; all stages have run if LONG."""
    folder = tmp_path_factory.mktemp("disk")
    if LONG:
        finish(folder)
    run_all(folder, ["audit", "submit", "explain", "report"] if LONG else ["split", "resize"])
    return folder


@pytest.fixture(scope="module")
def project(pixels: Path) -> Path:
    """The same project after all stages, if not LONG with features from nowhere."""
    if not LONG:
        with contextlib.chdir(pixels):
            WEIGHTS.parent.mkdir()
            WEIGHTS.write_bytes(b"nobody reads them")
            values = np.random.default_rng(0).normal(size=(18, 2, 8)).astype(np.float32)
            fingerprint = ledger.fingerprint(ledger.read_ledger(LEDGER))
            path = paths.features("convnet")
            arrays.write(path, [values], shape=(18, 2, 8), dtype="f4", fingerprint=fingerprint)
        run_all(pixels, [name for (name,) in STAGES if name not in FAST])
    return pixels


def run_all(folder: Path, stages: list[str]) -> None:
    with in_this_process() as changed:
        changed.chdir(folder)
        if "split" in stages:
            album = Album(changed, MUTE)
            album.change({"train_head": LOGISTIC, "fine_tune": None})
            album.split()
        for stage in stages:
            changed.setattr(sys, "argv", [stage])
            assert importlib.import_module(f"stages.{stage}").main() == 0


def check(stage: list[str], faults: dict[str, Any], folder: Path, name: str) -> None:
    """Each fault ends in one sentence and status 1, or the run goes on; no output changes."""
    started = time.perf_counter()
    whole, *runs = inject(stage, [{"fault": None}, faults], folder)
    assert whole["status"] == 0, whole["stderr"]
    counts: Counter[str] = Counter()
    wrong = []
    for run in runs:
        sentences = re.findall("^error: .*", run["stderr"], re.MULTILINE)
        refused = run["status"] == 1 and len(sentences) == 1 and "Traceback" not in run["stderr"]
        removal = run["site"] and run["site"][0] in ("os.remove", "os.rmdir")  # that file remains
        if (
            (refused or run["status"] == 0)
            and not run["differs"]
            and (removal or not run["strays"])
        ):
            counts["refused" if refused else "went on"] += 1
        else:
            wrong.append(str(run))
    seconds = round(time.perf_counter() - started, 1)
    counted = {"sites": whole["sites"], "faults": len(runs), "seconds": seconds, **counts}
    record(name, {**counted, "wrong": len(wrong)})
    assert not wrong, "\n".join([f"{len(wrong)} of {len(runs)}", *wrong[:10]])
    assert counts["refused"] > 0


@pytest.mark.parametrize("stage", CASES, ids=lambda words: words[0])
def test_a_write_that_the_disk_refuses_is_one_sentence_and_loses_nothing(
    request: pytest.FixtureRequest, stage: list[str]
) -> None:
    folder = request.getfixturevalue("pixels" if stage[0] in FAST else "project")
    faults = {"faults": ERRNOS, "sites": 0 if LONG else 3, "each": not LONG}
    check(stage, faults, folder, f"disk-{stage[0]}")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ALL if LONG else [["train_head"]], ids=lambda words: words[0])
def test_a_file_that_may_not_grow_is_one_sentence_and_loses_nothing(
    project: Path, stage: list[str]
) -> None:
    faults = {"faults": ["EFBIG"], "sites": 12 if LONG else 4}
    check(stage, faults, project, f"disk-size-{stage[0]}")


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own, in memory; not below pytest's folders, which others clean up."""
    with tempfile.TemporaryDirectory(prefix="small-disk-") as above:
        folder = Path(above, "disk")
        folder.mkdir()
        if not LONG or os.geteuid() != 0 or _mount(folder, "size=1g").returncode:
            pytest.skip("runs all stages many times, on a file system of its own: make torture")
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
    finished, most = outputs(project.folder), shutil.disk_usage(small_disk).used
    counts: Counter[str] = Counter()
    for size in np.linspace(least, most, SIZES + 1)[:-1].astype(int).tolist():
        shutil.rmtree(project.folder)
        untouched.copy_to(project.folder)
        _mount(small_disk, f"remount,size={size + 2**15}")
        printed = project.run("dvc", "repro", passes=False)
        assert "Traceback" not in printed, printed
        counts[_who_reports(printed)] += 1
        for name, content in outputs(project.folder).items():
            assert name == "dvc.lock" or content in (before.get(name), finished.get(name)), name
        _mount(small_disk, "remount,size=1g")
        while True:
            ended = project.run("sh", "-c", "dvc repro && echo completed || true")
            if ended.endswith("completed\n"):
                break
            counts[repair(project, ended)] += 1
        assert outputs(project.folder) == finished
        assert strays(project.folder) == []
    seconds = round(time.perf_counter() - started)
    record("disk-too-small", {"sizes": SIZES, **counts, "seconds": seconds})


def _who_reports(printed: str) -> str:
    """Return who reports the lack of room: a stage or DVC, which has two sentences for it."""
    sentences = re.findall("^error: .*", printed, re.MULTILINE)
    assert len(sentences) < 2, printed
    if sentences:
        assert "expected room on the disk" in sentences[0]
        return "a stage reports it"
    if "No possible cache link types" in printed:
        return "dvc finds no way to link"
    assert "No space left on device" in printed, printed
    return "dvc reports it"
