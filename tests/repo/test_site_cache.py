"""DVC's site cache, in which it unpickles what it finds, is in the project and not all users'."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import ROOT, Project

from pipeline import paths

SHARED = Path("/var/tmp/dvc/repo")  # noqa: S108  DVC's default
FILES = (
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvcignore",
    ".gitignore",
    ".site-cache/repo/.gitignore",
)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """What a clone has for DVC, with one stage and an empty subfolder."""
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    before = os.umask(0o022)
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "docs").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {one: {cmd: echo 1 >out, outs: [out]}}\n")
    with (tmp_path / ".gitignore").open("a") as file:
        file.write("/out\n")
    project = Project(tmp_path)
    project.init()
    yield project
    os.umask(before)


@pytest.mark.parametrize("folder", [".", "docs"])
def test_a_run_of_dvc_writes_into_the_project_and_git_ignores_it(
    folder: str, clone: Project
) -> None:
    clone.commit("as cloned")
    called_in = clone.folder / folder
    words = [sys.executable, "-m", "dvc", "repro", "--quiet", str(clone.folder / "dvc.yaml")]
    subprocess.run(words, cwd=called_in, check=True)
    repos = called_in / paths.SITE_CACHE / "repo"
    written = [path.name for path in repos.iterdir() if path.is_dir()]
    assert len(written) == 1
    assert not (SHARED / written[0]).exists()
    assert clone.git("status", "--porcelain", "--", ":!dvc.lock") == ""
    assert bool(repos.stat().st_mode & 0o002) is (folder != ".")  # SECURITY.md says so
