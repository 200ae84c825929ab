"""`dvc repro` killed at random moments, again and again: the next one ends with the same bytes.

The stage, `dvc`, or its process group get SIGKILL, SIGTERM or SIGINT while a random stage runs
again. `make torture` kills 2 x 100 runs of all stages, half an hour; `make test-slow` kills three
runs of the stages up to `resize`.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from project import Project
from torture import LAST, LONG, complete, outputs, outs, small_project, strays

KILLS, LANES = (100, 2) if LONG else (3, 1)
TARGETS, SIGNALS = ("stage", "dvc", "group"), ("SIGKILL", "SIGTERM", "SIGINT")
START_S = 1.2  # of dvc, before it looks at stages
PATIENCE_S = 900  # a shared machine may be slow

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="a stage notices the end of dvc on Linux only"
)


def start(project: Project, *words: str) -> "subprocess.Popen[bytes]":
    """Start `dvc repro` in a session of its own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", *words],
        cwd=project.folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def of_session(leader: int) -> Iterator[psutil.Process]:
    """Yield the living processes of a run, dvc included."""
    for process in psutil.process_iter(["cmdline", "status"]):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            alive = process.info["status"] != psutil.STATUS_ZOMBIE
            if alive and os.getsid(process.pid) == leader:
                yield process


def running_stage(leader: int) -> psutil.Process | None:
    for process in of_session(leader):
        if any(word.startswith("stages.") for word in process.info["cmdline"] or ()):
            return process
    return None


def send(
    process: "subprocess.Popen[bytes]", target: str, number: int, moment: float, seconds: float
) -> bool:
    """Wait for that fraction of a run and send the signal; return whether a process received it."""
    if target != "stage":
        time.sleep(moment * (START_S + seconds))
        if process.poll() is None:
            (os.killpg if target == "group" else os.kill)(process.pid, number)
            return True
    while process.poll() is None:
        if stage := running_stage(process.pid):
            time.sleep(moment * seconds)
            with contextlib.suppress(psutil.NoSuchProcess):
                stage.send_signal(number)
                return True
            return False
        time.sleep(0.01)
    return False


def wait(process: "subprocess.Popen[bytes]") -> None:
    """Wait until dvc and all its children are gone; none outlives dvc for long."""
    process.wait(PATIENCE_S)
    ended = time.monotonic()
    while any(of_session(process.pid)):
        assert time.monotonic() - ended < 10, "an orphan lives on"
        time.sleep(0.02)


def remove(project: Project, stage: str) -> None:
    """Remove what a stage writes, and the row cache."""
    shutil.rmtree(project.folder / "data" / ".rows", ignore_errors=True)
    for name in outs(project.folder, stage.partition("@")[0]):
        path = project.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("lane", range(LANES))
def test_a_run_that_is_killed_at_any_moment_is_completed_to_the_same_bytes(
    lane: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(lane)
    project = small_project(tmp_path / "project")
    printed = project.run("dvc", "repro", *LAST)
    ran = re.findall(r"^Running stage '(.+)':$.*?: done in ([\d.]+) s", printed, re.M | re.S)
    seconds = {stage: 1 + float(duration) for stage, duration in ran}
    project.commit("reproduced")
    finished = outputs(project.folder)
    kills = 0
    while kills < KILLS:
        stage, how = str(rng.choice(list(seconds))), rng.choice(["force", "removed", "cache"])
        target, name = str(rng.choice(TARGETS)), str(rng.choice(SIGNALS))
        words = ["--force", "--single-item", stage]
        if how != "force":
            remove(project, stage)
            words = [*(["--no-run-cache"] if how == "removed" else []), *LAST]
        process = start(project, *words)
        number = getattr(signal, name)
        killed = send(process, target, number, float(rng.random()), seconds[stage])
        wait(process)
        if not killed:  # it was over before
            continue
        kills += 1
        for output, digest in outputs(project.folder).items():
            whole = output == "dvc.lock" or finished.get(output) == digest
            assert whole, f"{stage}, {how}, {target}, {name}: {output} is half written"
        if rng.random() < 0.6 or kills == KILLS:
            complete(project, *(["--no-run-cache"] if rng.random() < 0.5 else []), *LAST)
            assert outputs(project.folder) == finished
    if LONG:
        complete(project, "--force")
        assert strays(project.folder) == []
    assert outputs(project.folder) == finished
