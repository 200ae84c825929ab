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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from project import Project
from torture import LONG, outputs, outs, record, repair, small_project, strays

KILLS, LANES = (100, 2) if LONG else (3, 1)
LAST = [] if LONG else ["resize"]  # run the project up to this stage; none: all
TARGETS, SIGNALS = ("stage", "dvc", "group"), ("SIGKILL", "SIGTERM", "SIGINT")
START_S = 1.2  # of dvc, before it looks at stages
PATIENCE_S = 900  # a shared machine may be slow

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="a stage notices the end of dvc on Linux only"
)


class Kill(NamedTuple):
    """Which stage runs, and who gets which signal after which fraction of its duration."""

    stage: str
    how: str  # "force" it, run it as its output is "removed", or restore that from the "cache"
    target: str
    signal: str
    moment: float


def drawn(rng: np.random.Generator, stages: list[str]) -> Kill:
    how = rng.choice(["force", "removed", "cache"], p=[0.5, 0.3, 0.2])
    target, number = str(rng.choice(TARGETS)), str(rng.choice(SIGNALS))
    return Kill(str(rng.choice(stages)), str(how), target, number, float(rng.random()))


def start(project: Project, *words: str) -> "subprocess.Popen[str]":
    """Start `dvc repro` in a session of its own; it prints into `log`, unbuffered."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (project.folder / "log").open("w", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-u", "-m", "dvc", "repro", *words],
            cwd=project.folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )


def printed(project: Project) -> str:
    return (project.folder / "log").read_text(encoding="utf-8", errors="replace")


def timed(project: Project) -> dict[str, float]:
    """Run all; return the seconds of each stage, by the times at which dvc announces them."""
    process = start(project, *LAST)
    begun: dict[str, float] = {}
    while process.poll() is None:
        for stage in re.findall(r"^Running stage '(.+)':$", printed(project), re.M):
            begun.setdefault(stage, time.monotonic())
        time.sleep(0.02)
    assert process.returncode == 0, printed(project)
    times = [*begun.values(), time.monotonic()]
    return {stage: times[place + 1] - times[place] for place, stage in enumerate(begun)}


def of_session(leader: int) -> Iterator[psutil.Process]:
    """Yield the living processes of a run, dvc included."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def running_stage(leader: int) -> psutil.Process | None:
    for process in of_session(leader):
        with contextlib.suppress(psutil.Error):
            if any(word.startswith("stages.") for word in process.cmdline()):
                return process
    return None


def send(kill: Kill, process: "subprocess.Popen[str]", seconds: dict[str, float]) -> bool:
    """Wait for the moment and send the signal; return whether a process received it."""
    number = getattr(signal, kill.signal)
    if kill.target != "stage":
        time.sleep(kill.moment * (START_S + seconds[kill.stage]))
        if process.poll() is not None:
            return False
        (os.killpg if kill.target == "group" else os.kill)(process.pid, number)
        return True
    while process.poll() is None:
        if stage := running_stage(process.pid):
            time.sleep(kill.moment * seconds[kill.stage])
            with contextlib.suppress(psutil.NoSuchProcess):
                stage.send_signal(number)
                return True
            return False
        time.sleep(0.01)
    return False


def wait(process: "subprocess.Popen[str]") -> float:
    """Wait until dvc and all its children are gone; return how long those outlived dvc."""
    process.wait(PATIENCE_S)
    ended = time.monotonic()
    while any(of_session(process.pid)):
        assert time.monotonic() - ended < 10, "an orphan lives on"
        time.sleep(0.02)
    return time.monotonic() - ended


def remove(project: Project, stage: str) -> None:
    """Remove what a stage writes, and the row cache."""
    shutil.rmtree(project.folder / "data" / ".rows", ignore_errors=True)
    for name in outs(project.folder, stage.partition("@")[0]):
        path = project.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def complete(project: Project, *words: str) -> list[str]:
    """Run `dvc repro` to its end; return the repairs that it needed before."""
    repairs: list[str] = []
    for _ in range(3):
        process = start(project, *words, *LAST)
        wait(process)
        if process.returncode == 0:
            return repairs
        repairs.append(repair(project, printed(project)))
    raise AssertionError(printed(project))


@pytest.mark.slow
@pytest.mark.parametrize("lane", range(LANES))
def test_a_run_that_is_killed_at_any_moment_is_completed_to_the_same_bytes(
    lane: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(lane)
    project = small_project(tmp_path / "project")
    started = time.monotonic()
    seconds = timed(project)
    project.commit("reproduced")
    finished, lock = outputs(project.folder), (project.folder / "dvc.lock").read_bytes()
    names = [name for name in outs(project.folder) if (project.folder / name).exists()]
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*Kill._fields[:4], "found")}
    slowest, number = 0.0, 0
    while number < KILLS:
        kill = drawn(rng, list(seconds))
        if kill.how == "force":
            words = ["--force", "--single-item", kill.stage]
        else:
            remove(project, kill.stage)
            words = [*(["--no-run-cache"] if kill.how == "removed" else []), *LAST]
        process = start(project, *words)
        if not send(kill, process, seconds):  # it was over before
            wait(process)
            continue
        number += 1
        slowest = max(slowest, wait(process))
        for field in Kill._fields[:4]:
            counts[field][str(getattr(kill, field))] += 1
        counts["found"][f"dvc ended with {process.returncode}"] += 1
        left = outputs(project.folder)
        for name, digest in left.items():
            if finished.get(name) != digest:
                assert name == "dvc.lock", f"{kill}: {name} is half written, or another file"
                counts["found"]["dvc.lock differs"] += 1
        counts["found"]["strays"] += bool(strays(project.folder))
        for name in names:
            of_it = [file for file in finished if file == name or file.startswith(f"{name}/")]
            there = sum(file in left for file in of_it)
            counts["found"]["part of a folder"] += 0 < there < len(of_it)
        if rng.random() < 0.6 or number == KILLS:
            again = ["--no-run-cache"] if rng.random() < 0.5 else []
            for repaired in complete(project, *again):
                counts["found"][repaired] += 1
            assert outputs(project.folder) == finished, kill
            counts["found"]["completed"] += 1
            again_in_order = (project.folder / "dvc.lock").read_bytes() == lock
            counts["found"]["completed, dvc.lock in another order"] += not again_in_order
        summary: dict[str, Any] = {name: dict(count) for name, count in counts.items()}
        summary |= {"kills": number, "seconds": round(time.monotonic() - started)}
        summary |= {"longest that a process outlived dvc, s": round(slowest, 2)}
        record(f"kills-{lane}", summary)
    if LONG:
        complete(project, "--force")
        assert strays(project.folder) == []
    assert outputs(project.folder) == finished
