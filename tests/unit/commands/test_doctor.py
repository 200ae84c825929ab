"""`pipeline doctor` prints a line for each thing that is wrong, with the command that fixes it."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from project import ROOT
from tiny import Tiny

from pipeline import paths
from pipeline.runtime import machine

Doctor = Callable[..., SimpleNamespace]
Make = Callable[[Tiny, pytest.MonkeyPatch], object]
LEFTOVER = "data/.partial-numbers.csv"


@pytest.fixture
def doctor(tiny: Tiny, pipeline: Doctor) -> Doctor:
    """Call it in the small project, whose parameters name inputs that exist."""
    shutil.copyfile(ROOT / "requirements.lock", "requirements.lock")
    tiny.change({"data.train": "raw", "data.test": "raw", "compute.threads": 1})
    return lambda *words: pipeline("doctor", *words)


def write(path: object, text: str) -> None:
    Path(str(path)).write_text(text, encoding="utf-8")


def change(key: str, value: object) -> Make:
    return lambda tiny, _: tiny.change({key: value})


def little_room(_: Tiny, patch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")._replace(free=2**20)
    patch.setattr(shutil, "disk_usage", lambda _: usage)


def read_only(_: Tiny, patch: pytest.MonkeyPatch) -> None:
    granted = os.access
    patch.setattr(os, "access", lambda path, mode: str(path) != "data" and granted(path, mode))


def conflict(tiny: Tiny, _: object) -> None:
    lock = tiny.read("dvc.lock")
    write("dvc.lock", f"<<<<<<< HEAD\n{lock}=======\n{lock}>>>>>>> other\n")


def other_packages(*_: object) -> None:
    text = Path("requirements.lock").read_text(encoding="utf-8")
    write("requirements.lock", text.replace("zarr==", "zarr==9", 1) + "nowhere==1.0\n")


def damaged_output(tiny: Tiny, _: object) -> None:
    path = tiny.folder / "data" / "numbers.csv"
    path.chmod(0o644)
    path.write_text("3\n")


def another_machine(*_: object) -> None:
    machine.record("draw")
    path = paths.MACHINES / "draw.json"
    text = path.read_text(encoding="utf-8")
    write(path, text.replace(machine.this()["processor"], "Another One"))


FAULTS: dict[str, tuple[Make, str]] = {
    "other packages": (other_packages, "packages: expected those of requirements.lock, got "),
    "an unknown parameter": (change("resize.siez", 1), "params.yaml: resize.siez: expected one of"),
    "an absent input": (change("data.train", "no.zip"), "params.yaml: data.train: expected a file"),
    "many threads": (change("compute.threads", 9999), "params.yaml: compute.threads: expected at "),
    "an unknown variable": (
        lambda _, patch: patch.setenv("STAGES_ROW_CACHE_GB", "1"),
        "STAGES_ROW_CACHE_GB: expected one of ",
    ),
    "a full disk": (little_room, "disk: 0.0 GiB free; expected 1 GiB: `dvc gc --workspace` remov"),
    "a read-only folder": (read_only, "data/: expected a writable folder, got a read-only one;"),
    "an rwlock that was cut off": (
        lambda *_: write(".dvc/tmp/rwlock", '{"write": {'),
        ".dvc/tmp/rwlock: expected JSON, got a file that a full disk or a kill cut off; `rm .dvc/",
    ),
    "a lock that was cut off": (
        lambda tiny, _: write("dvc.lock", tiny.read("dvc.lock")[:-7] + ": ["),
        "dvc.lock: expected a file written by DVC, got a damaged one; `git checkout dvc.lock`",
    ),
    "a lock in conflict": (conflict, "dvc.lock: expected one version, got a merge conflict; `git "),
    "braces in the path": (
        lambda *_: os.chdir(shutil.move(Path.cwd(), Path.cwd().with_name("a {copy}"))),
        "path: expected this folder's without braces, which DVC cannot handle, got { } in it; ",
    ),
    "no git": (lambda *_: shutil.rmtree(".git"), ".git: expected a git checkout, got none that "),
    "a damaged output": (damaged_output, "data/numbers.csv: expected the bytes that dvc.lock rec"),
}
NOTES: dict[str, tuple[Make, str]] = {
    "a stale stage": (change("split.seed", 9), "outputs: made from other inputs, parameters or co"),
    "an absent output": (lambda *_: Path("data/numbers.csv").unlink(), "outputs: 2 of 3 are here;"),
    "no lock": (lambda *_: Path("dvc.lock").unlink(), "outputs: no dvc.lock; `make repro` comp"),
    "a leftover": (lambda *_: write(LEFTOVER, ""), f"left by a killed run: {LEFTOVER}; nothing re"),
    "no home": (lambda _, patch: patch.delenv("HOME"), "HOME: not set; only Keras' download of "),
    "a shallow clone": (
        lambda tiny, _: write(".git/shallow", tiny.git("rev-parse", "HEAD")),
        "git: older commits are not here, so nothing compares with them; `git fetch --unshallow`",
    ),
    "another machine": (another_machine, "machine: draw ran on another kind (draw: processor: An"),
}


def test_a_sound_project_has_a_line_per_check_and_no_fault(doctor: Doctor) -> None:
    said = doctor()
    assert said.status == 0
    assert [line[:6].strip() for line in said.out.splitlines()] == ["ok"] * 7 + ["doctor"]
    assert said.out.endswith("doctor: 0 faults\n")
    assert doctor("--quick").out == ""


@pytest.mark.parametrize("wrong", [*FAULTS, *NOTES])
def test_each_finding_has_a_line_and_only_a_fault_gives_status_1(
    wrong: str, doctor: Doctor, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, line = (FAULTS | NOTES)[wrong]
    make(tiny, monkeypatch)
    said = doctor()
    assert f"{'FAULT' if wrong in FAULTS else 'note':6}{line}" in said.out
    assert said.status == (wrong in FAULTS)
    assert said.out.endswith("doctor: 0 faults\n") is (wrong in NOTES)


@pytest.mark.parametrize("wrong", ["an unknown parameter", "an absent input", "many threads"])
def test_quick_refuses_what_no_stage_can_run_with(
    wrong: str, doctor: Doctor, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, line = FAULTS[wrong]
    make(tiny, monkeypatch)
    said = doctor("--quick")
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith(f"error: {line}")


def test_a_running_stage_is_named_and_its_partial_output_is_no_leftover(doctor: Doctor) -> None:
    write(LEFTOVER, "")
    with Path("data/.extract.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = doctor()
    assert said.status == 0
    assert "note  running in this folder: data/extract\n" in said.out
    assert "left by a killed run" not in said.out


def test_all_faults_are_printed_at_once(doctor: Doctor) -> None:
    write(".dvc/tmp/rwlock", "")
    write("params.yaml", "- a list\n")
    said = doctor()
    assert said.status == 1
    assert "FAULT params.yaml: " in said.out
    assert "FAULT .dvc/tmp/rwlock: " in said.out
