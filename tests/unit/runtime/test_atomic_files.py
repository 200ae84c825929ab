"""Outputs appear complete or not at all, whatever happens to the process that writes them."""

import contextlib
import errno
import functools
import io
import json
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
from project import ROOT

from pipeline.runtime import atomic_files
from pipeline.runtime.entrypoint import command
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays, tables

SECOND_WRITER = "data/out: expected to be its only writer, got a second one"
NO_ROOM = "error: {}: expected room on the disk, got {!r}; free some space and run again, "


@pytest.fixture(autouse=True)
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an output is to appear."""
    monkeypatch.chdir(tmp_path)
    return Path("data/out")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
def test_an_output_is_replaced_at_the_end_of_its_block(out: Path, previous: str, new: str) -> None:
    write(Path("elsewhere"), "folder", "linked")
    out.parent.mkdir()
    if previous == "link to a folder":
        out.symlink_to(Path("elsewhere").absolute())
    elif previous != "nothing":
        write(out, previous, "old")
    with atomic_files.replacing(out) as partial:
        write(partial, new, "new")
        assert not out.exists() or read(out) in ("old", "linked")
    assert not out.is_symlink()
    assert (read(out), out.is_dir()) == ("new", new == "folder")
    assert names(out.parent) == [".out.lock", "out"]
    assert read(Path("elsewhere")) == "linked"


@pytest.mark.parametrize("previous", ["nothing", "file", "folder"])
@pytest.mark.parametrize("new", ["nothing", "file", "folder"])
def test_a_block_that_raises_or_writes_nothing_changes_nothing(
    out: Path, previous: str, new: str
) -> None:
    if previous != "nothing":
        write(out, previous, "old")

    def stop() -> None:
        with atomic_files.replacing(out) as partial:
            if new != "nothing":
                write(partial, new, "half")
                raise RuntimeError("stopped")

    with pytest.raises((RuntimeError, FileNotFoundError)):
        stop()
    assert names(out.parent) == [".out.lock", *(["out"] if previous != "nothing" else [])]
    assert previous == "nothing" or read(out) == "old"


def test_the_temporary_name_keeps_the_extension_and_folders_above_are_created() -> None:
    with atomic_files.replacing(Path("a/b/plot.png")) as partial:
        assert partial == Path("a/b/.partial-plot.png")
        partial.touch()
    assert Path("a/b/plot.png").exists()


@pytest.mark.parametrize("stray", ["file", "folder"])
def test_remains_of_a_killed_run_are_removed_first(out: Path, stray: str) -> None:
    write(out.with_name(".partial-out"), stray, "stray")
    with atomic_files.replacing(out) as partial:
        assert not partial.exists()
        write(partial, "folder", "new")
    assert names(out.parent) == [".out.lock", "out"]


WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from pipeline.runtime import atomic_files
with atomic_files.replacing(Path(sys.argv[1])) as partial:
    partial.mkdir()
    print("at work", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(out: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process in the middle of writing `out`."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_UNTIL_KILLED, str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        yield process
        process.kill()


def test_another_process_is_refused_until_the_writer_is_killed(
    out: Path, writer: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(UserError, match=SECOND_WRITER):
        atomic_files.write_text(out, "mine")
    assert names(out.parent) == [".out.lock", ".partial-out"]
    writer.kill()
    assert writer.wait() == -signal.SIGKILL
    atomic_files.write_text(out, "mine")
    assert read(out) == "mine"
    assert names(out.parent) == [".out.lock", "out"]


def test_a_second_writer_in_the_same_process_is_refused(out: Path) -> None:
    with atomic_files.replacing(out) as partial:
        partial.write_text("first", encoding="utf-8")
        with pytest.raises(UserError, match=SECOND_WRITER):
            atomic_files.write_text(out, "second")
        atomic_files.write_text(out.with_name("other"), "other")
    assert read(out) == "first"


def test_text_is_utf_8_with_one_kind_of_line_end(out: Path) -> None:
    atomic_files.write_text(out, "é\nß\n")
    assert out.read_bytes() == b"\xc3\xa9\n\xc3\x9f\n"


def test_require_returns_a_path_or_names_the_stage_that_writes_it(out: Path) -> None:
    with pytest.raises(UserError) as raised:
        atomic_files.require(out, "resize")
    assert str(raised.value) == (
        "data/out: expected the output of `resize`, got nothing at that path; "
        "run `dvc repro resize` first"
    )
    write(out, "folder", "there")
    assert atomic_files.require(out, "resize") == out


NOISE = np.random.default_rng(0).normal(size=(100, 1000))


def write_array(path: Path) -> None:
    with atomic_files.replacing(path) as partial:
        arrays.write(partial, [NOISE], shape=NOISE.shape, dtype=np.float64, fingerprint="")


def write_archive(path: Path) -> None:
    with atomic_files.replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, noise=NOISE)


def write_weights(path: Path) -> None:
    with atomic_files.replacing(path) as partial, h5py.File(partial, "w") as file:
        file["noise"] = NOISE


LARGER_THAN_64_KIB: dict[str, Callable[[Path], None]] = {
    "text": lambda path: atomic_files.write_text(path, "new" * 100_000),
    "table": lambda path: tables.write_csv(path, ["n"], ([n] for n in range(100_000))),
    "array": write_array,
    "archive": write_archive,
    "weights": write_weights,
}


def write_without_room() -> None:
    """Replace a small output by each large one; print the result of each."""
    for kind, write_large in LARGER_THAN_64_KIB.items():
        out = Path(kind)
        atomic_files.write_text(out, "previous")
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr):
            status = command(functools.partial(write_large, out))()
        left = [name for name in names(Path()) if not name.endswith(".lock")]
        print(json.dumps([kind, status, stderr.getvalue(), read(out), left]))
        out.unlink()


@pytest.fixture(scope="module")
def results_on_a_full_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """What `write_without_room` prints on a real file system of 64 KiB."""
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
    code = "import test_atomic_files; test_atomic_files.write_without_room()"
    folders = map(str, (ROOT, ROOT / "tests", Path(__file__).parent))
    run = subprocess.run(
        [*mounting, sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {kind: result for kind, *result in map(json.loads, run.stdout.splitlines())}


@pytest.mark.parametrize("kind", LARGER_THAN_64_KIB)
def test_a_full_disk_is_one_sentence_and_keeps_the_previous_output(
    results_on_a_full_disk: dict[str, list[object]], kind: str
) -> None:
    status, stderr, content, left = results_on_a_full_disk[kind]
    assert status == 1
    assert str(stderr).startswith(NO_ROOM.format(kind, os.strerror(errno.ENOSPC)))
    assert str(stderr).count("\n") == 1
    assert (content, left) == ("previous", [kind])


@pytest.mark.parametrize("kind", LARGER_THAN_64_KIB)
def test_no_room_at_the_last_moment_keeps_the_previous_output(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    atomic_files.write_text(out, "previous")
    monkeypatch.setattr(os, "fsync", refuse)
    assert command(lambda: LARGER_THAN_64_KIB[kind](out))() == 1
    assert capsys.readouterr().err.startswith(NO_ROOM.format(out, os.strerror(errno.ENOSPC)))
    assert read(out) == "previous"
    assert names(out.parent) == [".out.lock", "out"]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("data/.partial-out", "data/out"),
        ("data/.partial-out/c/0", "data/out"),
        (None, "data/out"),
        ("elsewhere/file", "elsewhere/file"),
    ],
)
def test_the_sentence_names_the_output_and_not_its_temporary_name(
    out: Path, capsys: pytest.CaptureFixture[str], name: str | None, named: str
) -> None:
    @command
    def fail() -> None:
        with atomic_files.replacing(out):
            raise OSError(errno.EDQUOT, "any words", name)

    assert fail() == 1
    assert capsys.readouterr().err.startswith(NO_ROOM.format(named, os.strerror(errno.EDQUOT)))


def test_a_folder_that_cannot_be_renamed_leaves_the_previous_one(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(out, "folder", "old")
    replace = Path.replace

    def refuse(source: Path, target: Path) -> Path:
        if source.name == ".partial-out":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="data/out"), atomic_files.replacing(out) as partial:
        write(partial, "folder", "new")
    assert read(out) == "old"
    assert names(out.parent) == [".out.lock", "out"]


def test_a_previous_folder_that_cannot_be_removed_is_left_to_the_next_run(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "a name inside")

    write(out, "folder", "old")
    with monkeypatch.context() as changed:
        changed.setattr(shutil, "rmtree", refuse)
        with atomic_files.replacing(out) as partial:
            write(partial, "folder", "new")
    assert names(out.parent) == [".out.lock", ".partial-old-out", "out"]
    with atomic_files.replacing(out) as partial:
        write(partial, "folder", "newest")
    assert read(out) == "newest"
    assert names(out.parent) == [".out.lock", "out"]


def test_a_worker_that_still_writes_hides_no_interruption_and_its_files_go_next_time(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refill(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path / "c"))

    @command
    def interrupt() -> None:
        with atomic_files.replacing(out, "0" * atomic_files.TAG) as partial:
            write(partial, "folder", "half")
            raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(shutil, "rmtree", refill)
        assert interrupt() == 130
    assert capsys.readouterr().err == "error: interrupted; nothing half-written was kept\n"
    with atomic_files.replacing(out, "1" * atomic_files.TAG) as partial:
        write(partial, "folder", "complete")
    assert names(out.parent) == [".out.lock", "out"]


def test_a_folder_is_copied_with_all_its_files(out: Path) -> None:
    write(out / "a", "folder", "one")
    write(out / "b", "file", "two")
    atomic_files.copy_folder(out, Path("copy"))
    assert (read(Path("copy/a")), read(Path("copy/b"))) == ("one", "two")
