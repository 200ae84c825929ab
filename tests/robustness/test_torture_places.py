"""Odd paths, users and clocks, two runs at once, changing inputs: the same bytes, or a sentence.

`make torture` runs all stages in each environment; `make test-slow` up to `resize` in all at once.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from album import LEDGER, TRAIN, Album
from project import Project
from torture import LONG, outputs, record, small_project, strays, write_zips

from pipeline.images import judge, sources
from pipeline.runtime.errors import UserError

LAST = [] if LONG else ["resize"]
NOBODY = 65534
SPLIT = [sys.executable, "-m", "stages.split"]
# The clock of every process runs backwards, a minute per second.
BACKWARDS = """
import time
_now = time.time
_began = 2_000_000_000
time.time = lambda: _began - 60 * (_now() % 1_000_000)
time.time_ns = lambda: int(time.time() * 10**9)
"""
ROOTS = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="it uses tools of Linux"),
    pytest.mark.xdist_group("torture_places"),
]


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that every user may read, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def plain(open_folder: Path) -> dict[str, str]:
    """What the stages write in a plain folder, from the same zips."""
    project = small_project(open_folder / "plain")
    project.repro(*LAST)
    return outputs(project.folder)


def odd_path(above: Path) -> Path:
    """Return 200 characters with spaces, quotes, Unicode and shell syntax; DVC takes no braces."""
    name = 'it\'s a "folder" ü 猫 $HOME ;& #%s'
    return above / name / ("long " * 30).strip() / "project"


def moved(project: Project, to: Path) -> Project:
    to.parent.mkdir(parents=True, exist_ok=True)
    return Project(project.folder.rename(to))


def command(place: str, folder: Path) -> list[str]:
    """Return the words before `dvc repro` in an environment."""
    words: list[str] = []
    if "user" in place and os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        # May read everything, since Python itself may lie in a folder of root.
        words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        words += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    words += ["env", *(["--unset=HOME"] if "no HOME" in place else [])]
    words.append(f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}")
    if "backwards" in place:
        (folder / "clock").mkdir(exist_ok=True)
        (folder / "clock" / "sitecustomize.py").write_text(BACKWARDS, encoding="utf-8")
        words.append(f"PYTHONPATH={folder / 'clock'}")
    if "HOME that is not there" in place:
        words.append("HOME=/nonexistent")
    return words


PLACES = ["another user, an odd path, no HOME, a clock that runs backwards"]
if LONG:
    PLACES = [*PLACES[0].split(", "), "HOME that is not there"]


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_path_user_and_clock_change_no_byte(
    place: str, open_folder: Path, plain: dict[str, str]
) -> None:
    if place == "another user" and os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    started = time.monotonic()
    above = open_folder / place[:20]
    above.mkdir()
    project = small_project(above / "project")
    if "odd path" in place:
        project = moved(project, odd_path(above))
        assert len(str(project.folder)) >= 200
    words = command(place, project.folder)
    ended = subprocess.run(
        [*words, sys.executable, "-m", "dvc", "repro", *LAST],
        cwd=project.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert outputs(project.folder) == plain
    assert strays(project.folder) == []
    record(f"place-{place.replace(' ', '-')}", {"seconds": round(time.monotonic() - started, 1)})


def both(project: Project, command: list[str]) -> list[tuple[int, str]]:
    """Run a command twice at once; return status and stderr of each."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    runs = [
        subprocess.Popen(
            command,
            cwd=project.folder,
            env={**os.environ, "PATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    return [(run.returncode, err) for run, (_, err) in [(run, run.communicate()) for run in runs]]


@pytest.mark.slow
def test_two_runs_in_one_folder_write_the_same_bytes_or_one_is_refused(
    open_folder: Path, plain: dict[str, str]
) -> None:
    project = small_project(open_folder / "two runs")
    results = both(project, [sys.executable, "-m", "dvc", "repro", *LAST])
    for status, err in results:
        refused = ("Unable to acquire lock", "is busy", "only writer")
        assert status == 0 or any(words in err for words in refused), err
    statuses = [status for status, _ in results]
    assert 0 in statuses
    assert outputs(project.folder) == plain
    assert strays(project.folder) == []
    record("two-dvc-repro", {"statuses": statuses})


@pytest.mark.slow
def test_two_stages_in_one_folder_write_the_same_bytes_or_one_is_refused(
    open_folder: Path, plain: dict[str, str]
) -> None:
    project = small_project(open_folder / "two stages")
    statuses = []
    for _ in range(10 if LONG else 1):
        for status, err in both(project, SPLIT):
            statuses.append(status)
            refused = err.startswith("error: data/split: expected to be its only writer, got ")
            assert status == 0 or (status == 1 and refused), err
    assert 0 in statuses
    written = outputs(project.folder)
    for name in ("data/split.csv", "metrics/split.json"):
        assert written[name] == plain[name]
    record("two-stages", {"refused": statuses.count(1), "ended well": statuses.count(0)})


def overwrite(path: Path) -> None:
    """Write another zip into the same file, as `cp` does."""
    Path("other/data/raw").mkdir(parents=True)
    write_zips(Path("other"), seed=1)
    path.write_bytes((Path("other") / path).read_bytes())


def add_image(folder: Path) -> None:
    shutil.copyfile(max(folder.iterdir()), folder / "cat.5000.png")


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "another zip": ("data/raw/train.zip", lambda path: write_zips(Path(), seed=1)),
    "other bytes in the zip": ("data/raw/train.zip", overwrite),
    "no zip": ("data/raw/train.zip", Path.unlink),
    "one more image": (str(TRAIN), add_image),
    "another image": (str(TRAIN), lambda path: max(path.iterdir()).write_bytes(b"others")),
    "one image less": (str(TRAIN), lambda path: max(path.iterdir()).unlink()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_inputs_that_change_while_they_are_read_are_refused(
    change: str, album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, happen = CHANGES[change]
    album.split()
    LEDGER.unlink()
    write_zips(Path(), seed=0)
    album.change(
        {"data": {"train": source, "test": "data/raw/test.zip"}, "split.max_rejected": 0.9}
    )
    original, lock, count = judge.judge, threading.Lock(), [0]

    def judge_fifth_after_the_change(*words: Any) -> Any:
        with lock:
            count[0] += 1
            if count[0] == 5:
                happen(Path(source))
        return original(*words)

    monkeypatch.setattr(judge, "judge", judge_fifth_after_the_change)
    assert f"{source}: expected images that " in album.fails("split")
    assert not LEDGER.exists()


def test_a_zip_whose_directory_lost_members_is_refused(tmp_path: Path) -> None:
    """A comment that claims to be long swallows what follows; Python's zipfile says nothing."""
    path = tmp_path / "train.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(5):
            archive.writestr(f"cat.{number}.jpg", b"image")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 33] ^= 1  # of the first member's comment, 256 bytes more
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.infolist()) == 1
    with pytest.raises(UserError, match=r"5.* got 1; download it again"):
        sources.open_source(path)


READ_ONLY = {
    "another user's": (
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"],
        "Permission denied",
    ),
    "mounted so": (
        [
            *("unshare", "-m", "sh", "-c"),
            'mount --bind . . && mount -o remount,ro,bind . && cd "$PWD" && exec "$@"',
            "sh",
        ],
        "Read-only file system",
    ),
}


@ROOTS
@pytest.mark.parametrize("why", READ_ONLY)
def test_a_checkout_that_is_read_only_is_one_sentence(why: str, open_folder: Path) -> None:
    words, reason = READ_ONLY[why]
    if shutil.which(words[0]) is None:
        pytest.skip(f"needs {words[0]}, which is not here")
    folder = open_folder / f"read only, {why}"
    if not folder.exists():
        small_project(folder)
    ended = subprocess.run(
        [*words, *SPLIT],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "mount:" in ended.stderr or "unshare:" in ended.stderr:
        pytest.skip("mounting is not permitted here")
    assert ended.returncode == 1
    assert ended.stderr == (
        f"error: data/.split.lock: expected a place to read or write, got {reason!r}; "
        "check permissions\n"
    )
    assert not (folder / "data" / "split.csv").exists()
