"""A finished small project to call commands in."""

import os

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # as `keras_setup.start` would

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from finished import choose, finish, in_this_process


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not change it."""
    folder = tmp_path_factory.mktemp("finished")
    finish(folder)
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished project as working folder, its head selected."""
    with in_this_process() as changed:
        changed.chdir(shutil.copytree(finished, tmp_path / "project"))
        choose("head")
        yield tmp_path / "project"
