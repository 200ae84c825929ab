"""Outputs appear whole or not at all, whatever happens to the process that writes them."""

import contextlib
import errno
import functools
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.runtime import atomic_files
from pipeline.runtime.entrypoint import script
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays, ledger

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
FULL_DISK = (
    "error: {}: expected room on the disk, got 'No space left on device'; free some space and run "
    "again, nothing half-written was kept\n"
)


@pytest.fixture(autouse=True)
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an output is to appear; relative, so that sentences can be compared whole."""
    monkeypatch.chdir(tmp_path)
    return Path("data/out")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_folder(path: Path, **texts: str) -> None:
    path.mkdir(parents=True)
    for name, text in texts.items():
        (path / name).write_text(text, encoding="utf-8")


def write_half_a_file(path: Path) -> None:
    with atomic_files.replacing(path) as partial:
        partial.write_text("half", encoding="utf-8")
        raise RuntimeError("stopped")


def write_half_a_folder(path: Path) -> None:
    with atomic_files.replacing(path) as partial:
        write_folder(partial, b="half")
        raise RuntimeError("stopped")


def test_an_output_is_absent_until_its_block_has_ended(out: Path) -> None:
    with atomic_files.replacing(out) as partial:
        partial.write_text("whole", encoding="utf-8")
        assert not out.exists()
    assert out.read_text(encoding="utf-8") == "whole"


def test_nothing_stands_beside_a_finished_output_but_its_lock(out: Path) -> None:
    atomic_files.write_text(out, "whole")
    assert names(out.parent) == [".out.lock", "out"]


def test_the_temporary_name_keeps_the_extension_and_the_folder() -> None:
    with atomic_files.replacing(Path("data/picture.png")) as partial:
        assert partial == Path("data/.partial-picture.png")
        partial.touch()


def test_folders_above_an_output_are_made() -> None:
    atomic_files.write_text(Path("a/b/c.txt"), "c")
    assert Path("a/b/c.txt").read_text(encoding="utf-8") == "c"


def test_an_output_is_absent_when_its_block_raises(out: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        write_half_a_file(out)
    assert names(out.parent) == [".out.lock"]


def test_a_previous_file_is_kept_when_the_block_raises(out: Path) -> None:
    atomic_files.write_text(out, "previous")
    with pytest.raises(RuntimeError, match="stopped"):
        write_half_a_file(out)
    assert out.read_text(encoding="utf-8") == "previous"
    assert names(out.parent) == [".out.lock", "out"]


def test_a_previous_folder_is_kept_when_the_block_raises(out: Path) -> None:
    write_folder(out, a="previous")
    with pytest.raises(RuntimeError, match="stopped"):
        write_half_a_folder(out)
    assert names(out) == ["a"]
    assert names(out.parent) == [".out.lock", "out"]


def test_a_previous_file_stands_until_the_new_one_takes_its_place(out: Path) -> None:
    atomic_files.write_text(out, "previous")
    with atomic_files.replacing(out) as partial:
        partial.write_text("new", encoding="utf-8")
        assert out.read_text(encoding="utf-8") == "previous"
    assert out.read_text(encoding="utf-8") == "new"


def test_a_block_that_writes_nothing_leaves_the_previous_file(out: Path) -> None:
    atomic_files.write_text(out, "previous")
    with pytest.raises(FileNotFoundError), atomic_files.replacing(out):
        pass
    assert out.read_text(encoding="utf-8") == "previous"


@pytest.mark.parametrize("previous", ["file", "folder", "link to a folder"])
@pytest.mark.parametrize("new", ["file", "folder"])
def test_a_file_or_folder_takes_the_place_of_either(out: Path, previous: str, new: str) -> None:
    write_folder(Path("elsewhere"), kept="kept")
    out.parent.mkdir()
    if previous == "file":
        out.write_text("old", encoding="utf-8")
    elif previous == "folder":
        write_folder(out, old="old")
    else:
        out.symlink_to(Path("elsewhere").absolute())
    with atomic_files.replacing(out) as partial:
        if new == "file":
            partial.write_text("new", encoding="utf-8")
        else:
            write_folder(partial, new="new")
    assert not out.is_symlink()
    text = out if new == "file" else out / "new"
    assert text.read_text(encoding="utf-8") == "new"
    assert new == "file" or names(out) == ["new"]
    assert names(out.parent) == [".out.lock", "out"]
    assert names(Path("elsewhere")) == ["kept"]


@pytest.mark.parametrize("stray", ["file", "folder"])
def test_what_a_killed_run_left_is_removed_first(out: Path, stray: str) -> None:
    left = out.with_name(".partial-out")
    if stray == "file":
        out.parent.mkdir()
        left.write_text("stray", encoding="utf-8")
    else:
        write_folder(left, stray="stray")
    with atomic_files.replacing(out) as partial:
        assert not partial.exists()
        write_folder(partial, new="new")
    assert names(out) == ["new"]
    assert names(out.parent) == [".out.lock", "out"]


WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from stages.store import files
with files.replacing(Path(sys.argv[1])) as partial:
    partial.mkdir()
    (partial / "half").touch()
    print("at work", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(out: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process in the middle of writing `out`."""
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(out)]
    with subprocess.Popen(
        command, env=ENVIRONMENT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        yield process
        process.kill()


SECOND_WRITER = (
    "data/out: expected to be its only writer, got a second one at work on it; "
    "wait for the other run to end, or stop it"
)


def test_another_process_at_work_on_an_output_keeps_writers_out(
    out: Path, writer: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(UserError) as told:
        atomic_files.write_text(out, "mine")
    assert str(told.value) == SECOND_WRITER
    assert names(out.parent) == [".out.lock", ".partial-out"]
    assert names(out.parent / ".partial-out") == ["half"]


def test_a_killed_process_keeps_nobody_out(out: Path, writer: "subprocess.Popen[str]") -> None:
    writer.kill()
    assert writer.wait() == -signal.SIGKILL
    assert names(out.parent) == [".out.lock", ".partial-out"]
    atomic_files.write_text(out, "mine")
    assert out.read_text(encoding="utf-8") == "mine"
    assert names(out.parent) == [".out.lock", "out"]


def test_a_second_writer_in_the_same_process_is_kept_out(out: Path) -> None:
    with atomic_files.replacing(out) as partial:
        partial.write_text("first", encoding="utf-8")
        with pytest.raises(UserError) as told:
            atomic_files.write_text(out, "second")
        atomic_files.write_text(out.with_name("other"), "other")
    assert str(told.value) == SECOND_WRITER
    assert out.read_text(encoding="utf-8") == "first"


def test_json_is_sorted_indented_and_ends_its_last_line(out: Path) -> None:
    atomic_files.write_json(out, {"b": 1, "a": {"d": 0.5, "c": [1, 2]}, "é": None})
    assert out.read_bytes() == (
        b'{\n  "a": {\n    "c": [\n      1,\n      2\n    ],\n    "d": 0.5\n  },\n'
        b'  "b": 1,\n  "\\u00e9": null\n}\n'
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_is_no_number_and_keeps_the_previous_file(
    out: Path, value: float
) -> None:
    atomic_files.write_json(out, {"loss": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic_files.write_json(out, {"loss": value})
    assert out.read_text(encoding="utf-8") == '{\n  "loss": 1\n}\n'


def test_text_is_utf_8_with_one_kind_of_line_end(out: Path) -> None:
    atomic_files.write_text(out, "é\nß\n")
    assert out.read_bytes() == b"\xc3\xa9\n\xc3\x9f\n"


def test_require_gives_back_a_path_that_is_there(out: Path) -> None:
    write_folder(out)
    assert atomic_files.require(out, "resize") == out


def test_require_names_the_stage_that_writes_what_is_missing(out: Path) -> None:
    with pytest.raises(UserError) as told:
        atomic_files.require(out, "resize")
    assert str(told.value) == (
        "data/out: expected the output of `resize`, got nothing at that path; "
        "run `dvc repro resize` first"
    )


def write_an_array(path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(100, 1000))
    with atomic_files.replacing(path) as partial:
        arrays.write(partial, [noise], shape=noise.shape, dtype=np.float64, fingerprint="")


def write_an_archive(path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=100_000)
    with atomic_files.replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, noise=noise)


def write_weights(path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=100_000)
    with atomic_files.replacing(path) as partial, h5py.File(partial, "w") as file:
        file["noise"] = noise


LARGER_THAN_64_KIB: dict[str, Callable[[Path], None]] = {
    "text": lambda path: atomic_files.write_text(path, "new" * 100_000),
    "table": lambda path: ledger.write_csv(path, ["n"], ([n] for n in range(100_000))),
    "array": write_an_array,
    "archive": write_an_archive,
    "weights": write_weights,
}


def write_where_there_is_no_room() -> None:
    """Replace a small output by each large one; print, for each, what came of it."""
    for kind, write in LARGER_THAN_64_KIB.items():
        out = Path(kind)
        atomic_files.write_text(out, "previous")
        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            status = script(functools.partial(write, out))()
        left = [name for name in names(Path()) if not name.endswith(".lock")]
        print(json.dumps([kind, status, told.getvalue(), out.read_text(encoding="utf-8"), left]))
        out.unlink()


@pytest.fixture(scope="module")
def outcomes_on_a_full_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """What `write_where_there_is_no_room` prints on a real file system of 64 KiB."""
    tiny = tmp_path_factory.mktemp("tiny")
    if shutil.which("unshare") is None:
        pytest.skip("mounting a file system of 64 KiB needs `unshare`, which is not here")
    for private in (["unshare", "-m"], ["unshare", "-rm"]):
        mounting = [*private, "sh", "-c", 'mount -t tmpfs -o size=64k none "$0"', str(tiny)]
        if subprocess.run(mounting, capture_output=True, check=False).returncode == 0:
            break
    else:
        pytest.skip("mounting a file system of 64 KiB is not permitted here")
    mounting[-2] += ' && cd "$0" && exec "$@"'
    code = "import test_files; test_files.write_where_there_is_no_room()"
    run = subprocess.run(
        [*mounting, sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {kind: outcome for kind, *outcome in map(json.loads, run.stdout.splitlines())}


@pytest.mark.parametrize("kind", LARGER_THAN_64_KIB)
def test_a_really_full_disk_is_one_sentence_and_keeps_the_previous_output(
    outcomes_on_a_full_disk: dict[str, list[object]], kind: str
) -> None:
    status, told, content, left = outcomes_on_a_full_disk[kind]
    assert (status, told) == (1, FULL_DISK.format(kind))
    assert (content, left) == ("previous", [kind])


@pytest.mark.parametrize("kind", LARGER_THAN_64_KIB)
def test_no_room_at_the_last_moment_is_one_sentence_and_keeps_the_previous_output(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    atomic_files.write_text(out, "previous")
    monkeypatch.setattr(os, "fsync", refuse)
    assert script(lambda: LARGER_THAN_64_KIB[kind](out))() == 1
    assert capsys.readouterr().err == FULL_DISK.format("data/out")
    assert out.read_text(encoding="utf-8") == "previous"
    assert names(out.parent) == [".out.lock", "out"]


@pytest.mark.parametrize("named", ["data/.partial-out", "data/.partial-out/c/0", None])
def test_the_sentence_names_the_output_and_not_its_temporary_name(
    out: Path, capsys: pytest.CaptureFixture[str], named: str | None
) -> None:
    @script
    def write() -> None:
        with atomic_files.replacing(out) as partial:
            partial.mkdir()
            raise OSError(errno.EDQUOT, "any words", named)

    assert write() == 1
    assert capsys.readouterr().err == FULL_DISK.format("data/out").replace(
        "No space left on device", os.strerror(errno.EDQUOT)
    )
    assert names(out.parent) == [".out.lock"]


def test_another_file_without_room_keeps_its_name(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @script
    def write() -> None:
        with atomic_files.replacing(out):
            raise OSError(errno.ENOSPC, "any words", "elsewhere/file")

    assert write() == 1
    assert capsys.readouterr().err == FULL_DISK.format("elsewhere/file")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_place_that_cannot_be_written_is_one_sentence(
    capsys: pytest.CaptureFixture[str], code: int
) -> None:
    @script
    def write() -> None:
        raise OSError(code, "any words", "data/out")

    assert write() == 1
    assert capsys.readouterr().err == (
        f"error: data/out: expected a place to read or write, got {os.strerror(code)!r}; "
        "check permissions\n"
    )


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (
            errno.EIO,
            "expected a disk that reads and writes, got 'Input/output error'; nothing half-written "
            "was kept, see the system's log for what the disk says",
        ),
        (
            errno.EFBIG,
            "expected room on the disk, got 'File too large'; raise the limit (`ulimit -f`), "
            "nothing half-written was kept",
        ),
    ],
)
def test_a_disk_that_fails_and_a_limit_are_one_sentence(
    capsys: pytest.CaptureFixture[str], code: int, sentence: str
) -> None:
    @script
    def write() -> None:
        raise OSError(code, "any words", "data/out")

    assert write() == 1
    assert capsys.readouterr().err == f"error: data/out: {sentence}\n"


def test_a_folder_that_cannot_take_the_others_place_leaves_it_there(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(out, old="old")
    replace = Path.replace

    def refuse(source: Path, target: Path) -> Path:
        if source.name == ".partial-out":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="data/out"), atomic_files.replacing(out) as partial:
        write_folder(partial, new="new")
    assert names(out) == ["old"]
    assert names(out.parent) == [".out.lock", "out"]


def test_an_earlier_output_that_cannot_be_removed_goes_next_time(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "a name inside")

    write_folder(out, old="old")
    with monkeypatch.context() as changed:
        changed.setattr(shutil, "rmtree", refuse)
        with atomic_files.replacing(out) as partial:
            write_folder(partial, new="new")
    assert names(out) == ["new"]
    assert names(out.parent) == [".out.lock", ".partial-old-out", "out"]
    with atomic_files.replacing(out) as partial:
        write_folder(partial, newest="newest")
    assert names(out) == ["newest"]
    assert names(out.parent) == [".out.lock", "out"]


def test_a_fault_of_the_user_is_its_sentence_and_status_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @script
    def write() -> None:
        raise UserError("here: expected one, got two; take one away")

    assert write() == 1
    assert capsys.readouterr().err == "error: here: expected one, got two; take one away\n"


def test_ctrl_c_is_status_130_and_leaves_nothing_half_written(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @script
    def write() -> None:
        with atomic_files.replacing(out) as partial:
            write_folder(partial, half="half")
            raise KeyboardInterrupt

    assert write() == 130
    assert capsys.readouterr().err == "error: interrupted; nothing half-written was kept\n"
    assert names(out.parent) == [".out.lock"]


def test_a_worker_that_writes_on_hides_no_interruption_and_its_stray_goes_next_time(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refill(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path / "c"))

    @script
    def write() -> None:
        with atomic_files.replacing(out, "0" * atomic_files.TAG) as partial:
            write_folder(partial, half="half")
            raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(shutil, "rmtree", refill)
        assert write() == 130
    assert capsys.readouterr().err == "error: interrupted; nothing half-written was kept\n"
    with atomic_files.replacing(out, "1" * atomic_files.TAG) as partial:
        write_folder(partial, whole="whole")
    assert names(out.parent) == [".out.lock", "out"]


@pytest.mark.parametrize("fault", [ValueError("of ours"), OSError(errno.ENOENT, "of the path")])
def test_any_other_fault_keeps_its_traceback(fault: Exception) -> None:
    @script
    def write() -> None:
        raise fault

    with pytest.raises(type(fault)) as told:
        write()
    assert told.value is fault


def test_a_run_that_ends_well_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert script(lambda: None)() == 0
    assert capsys.readouterr().err == ""
