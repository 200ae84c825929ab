"""Outputs appear complete or not at all, whatever happens to the process that writes them."""

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest
from project import ROOT

from pipeline.runtime import atomic_files
from pipeline.runtime.entrypoint import command
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays

OUT = Path("data/out")
SECOND_WRITER = "data/out: expected to be its only writer, got a second one"
STRAY = f".partial-{'0' * 32}-out"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names(folder: Path = OUT.parent) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def write(path: Path, kind: str, text: str) -> None:
    """Create a file or a folder of one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        path.mkdir()
        path /= "inside"
    path.write_text(text, encoding="utf-8")


def read(path: Path) -> str:
    return (path / "inside" if path.is_dir() else path).read_text(encoding="utf-8")


@pytest.mark.parametrize("previous", ["nothing", "file", "folder", "link to a folder"])
@pytest.mark.parametrize("new", ["file", "folder"])
def test_an_output_is_replaced_at_the_end_of_its_block(previous: str, new: str) -> None:
    write(Path("elsewhere"), "folder", "linked")
    write(OUT.with_name(STRAY), new, "left by a killed run")
    if previous == "link to a folder":
        OUT.symlink_to(Path("elsewhere").absolute())
    elif previous != "nothing":
        write(OUT, previous, "old")
    with atomic_files.replacing(OUT) as partial:
        assert names() == ([] if previous == "nothing" else ["out"])
        write(partial, new, "new")
        assert not OUT.exists() or read(OUT) in ("old", "linked")
    assert not OUT.is_symlink()
    assert (read(OUT), OUT.is_dir(), names()) == ("new", new == "folder", ["out"])
    assert read(Path("elsewhere")) == "linked"


@pytest.mark.parametrize("previous", ["nothing", "file", "folder"])
@pytest.mark.parametrize("new", ["nothing", "file", "folder"])
def test_a_block_that_raises_or_writes_nothing_changes_nothing(previous: str, new: str) -> None:
    if previous != "nothing":
        write(OUT, previous, "old")

    def stop() -> None:
        with atomic_files.replacing(OUT) as partial:
            if new != "nothing":
                write(partial, new, "half")
                raise RuntimeError("stopped")

    with pytest.raises((RuntimeError, FileNotFoundError)):
        stop()
    assert names() == ([] if previous == "nothing" else ["out"])
    assert previous == "nothing" or read(OUT) == "old"


def test_a_temporary_name_is_new_each_time_and_keeps_the_extension() -> None:
    used = set()
    for _ in range(2):
        with atomic_files.replacing(Path("a/b/plot.png")) as partial:
            used.add(partial.name)
            partial.touch()
    assert len(used) == 2
    assert {(name[:9], name[-9:]) for name in used} == {(".partial-", "-plot.png")}
    assert names(Path("a/b")) == ["plot.png"]


WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from pipeline.runtime import atomic_files
with atomic_files.replacing(Path(sys.argv[1])) as partial:
    partial.mkdir()
    print("at work", flush=True)
    sys.stdin.read()
"""


def test_another_writer_is_refused_until_the_first_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_UNTIL_KILLED, str(OUT)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "at work\n"
        with pytest.raises(UserError, match=SECOND_WRITER):
            atomic_files.write_text(OUT, "mine")
        (left,) = names()
        assert left.startswith(".partial-")
        atomic_files.write_text(OUT.with_name("other"), "other")
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
    atomic_files.write_text(OUT, "é\nß\n")
    assert OUT.read_bytes() == b"\xc3\xa9\n\xc3\x9f\n"
    assert names() == ["other", "out"]


def test_require_returns_a_path_or_names_the_stage_that_writes_it() -> None:
    with pytest.raises(UserError) as raised:
        atomic_files.require(OUT, "resize")
    assert str(raised.value) == (
        "data/out: expected the output of `resize`, got nothing at that path; "
        "run `dvc repro resize` first"
    )
    write(OUT, "folder", "there")
    assert atomic_files.require(OUT, "resize") == OUT


NOISE = np.random.default_rng(0).normal(size=(100, 1000))


def write_array(path: Path) -> None:
    with atomic_files.replacing(path) as partial:
        arrays.write(partial, [NOISE], shape=NOISE.shape, dtype=np.float64, fingerprint="")


def write_weights(path: Path) -> None:
    with atomic_files.replacing(path) as partial, h5py.File(partial, "w") as file:
        file["noise"] = NOISE


LARGER_THAN_64_KIB: dict[str, Callable[[Path], None]] = {
    "text": lambda path: atomic_files.write_text(path, "new" * 100_000),
    "array": write_array,
    "weights": write_weights,
}


@contextlib.contextmanager
def file_limit() -> Iterator[None]:
    """Let the kernel refuse to write files of more than 64 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Refuse to flush what was written."""
    refusal = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch.object(os, "fsync", side_effect=refusal):
        yield


@pytest.mark.parametrize("kind", LARGER_THAN_64_KIB)
@pytest.mark.parametrize("without_room", [file_limit, full_disk])
def test_no_room_is_one_sentence_and_keeps_the_previous_output(
    kind: str,
    without_room: Callable[[], contextlib.AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    atomic_files.write_text(OUT, "previous")
    with without_room():
        status = command(lambda: LARGER_THAN_64_KIB[kind](OUT))()
    printed = capsys.readouterr().err
    assert (status, read(OUT), names(), printed.count("\n")) == (1, "previous", ["out"], 1)
    assert printed.startswith("error: data/out: expected room on the disk, got ")


@pytest.mark.parametrize("name", ["{}", "{}/c/0", None, "elsewhere/file"])
def test_the_sentence_names_the_output_and_not_its_temporary_name(
    capsys: pytest.CaptureFixture[str], name: str | None
) -> None:
    @command
    def fail() -> None:
        with atomic_files.replacing(OUT) as partial:
            raise OSError(errno.EDQUOT, "any words", name and name.format(partial))

    assert fail() == 1
    named = name if name == "elsewhere/file" else OUT
    assert capsys.readouterr().err.startswith(f"error: {named}: expected room on the disk, got ")


def test_remains_that_cannot_be_removed_hide_no_interruption_and_go_next_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @command
    def interrupt() -> None:
        with atomic_files.replacing(OUT) as partial:
            write(partial, "folder", "half")
            raise KeyboardInterrupt

    with monkeypatch.context() as changed:  # as if a worker of a cluster still wrote there
        changed.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
        assert interrupt() == 130
    assert len(names()) == 1
    assert capsys.readouterr().err == "error: interrupted; nothing half-written was kept\n"
    with atomic_files.replacing(OUT) as partial:
        write(partial, "folder", "complete")
    assert names() == ["out"]


def test_a_folder_is_copied_with_all_its_files() -> None:
    write(OUT / "a", "folder", "one")
    write(OUT / "b", "file", "two")
    atomic_files.copy_folder(OUT, Path("copy"))
    assert (read(Path("copy/a")), read(Path("copy/b"))) == ("one", "two")
