"""Odd paths, users, clocks, languages, links to DVC's cache: the same bytes, or a sentence.

`make torture` runs all stages in each environment; `make test-slow` up to `resize` in all at once.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from album import LEDGER, TRAIN, Album
from dvc_cache import cached
from project import Project
from torture import LAST, LONG, outputs, small_project, strays, write_zips

from pipeline.images import judge

NOBODY = 65534
# 200 characters with spaces, quotes, Unicode and shell syntax; DVC takes no braces.
ODD = Path('it\'s a "folder" ü 猫 $HOME ;& #%s', ("long " * 34).strip())
USER = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
# The clock of every process runs backwards, a minute per second.
BACKWARDS = """
import time
_now = time.time
_began = 2_000_000_000
time.time = lambda: _began - 60 * (_now() % 1_000_000)
time.time_ns = lambda: int(time.time() * 10**9)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it uses tools of Linux")


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


def command(place: str, folder: Path) -> list[str]:
    """Return the words before `dvc repro` in an environment."""
    words: list[str] = []
    if "user" in place and os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        # May read everything, since Python itself may lie in a folder of root.
        words = [*USER, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    words += ["env", f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"]
    words += ["--unset=HOME"] if "no HOME" in place else []
    words += ["LANG=C", "TZ=JST-9"] if "language" in place else []
    words += ["HOME=/nonexistent"] if "HOME that is not there" in place else []
    if "backwards" in place:
        (folder / "clock").mkdir(exist_ok=True)
        (folder / "clock" / "sitecustomize.py").write_text(BACKWARDS, encoding="utf-8")
        words.append(f"PYTHONPATH={folder / 'clock'}")
    return words


ALL = "another user, an odd path, no HOME, another language, a clock that runs backwards"
PLACES = [*ALL.split(", "), "HOME that is not there"] if LONG else [ALL]


@pytest.mark.slow
@pytest.mark.xdist_group("torture_places")
@pytest.mark.parametrize("place", PLACES)
def test_path_user_language_and_clock_change_no_byte(
    place: str, open_folder: Path, plain: dict[str, str]
) -> None:
    above = open_folder / place[:20]
    above.mkdir()
    project = small_project(above / "project")
    if "odd path" in place:
        (above / ODD).parent.mkdir()
        project = Project(project.folder.rename(above / ODD))
    printed = project.run(*command(place, project.folder), "dvc", "repro", *LAST)
    assert "Traceback" not in printed
    assert outputs(project.folder) == plain
    assert strays(project.folder) == []


@pytest.fixture(scope="module")
def in_dvc(open_folder: Path) -> Project:
    """The small project with its photos in folders that DVC tracks, run and committed."""
    project = small_project(open_folder / "in DVC")
    raw = project.folder / "data" / "raw"
    for name in ("train", "test"):
        with zipfile.ZipFile(raw / f"{name}.zip") as archive:
            archive.extractall(raw)
    project.change({"data.train": "data/raw/train", "data.test": "data/raw/test"})
    project.run("dvc", "add", "data/raw/train", "data/raw/test")
    project.repro(*LAST)
    project.commit("run")
    return project


LINKS = ["symlink,copy", "hardlink", "hardlink,copy", "reflink,copy", "copy"]
USERS = ["its owner", "another user"]
# Linux lets nobody make hard links to files of others that they cannot write.
CACHES = [case for case in itertools.product(LINKS, USERS) if case != ("hardlink", USERS[1])]


@pytest.mark.slow
@pytest.mark.xdist_group("torture_places")
@pytest.mark.parametrize(("links", "user"), CACHES if LONG else CACHES[:3])
def test_outputs_and_photos_may_be_links_to_dvcs_cache_and_are_never_written(
    links: str, user: str, in_dvc: Project, open_folder: Path
) -> None:
    """The cache is in another folder; another user may add to it, but owns nothing in it."""
    above = open_folder / f"{links} {user}"
    project = in_dvc.copy_to(above / "project")
    cache = (project.folder / ".dvc" / "cache").rename(above / "cache")
    words = command(user, project.folder)
    for path in (cache, *cache.rglob("*")) if "another" in user else ():
        os.chown(path, -1, NOBODY)
        path.chmod(0o2775 if path.is_dir() else 0o444)
    config = f'[cache]\n    dir = "{cache}"\n    type = "{links}"\n    shared = group\n'
    (project.folder / ".dvc" / "config.local").write_text(config, encoding="utf-8")
    before, files = outputs(project.folder), set(cached(cache))

    last = ("--with-deps", *(LAST or ["report"]))
    photos = (f"data/raw/{name}.dvc" for name in ("train", "test"))
    project.run(*words, "dvc", "checkout", "--relink", *last, *photos)
    photo = min((project.folder / "data" / "raw" / "train").iterdir())
    assert photo.is_symlink() is links.startswith("symlink")
    assert (photo.stat().st_nlink > 1) is (links.startswith("hardlink") and user == USERS[0])
    for (size, seed), ran in {(56, 1): ["code", "split", "resize"], (48, 0): ["code"]}.items():
        project.change({"resize.size": size, "split.seed": seed})
        printed = project.run(*words, "dvc", "repro", *LAST)
        assert re.findall(r"^Running stage '(.+)':$", printed, re.M)[: len(ran)] == ran
        status = project.run(*words, "dvc", "status", *last)
        assert status == "Data and pipelines are up to date.\n"
        assert files < set(cached(cache))
    assert outputs(project.folder) == before


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "other bytes in the zip": ("data/raw/train.zip", lambda path: write_zips(Path(), seed=1)),
    "no zip": ("data/raw/train.zip", Path.unlink),
    "one more image": (
        str(TRAIN),
        lambda path: shutil.copyfile(max(path.iterdir()), path / "cat.5000.png"),
    ),
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
    original, number = judge.judge, itertools.count(1)

    def judge_fifth_after_the_change(*words: Any) -> Any:
        if next(number) == 5:
            happen(Path(source))
        return original(*words)

    monkeypatch.setattr(judge, "judge", judge_fifth_after_the_change)
    assert f"{source}: expected images that " in album.fails("split")
    assert not LEDGER.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_checkout_that_is_read_only_is_one_sentence(open_folder: Path) -> None:
    folder = open_folder / "read only"
    small_project(folder)
    ended = subprocess.run(
        [*USER, sys.executable, "-m", "stages.split"],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: data/.split.lock: expected a place to read or write, got 'Permission denied'; "
        "check permissions\n"
    )
