"""`pipeline doctor` prints a line for each thing that is wrong, with the command that fixes it."""

import shutil
import sys
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


@pytest.fixture
def doctor(tiny: Tiny, pipeline: Doctor) -> Doctor:
    """Call it in the small project, whose parameters name inputs that exist."""
    shutil.copyfile(ROOT / "requirements.lock", "requirements.lock")
    tiny.change({"data.train": "raw", "data.test": "raw", "compute.threads": 1})
    return lambda *words: pipeline("doctor", *words)


def edit(name: str, edited: Callable[[str], str]) -> Make:
    def make(tiny: Tiny, _: object) -> None:
        path = tiny.folder / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        path.unlink(missing_ok=True)  # it may be a link into DVC's cache
        path.write_text(edited(text), encoding="utf-8")

    return make


def little_room(_: Tiny, patch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")._replace(free=2**20)
    patch.setattr(shutil, "disk_usage", lambda _: usage)


def open_to_all(*_: object) -> None:
    repos = Path("raw/.site-cache/repo")
    repos.mkdir(parents=True)
    repos.chmod(0o777)


def commit_crlf(tiny: Tiny) -> None:
    lines = tiny.read("draw.py")
    (tiny.folder / "draw.py").write_text(lines, encoding="utf-8", newline="\r\n")
    tiny.commit("CRLF")
    (tiny.folder / "draw.py").write_text(lines, encoding="utf-8")


def packages_of_a_gpu(package: str | None) -> Make:
    """One installed package for GPUs, or none, and the locks for them."""

    def make(_: Tiny, patch: pytest.MonkeyPatch) -> None:
        installed = machine.installed
        patch.setattr(
            machine, "installed", lambda name: "1" if name == package else installed(name)
        )
        for lock in paths.GPU_LOCKS.values():
            lock.touch()

    return make


def gpu(driver: str = "580.65.06", package: str | None = None, **params: str) -> Make:
    """An H100 with a driver, one installed package for GPUs, and changed parameters."""

    def make(tiny: Tiny, patch: pytest.MonkeyPatch) -> None:
        folder = tiny.folder / "nvidia"
        (folder / "gpus/0").mkdir(parents=True)
        text = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Sun May 12 19:39:15\n"
        (folder / "version").write_text(text)
        (folder / "gpus/0/information").write_text("Model: \t\t NVIDIA H100\nIRQ: 1\n")
        patch.setattr(machine, "NVIDIA", folder)
        packages_of_a_gpu(package)(tiny, patch)
        tiny.change({key.replace("_", ".", 1): value for key, value in params.items()})

    return make


FAULTS: dict[str, tuple[Make, str]] = {
    "other packages": (
        edit("requirements.lock", lambda text: text.replace("zarr==", "zarr==9") + "nowhere==1\n"),
        "packages: expected those of requirements.lock, got ",
    ),
    "an unknown parameter": (
        lambda tiny, _: tiny.change({"resize.siez": 1}),
        "params.yaml: resize.siez: expected one of",
    ),
    "a full disk": (
        little_room,
        "disk: expected 1 GiB free, got 0.0; `dvc gc --all-commits` remov",
    ),
    "an rwlock that was cut off": (
        edit(".dvc/tmp/rwlock", lambda _: '{"write": {'),
        ".dvc/tmp/rwlock: expected JSON, got a file that a full disk or a kill cut off; `rm .dvc/",
    ),
    "a site cache for everybody": (
        lambda *_: Path(".site-cache/repo").chmod(0o777),
        ".site-cache/repo: expected DVC's site cache to be closed to other users, got one that al",
    ),
    "another in a subfolder": (
        open_to_all,
        "as DVC makes it in a new folder; `chmod -R go-w raw/.site-cache`",
    ),
    "a lock that was cut off": (
        edit("dvc.lock", lambda text: text[:-7] + ": ["),
        "dvc: expected a readable project, got \"unable to read: 'dvc.lock', YAML file structure",
    ),
    "a lock in conflict": (
        edit("dvc.lock", lambda text: f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n"),
        "dvc.lock: expected one version, got a merge conflict; `git ",
    ),
    "line ends that git converts": (
        edit("draw.py", lambda text: text.replace("\n", "\r\n")),
        "line ends: expected LF, as in git, got CRLF in draw.py; add the line '* text=auto eol=lf' "
        "to .gitattributes, commit your changes, then `git rm -r --quiet --cached . && git reset",
    ),
    "line ends that git does not convert": (
        lambda tiny, _: commit_crlf(tiny),
        "line ends: expected LF in git, as here, got CRLF in draw.py; `git add --renormalize .`",
    ),
    "a driver that is too old": (
        gpu("535.183.01", "jax-cuda13-plugin", compute_backend="jax"),
        "gpu: expected NVIDIA's driver 580 or later, as the packages for jax need it, got 535; upd",
    ),
    "a damaged output": (
        edit("data/numbers.csv", lambda _: "3\n"),
        "data/numbers.csv: expected the bytes that dvc.lock rec",
    ),
}
NOTES: dict[str, tuple[Make, str]] = {
    "a stale stage": (
        lambda tiny, _: tiny.change({"split.seed": 9}),
        "outputs: made from other inputs, parameters or co",
    ),
    "an absent output": (lambda *_: Path("data/numbers.csv").unlink(), "outputs: 2 of 3 are here;"),
    "a GPU without its packages": (
        gpu(),
        "gpu: NVIDIA H100 is here and this environment cannot use it, as it has packages for the C",
    ),
    "a GPU's packages for another backend": (
        gpu(package="jax-cuda13-plugin"),
        "gpu: NVIDIA H100 is here and the parameters do not use it: requirements-jax-cuda.lock is ",
    ),
    "a GPU and an engine for the processor": (
        gpu(package="nvidia-cudnn-cu12", extract_engine="openvino"),
        "gpu: NVIDIA H100 is here and `extract` does not use it: extract.engine: openvino runs on ",
    ),
    "a GPU's packages and no GPU": (
        packages_of_a_gpu("jax-cuda13-plugin"),
        "gpu: packages of requirements-jax-cuda.lock are installed, but no GPU is here",
    ),
    "no lock": (lambda *_: Path("dvc.lock").unlink(), "outputs: no dvc.lock; `make repro` comp"),
}


def test_a_sound_project_has_a_line_per_check_and_no_fault(doctor: Doctor) -> None:
    said = doctor()
    assert said.status == 0
    assert [line[:6].strip() for line in said.out.splitlines()] == ["ok"] * 7 + ["doctor"]
    assert said.out.endswith("doctor: 0 faults\n")
    assert doctor("--quick").out == ""


@pytest.mark.parametrize(
    "head", ["#!{}/bin/python\n", "#!/bin/sh\n'''exec' '{}/bin/python' \"$0\"\n"]
)
@pytest.mark.parametrize("moved", [False, True])
def test_scripts_of_a_moved_environment_are_noticed(
    moved: bool, head: str, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a place"
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "dvc").write_text(head.format(tmp_path / "old" if moved else place))
    monkeypatch.setattr(sys, "prefix", str(place))
    said = doctor()
    assert (f"call {tmp_path}/old/bin, where they were installed: `make`" in said.out) is moved
    assert said.status == 0


@pytest.mark.parametrize("wrong", [*FAULTS, *NOTES])
def test_each_finding_has_a_line_and_only_a_fault_gives_status_1(
    wrong: str, doctor: Doctor, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, sentence = (FAULTS | NOTES)[wrong]
    make(tiny, monkeypatch)
    said = doctor()
    kind = "FAULT" if wrong in FAULTS else "note"
    assert [line for line in said.out.splitlines() if line.startswith(kind) and sentence in line]
    assert said.status == (wrong in FAULTS)
    faults = said.out.count("\nFAULT") + said.out.startswith("FAULT")
    assert faults == (wrong in FAULTS)  # one, and no other that follows from it
    assert said.out.endswith(f"doctor: {faults} fault{'s' * (faults != 1)}\n")


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("/nowhere/at/all", "(/nowhere/at/all): expected a folder, got none; mount it, or"),
        ("s3://bucket/cats", "(s3://bucket/cats): expected the package dvc-s3, got none; add it"),
        ("http://me:secret@127.0.0.1:9/", "(http://127.0.0.1:9/): expected an answer, got "),
    ],
)
def test_a_remote_that_does_not_answer_is_no_empty_one(
    url: str, fault: str, doctor: Doctor, tiny: Tiny
) -> None:
    assert doctor("--remote").status == 0
    tiny.dvc("remote", "add", "--quiet", "--default", "shared", url)
    said = doctor("--remote")
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert said.err.startswith(f"error: remote 'shared' {fault}")


def test_quick_prints_all_that_no_stage_can_run_with(doctor: Doctor, tiny: Tiny) -> None:
    tiny.change({"data.train": "no.zip", "compute.threads": 9999})
    said = doctor("--quick")
    assert (said.status, said.out) == (1, "")
    first, second = said.err.splitlines()
    assert first.startswith("error: params.yaml: data.train: expected a file")
    assert second.startswith("error: params.yaml: compute.threads: expected at most")
