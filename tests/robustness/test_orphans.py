"""A stage that DVC started ends when DVC is killed; one that was started by hand does not."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

LOCK = Path("data/.waiting.lock")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux only")

# A stage that reports when it is at work, and repeats a line; it gives up after a minute.
STAGE = """
import signal, sys
from pipeline import stage
signal.alarm(60)
stage._require_recorded = lambda *words: None
def main():
    "Wait."
    print("at work", flush=True)
    print("got", sys.stdin.readline().strip(), flush=True)
sys.argv = ["waiting"]
sys.exit(stage.stage(main)())
"""
# A process that starts the stage and waits for it, as DVC does.
PARENT = (
    "import subprocess, sys; sys.exit(subprocess.run([sys.executable, 'waiting.py']).returncode)"
)


def start(**environment: str) -> "subprocess.Popen[str]":
    """Start the parent of a stage; return once the stage is at work."""
    Path("waiting.py").write_text(STAGE, encoding="utf-8")
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


def test_a_stage_of_a_killed_dvc_releases_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with start(DVC_STAGE="waiting") as parent:
        parent.kill()
        with LOCK.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits for the end of the stage
        assert parent.stdout is not None
        assert parent.stdout.read() == ""


def test_a_stage_that_was_started_by_hand_outlives_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with start() as parent:
        parent.kill()
        assert parent.wait() == -signal.SIGKILL
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write("still there?\n")
        parent.stdin.flush()
        assert parent.stdout.read().startswith("got still there?\nwaiting: done in ")
