"""A stage that DVC has started ends when DVC is killed; one that was started by hand does not."""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime import entrypoint
from pipeline.runtime.errors import UserError

ROOT = Path(__file__).parent.parent
LOCK = Path("data/.waiting.lock")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that tells a child")

# A stage that says when it is at work, and answers what it is asked; it gives up after a minute.
STAGE = """
import signal, sys
from pipeline.runtime.entrypoint import stage
def give_up(*_):
    print("gave up", flush=True)
    sys.exit(1)
signal.signal(signal.SIGALRM, give_up)
signal.alarm(60)
def main():
    print("at work", flush=True)
    print("asked", sys.stdin.readline().strip(), flush=True)
sys.argv = ["waiting"]
sys.exit(stage(main)())
"""
# What starts it, as DVC does, and waits for it.
PARENT = f"""
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-c", {STAGE!r}]).returncode)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)


Parent = subprocess.Popen[str]


def start(**environment: str) -> Parent:
    """The parent of a stage that is at work."""
    clean = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "at work\n"
    return parent


def locked() -> bool:
    with LOCK.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def kill(parent: Parent) -> None:
    parent.kill()
    assert parent.wait() == -signal.SIGKILL


def test_a_stage_of_a_killed_dvc_lets_go_of_its_lock(folder: None) -> None:
    with start(DVC_STAGE="waiting") as parent:
        assert locked()
        kill(parent)
        with LOCK.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits until the stage is gone
        assert parent.stdout is not None
        assert parent.stdout.read() == ""  # it ended without an answer


def test_a_stage_that_was_started_by_hand_outlives_its_parent(folder: None) -> None:
    with start() as parent:
        kill(parent)
        assert locked()
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write("still there?\n")
        parent.stdin.flush()
        answer = parent.stdout.read()
    assert answer.startswith("asked still there?\nwaiting: done in ")
    assert not locked()


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What is asked of the kernel, which is not asked."""
    asked: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name: None) -> None:
            pass

        def prctl(self, option: int, value: int) -> int:
            asked.append((option, value))
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    return asked


def first_process(command: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be the parent of this one."""
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(Path, "read_bytes", lambda path: command)
    monkeypatch.setenv("DVC_STAGE", "waiting")


def test_a_stage_whose_dvc_is_gone_before_it_begins_is_refused(
    signals: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_process(b"/sbin/init\0", monkeypatch)
    with pytest.raises(UserError) as told:
        entrypoint._end_with_dvc()
    assert str(told.value) == (
        "dvc: expected it to wait for this stage, got an end of it; run `dvc repro` again"
    )
    assert signals == [(1, signal.SIGTERM)]


def test_dvc_may_be_the_first_process_as_in_a_container(
    signals: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_process(b"python\0/usr/bin/dvc\0repro\0", monkeypatch)
    entrypoint._end_with_dvc()
    assert signals == [(1, signal.SIGTERM)]


@pytest.mark.parametrize("why", ["by hand", "not on Linux"])
def test_nothing_is_asked_of_the_kernel_otherwise(
    why: str, signals: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "by hand":
        monkeypatch.delenv("DVC_STAGE", raising=False)
    else:
        monkeypatch.setenv("DVC_STAGE", "waiting")
        monkeypatch.setattr(sys, "platform", "darwin")
    entrypoint._end_with_dvc()
    assert signals == []
