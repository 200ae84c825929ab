"""Forced runs of the sample write the same `dvc.lock`, in float32 and in bfloat16.

`make torture` runs it ten times each, in two clones, alternating between two dates, two users and
two languages. Otherwise nothing here runs: `.ci/run` verifies the sample once.
"""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import QUICK, Project
from torture import LONG, record

from pipeline.runtime import machine

RUNS = 10
PRECISIONS = {
    "float32": {},
    "bfloat16": {
        "extract.precision": "bfloat16",
        "fine_tune.precision": "bfloat16",
        "compute.instruction_set": None,
    },
}
SECONDS_A_YEAR = 365 * 24 * 3600
# Python's clock, a year later.
LATER = f"""
import time
_now = time.time
time.time = lambda: _now() + {SECONDS_A_YEAR}
time.time_ns = lambda: int(time.time() * 10**9)
"""

pytestmark = pytest.mark.skipif(not LONG, reason="ten runs of the sample: make torture")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_ten_forced_runs_write_the_same_lock(precision: str, tmp_path: Path) -> None:
    if precision == "bfloat16" and "AVX512_CORE" not in machine.instruction_sets():
        pytest.skip("oneDNN has no bfloat16 below AVX512_CORE")
    started = time.monotonic()
    first = Project.copy_of_this(tmp_path / "a clone")
    first.change(QUICK | PRECISIONS[precision])
    first.commit("quick")
    first.git("clone", "--quiet", ".", str(tmp_path / "another place" / "zweiter Klon"))
    clones = [first, Project(tmp_path / "another place" / "zweiter Klon")]
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "sitecustomize.py").write_text(LATER, encoding="utf-8")
    locks = []
    for run in range(RUNS):
        project = clones[run % 2]
        place = ("C", "UTC") if run % 3 else ("C.UTF-8", "JST-9")
        words = ["env", f"LANG={place[0]}", f"TZ={place[1]}"]
        if run % 4 >= 2:
            words += [f"PYTHONPATH={tmp_path / 'later'}", "HOME=/nonexistent", "USER=somebody"]
            if sys.platform == "linux" and os.geteuid() == 0:
                words = ["unshare", "--map-user=4321", *words]  # the same files, another user
        command = [*words, sys.executable, "-m", "dvc", "repro", "--force", "--no-run-cache"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path}
        subprocess.run(
            command, cwd=project.folder, env=environment, check=True, capture_output=True
        )
        locks.append(hashlib.sha256((project.folder / "dvc.lock").read_bytes()).hexdigest())
    record(
        f"repeats-{precision}",
        {"runs": RUNS, "different_locks": len(set(locks)), "seconds": time.monotonic() - started},
    )
    assert len(set(locks)) == 1
