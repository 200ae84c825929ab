"""A full disk in every stage: one sentence, status 1, nothing lost; with room, the same bytes."""

import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from finished import finish, in_this_process
from project import Project
from torture import LONG, complete, hash_files, inject, outputs, small_project, strays

STAGES = [[name] for name in ("split", "resize", "audit", "train_head", "fine_tune", "evaluate")]
STAGES += [["fetch_weights", "convnet"], ["extract", "convnet"]]
STAGES += [["explain"], ["submit"], ["report"]]
NONE = ("", 0)
SITES = 12 if LONG else 1  # per stage and fault
SIZES = 12  # of a disk that is too small

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="it needs fork, audit hooks and mount"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 images and the outputs of all stages."""
    folder = tmp_path_factory.mktemp("disk")
    finish(folder)
    with in_this_process() as changed:
        changed.chdir(folder)
        for stage in ("audit", "explain", "submit", "report"):
            changed.setattr(sys, "argv", [stage])
            assert importlib.import_module(f"stages.{stage}").main() == 0
    return folder


@pytest.mark.xdist_group("torture_disk")
@pytest.mark.parametrize("stage", STAGES, ids=lambda words: words[0])
def test_a_stage_on_a_full_disk_ends_with_a_sentence_and_loses_nothing(
    stage: list[str], project: Path
) -> None:
    (whole,) = inject(stage, [NONE], project)
    assert whole["status"] == 0, whole["printed"]
    changes = int(whole["printed"].rpartition("changes: ")[2])
    sizes = [size for path in hash_files(project) if (size := (project / path).stat().st_size)]
    parts = np.linspace(0, 1, SITES + 2)[1:-1]
    faults = [("ENOSPC", int(site)) for site in 1 + parts * changes]
    faults += [("EFBIG", int(size) - 1) for size in np.quantile(sizes, parts)]
    *runs, again = inject(stage, [*faults, NONE], project)
    for fault, run in zip(faults, runs, strict=True):
        sentences = re.findall("^error: .*", run["printed"], re.M)
        refused = run["status"] == 1 and "expected room on the disk" in "".join(sentences)
        assert refused or run["status"] == 0, (fault, run["printed"])  # what may be left out is
        assert (len(sentences), run["strays"]) == (refused, []), (fault, run)
        assert run["outputs"] == whole["outputs"], fault
        assert "Traceback" not in run["printed"]
    # `resize` links to what the row cache has, and writes little.
    assert any(run["status"] == 1 for run in runs) or stage == ["resize"]
    assert (again["status"], again["outputs"]) == (0, whole["outputs"])


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own, in memory; not below pytest's folders, which others clean up."""
    with tempfile.TemporaryDirectory(prefix="small-disk-") as above:
        folder = Path(above, "disk")
        folder.mkdir()
        if not LONG or mount(folder, "size=1g"):
            pytest.skip("runs all stages many times, on a file system of its own: make torture")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def mount(folder: Path, options: str) -> int:
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(words, check=False, capture_output=True).returncode


def test_a_disk_too_small_for_a_run_loses_nothing_and_with_room_the_run_completes(
    small_disk: Path, tmp_path: Path
) -> None:
    untouched, project = small_project(tmp_path / "untouched"), Project(small_disk / "project")
    untouched.copy_to(project.folder)
    before, least = outputs(project.folder), shutil.disk_usage(small_disk).used
    project.repro()
    finished, most = outputs(project.folder), shutil.disk_usage(small_disk).used
    for size in np.linspace(least, most, SIZES + 1)[:-1].astype(int).tolist():
        shutil.rmtree(project.folder)
        untouched.copy_to(project.folder)
        mount(small_disk, f"remount,size={size + 2**15}")
        printed = project.run("dvc", "repro", passes=False)
        assert "Traceback" not in printed, printed
        sentences = re.findall("^error: .*", printed, re.MULTILINE)
        assert len(sentences) < 2, printed  # DVC has two of its own
        told = "expected room on the disk|No possible cache link types|No space left on device"
        told += "|database or disk is full|disk I/O error"  # of DVC's site cache
        assert re.search(told, printed), printed
        for name, content in outputs(project.folder).items():
            assert name == "dvc.lock" or content in (before.get(name), finished.get(name)), name
        mount(small_disk, "remount,size=1g")
        complete(project)
        assert outputs(project.folder) == finished
        assert strays(project.folder) == []
