"""`doctor` has a line for each thing that is wrong, with the command that mends it."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from project import ROOT
from tiny import Tiny

from pipeline.commands import doctor
from pipeline.runtime import machine

Doctor = Callable[[], tuple[int, str]]


@pytest.fixture
def told(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Doctor:
    """Call it in the small project, which names inputs that are there: its status, what it says."""
    shutil.copyfile(ROOT / "requirements.lock", "requirements.lock")
    tiny.change({"data.train": "raw", "data.test": "raw", "compute.threads": 1})
    monkeypatch.setattr(sys, "argv", ["doctor"])

    def call() -> tuple[int, str]:
        try:
            status = doctor.main()
        except SystemExit as ended:
            status = int(str(ended.code))
        return status, capfd.readouterr().out

    return call


def test_nothing_wrong_is_said_to_be_so(told: Doctor) -> None:
    status, said = told()
    assert status == 0
    assert said.endswith("doctor: 0 faults\n")
    assert [line[:6].strip() for line in said.splitlines()[:-1]] == ["ok"] * 7
    assert "ok    outputs: 3 of 3 are here; 2 of the 2 that DVC caches" in said


class Wrong(NamedTuple):
    """How something is made wrong, and the line that tells of it."""

    make: Callable[[Tiny, pytest.MonkeyPatch], object]
    line: str


def write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8")


def little_room(_: Tiny, patch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")._replace(free=2**20)
    patch.setattr(shutil, "disk_usage", lambda _: usage)


def read_only(_: Tiny, patch: pytest.MonkeyPatch) -> None:
    granted = os.access
    patch.setattr(os, "access", lambda path, mode: str(path) != "data" and granted(path, mode))


def conflict(tiny: Tiny, _: object) -> None:
    lock = tiny.read("dvc.lock")
    write("dvc.lock", f"<<<<<<< HEAD\n{lock}=======\n{lock}>>>>>>> other\n")


def another_package(_: Tiny, patch: pytest.MonkeyPatch) -> None:
    text = Path("requirements.lock").read_text(encoding="utf-8")
    write("requirements.lock", text.replace("zarr==", "zarr==9", 1) + "nowhere==1.0\n")


def shallow(tiny: Tiny, patch: pytest.MonkeyPatch) -> None:
    write(".git/shallow", tiny.git("rev-parse", "HEAD"))


def harmed_output(tiny: Tiny, _: object) -> None:
    path = tiny.folder / "data" / "numbers.csv"
    path.chmod(0o644)
    path.write_text("3\n")


def elsewhere(_: Tiny, __: object) -> None:
    machine.record("draw")
    text = machine.PATH.read_text(encoding="utf-8")
    write(str(machine.PATH), text.replace(machine.this()["processor"], "Another One"))


FAULTS = {
    "a package of another version, and one that is absent": Wrong(
        another_package, "FAULT packages: expected those of requirements.lock, got zarr "
    ),
    "a parameter that is not known": Wrong(
        lambda tiny, _: tiny.change({"resize.siez": 1}),
        "FAULT params.yaml: resize.siez: expected one of size, fit, interpolation, got an unknown",
    ),
    "an input that is not there": Wrong(
        lambda tiny, _: tiny.change({"data.train": "nowhere.zip"}),
        "FAULT params.yaml: data.train: expected a file or folder, got nothing at 'nowhere.zip'; "
        "put it there or correct the path",
    ),
    "an environment variable that nothing reads": Wrong(
        lambda _, patch: patch.setenv("STAGES_ROW_CACHE_GB", "1"),
        "FAULT STAGES_ROW_CACHE_GB: expected one of ",
    ),
    "a full disk": Wrong(
        little_room, "expected 1 GiB: `dvc gc --workspace` removes what other commits computed"
    ),
    "a folder that cannot be written to": Wrong(
        read_only, "FAULT data/: expected a folder that can be written to, got a read-only one;"
    ),
    "DVC's rwlock cut off": Wrong(
        lambda *_: write(".dvc/tmp/rwlock", '{"write": {'),
        "FAULT .dvc/tmp/rwlock: expected JSON, got a file that was cut off, as by a full disk or a "
        "kill; `rm .dvc/tmp/rwlock` while no dvc is running",
    ),
    "dvc.lock cut off": Wrong(
        lambda tiny, _: write("dvc.lock", tiny.read("dvc.lock")[:-7] + ": ["),
        "FAULT dvc.lock: expected what DVC writes, got a damaged file; `git checkout dvc.lock`, "
        "then `dvc repro`",
    ),
    "dvc.lock in conflict": Wrong(
        conflict,
        "FAULT dvc.lock: expected one version, got a merge conflict; `git checkout --ours "
        "dvc.lock`, then `dvc repro`",
    ),
    "a path at which DVC fails": Wrong(
        lambda *_: os.chdir(shutil.move(Path.cwd(), Path.cwd().with_name("a {copy}"))),
        "FAULT path: expected this folder's without braces, got { } in it, at which DVC fails; "
        "move or rename it",
    ),
    "no git": Wrong(
        lambda *_: shutil.rmtree(".git"), "FAULT .git: expected a checkout of git that git can read"
    ),
    "an output that is not what the lock says": Wrong(
        harmed_output,
        "FAULT data/numbers.csv: expected what dvc.lock says, got other bytes; `dvc checkout "
        "--force data/numbers.csv` or run `dvc repro`",
    ),
}
NOTES = {
    "a stale stage": Wrong(
        lambda tiny, _: tiny.change({"split.seed": 9}),
        "note  outputs: of other parameters, inputs or code than here are draw; `make "
        "verify-quick` tells which, `dvc repro` brings them up to date",
    ),
    "an output that is not here": Wrong(
        lambda *_: Path("data/numbers.csv").unlink(),
        "note  outputs: 2 of 3 are here; 2 of the 2 that DVC caches are in its cache, unharmed; "
        "`dvc pull` or `dvc repro` brings the others",
    ),
    "no lock yet": Wrong(
        lambda *_: Path("dvc.lock").unlink(),
        "note  outputs: no dvc.lock; `make repro` computes all",
    ),
    "what a killed run has left": Wrong(
        lambda *_: write("data/.partial-numbers.csv", ""),
        "note  left by a killed run: data/.partial-numbers.csv; the next run of that stage removes "
        "it, nothing reads it",
    ),
    "no home": Wrong(lambda _, patch: patch.delenv("HOME"), "note  HOME: not set; the pipeline "),
    "a clock that went backwards": Wrong(
        lambda *_: os.utime("dvc.yaml", (4e9, 4e9)), "note  clock: files here are "
    ),
    "a clone without older commits": Wrong(
        shallow,
        "note  git: older commits are not here, so nothing compares with them; `git fetch "
        "--unshallow`",
    ),
    "another machine": Wrong(
        elsewhere, "note  machine: draw ran on another kind (draw: processor: Another One, now "
    ),
}


@pytest.mark.parametrize("wrong", [*FAULTS, *NOTES])
def test_what_is_wrong_is_told_and_only_a_fault_makes_the_status_1(
    wrong: str, told: Doctor, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = (FAULTS | NOTES)[wrong]
    made.make(tiny, monkeypatch)
    status, said = told()
    assert made.line in said
    assert status == (wrong in FAULTS)
    assert said.endswith("doctor: 0 faults\n") is (wrong in NOTES)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """The lock that a stage holds while it works."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_stage_at_work_is_named_and_what_it_writes_is_no_stray(told: Doctor) -> None:
    write("data/.partial-numbers.csv", "")
    with held(Path("data/.extract.lock")):
        status, said = told()
    assert status == 0
    assert "note  at work in this folder: data/extract\n" in said
    assert "left by a killed run" not in said


def test_all_that_is_wrong_is_told_at_once(told: Doctor) -> None:
    write(".dvc/tmp/rwlock", "")
    write("params.yaml", "- a list\n")
    status, said = told()
    assert status == 1
    assert "FAULT params.yaml: " in said
    assert "FAULT .dvc/tmp/rwlock: " in said
