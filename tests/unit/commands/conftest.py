"""The command line called in this process, and a finished small project to call it in."""

import os

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # as `keras_setup.start` would

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from finished import choose, copy_of, finish, in_this_process

from pipeline.commands import cli


@pytest.fixture
def pipeline(capfd: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Call `pipeline` with words; return status, out and err."""

    def call(*words: object) -> SimpleNamespace:
        capfd.readouterr()
        try:
            status = cli.main([str(word) for word in words])
        except SystemExit as end:
            status = int(end.code or 0)
        printed = capfd.readouterr()
        return SimpleNamespace(status=status, out=printed.out, err=printed.err)

    return call


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
        changed.chdir(copy_of(finished, tmp_path / "project"))
        choose("head")
        yield tmp_path / "project"
