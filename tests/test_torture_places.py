"""Odd places, users and clocks, two runs at once, changing inputs: the same bytes, or a sentence.

`make torture` runs all stages in each place; otherwise `split` and `resize` in all of them at once.
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
from album import FIXES, LEDGER, TRAIN, Album
from project import Project
from torture import LONG, outputs, record, small_project, strays, write_zips

from pipeline.images import sources
from stages import split

LAST = [] if LONG else ["resize"]
NOBODY = 65534
SPLIT = ["-m", "stages.split", "data/label_fixes.csv", "data/split.csv", "metrics/split.json"]
# The clock of every process runs backwards, a minute a second.
BACKWARDS = """
import time
_now = time.time
_began = 2_000_000_000
time.time = lambda: _began - 60 * (_now() % 1_000_000)
time.time_ns = lambda: int(time.time() * 10**9)
"""
ROOTS = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="its tools are Linux'"),
    pytest.mark.xdist_group("torture_places"),
]


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """Where every user may look; pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def known(open_folder: Path) -> dict[str, str]:
    """What the stages write in a plain place; its zips are those of the others, too."""
    project = small_project(open_folder / "plain")
    project.repro(*LAST)
    return outputs(project.folder)


def odd_path(above: Path) -> Path:
    """Spaces, quotes, Unicode, what shells read; 200 characters and more. DVC takes no braces."""
    name = 'it\'s a "folder" ü 猫 $HOME ;& #%s'
    return above / name / ("long " * 30).strip() / "project"


def moved(project: Project, to: Path) -> Project:
    to.parent.mkdir(parents=True, exist_ok=True)
    return Project(project.folder.rename(to))


def command(place: str, folder: Path) -> list[str]:
    """What stands before `dvc repro` there."""
    words: list[str] = []
    if "user" in place and os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        # Who may read all, since Python itself may lie in a folder of root's.
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


PLACES = (
    [
        "another user",
        "an odd path",
        "no HOME",
        "HOME that is not there",
        "a clock that runs backwards",
    ]
    if LONG
    else ["another user, an odd path, no HOME, a clock that runs backwards"]
)


@pytest.mark.parametrize("place", PLACES)
def test_the_place_the_user_and_the_clock_change_no_byte(
    place: str, open_folder: Path, known: dict[str, str]
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
    assert outputs(project.folder) == known
    assert strays(project.folder) == []
    record(f"place-{place.replace(' ', '-')}", {"seconds": round(time.monotonic() - started, 1)})


def test_of_two_runs_in_one_folder_one_is_refused_or_waits_and_the_bytes_are_the_same(
    open_folder: Path, known: dict[str, str]
) -> None:
    project = small_project(open_folder / "two runs")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", *LAST],
            cwd=project.folder,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    told = [run.communicate() for run in runs]
    statuses = [run.returncode for run in runs]
    for status, (_, err) in zip(statuses, told, strict=True):
        refused = ("Unable to acquire lock", "is busy", "only writer")
        assert status == 0 or any(words in err for words in refused), err
    assert 0 in statuses
    assert outputs(project.folder) == known
    assert strays(project.folder) == []
    record("two-dvc-repro", {"statuses": statuses})


def test_of_two_stages_in_one_folder_each_writes_whole_or_is_refused(
    open_folder: Path, known: dict[str, str]
) -> None:
    project = small_project(open_folder / "two stages")
    statuses = []
    for _ in range(10 if LONG else 1):
        runs = [
            subprocess.Popen(
                [sys.executable, *SPLIT],
                cwd=project.folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for run in runs:
            _, err = run.communicate()
            statuses.append(run.returncode)
            refused = err.startswith("error: data/split: expected to be its only writer, got ")
            assert run.returncode == 0 or (run.returncode == 1 and refused), err
    assert 0 in statuses
    written = outputs(project.folder)
    assert {name: written[name] for name in ("data/split.csv", "metrics/split.json")} == {
        name: known[name] for name in ("data/split.csv", "metrics/split.json")
    }
    record("two-stages", {"refused": statuses.count(1), "ended well": statuses.count(0)})


def replaced(path: Path) -> None:
    """By another zip that is put into its place."""
    write_zips(path.parent.parent.parent, seed=1)


def written_over(path: Path) -> None:
    """Each byte in place, as `cp` does."""
    content = path.read_bytes()
    write_zips(path.parent.parent.parent, seed=1)
    other = path.read_bytes()
    path.write_bytes(content)
    with path.open("r+b") as file:
        file.write(other)
        file.truncate()


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("happening", [replaced, written_over, removed])
def test_a_zip_that_changes_while_it_is_read_is_refused(
    happening: Callable[[Path], None], album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("data/raw").mkdir(parents=True, exist_ok=True)
    write_zips(Path(), seed=0)
    archive = Path("data/raw/train.zip").absolute()
    album.change({"data": {"train": "data/raw/train.zip", "test": "data/raw/test.zip"}})
    _happening_while_read(monkeypatch, lambda: happening(archive))
    told = album.fails("split", FIXES, LEDGER, "metrics/split.json")
    assert told.startswith("error: ")
    assert "data/raw/train.zip: expected images that do not change while they are read" in told
    assert not LEDGER.exists()


@pytest.mark.parametrize("happening", ["a photo more", "another photo", "a photo less"])
def test_a_folder_that_changes_while_it_is_read_is_refused(
    happening: str, album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    album.split()
    LEDGER.unlink()
    last = TRAIN / max(album.pictures)

    def happen() -> None:
        if happening == "a photo more":
            (TRAIN / "cat.5000.png").write_bytes(album.picture())
        elif happening == "another photo":
            last.write_bytes(album.picture())
        else:
            last.unlink()

    _happening_while_read(monkeypatch, happen)
    told = album.fails("split", FIXES, LEDGER, "metrics/split.json")
    assert f"{TRAIN}: expected images that do not change while they are read" in told or (
        happening == "a photo less" and "to be rejected" in told
    )
    assert not LEDGER.exists()


def _happening_while_read(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], None]) -> None:
    """Once, before the fifth image is judged."""
    judge, lock, count = split._judge, threading.Lock(), [0]

    def judging(*words: Any) -> Any:
        with lock:
            count[0] += 1
            if count[0] == 5:
                happen()
        return judge(*words)

    monkeypatch.setattr(split, "_judge", judging)


def test_a_zip_whose_directory_lost_members_is_refused(tmp_path: Path) -> None:
    """A comment that claims to be long swallows what follows; Python's zipfile says nothing."""
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(5):
            archive.writestr(f"cat.{number}.jpg", b"photo")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 33] ^= 1  # of the first member's comment, 256 bytes more
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.infolist()) == 1
    with pytest.raises(Exception, match="expected 5 members, as its directory declares, "):
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
        [*words, sys.executable, *SPLIT],
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
