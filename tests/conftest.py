"""Shared fixtures: parameters, a project of small pictures, the quick sample run to its end."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from album import Album
from project import QUICK_LOGISTIC, ROOT, Project
from tiny import Tiny

from pipeline.backbones import keras_setup
from pipeline.storage import cached_shards
from stages import extract, resize

os.environ.setdefault("DVC_NO_ANALYTICS", "1")  # tests reach no network
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
Params = dict[str, Any]
QUICK_STAGES = ("test_split", "test_stage", "test_submit")  # without Keras


@pytest.hookimpl(tryfirst=True)  # before -m deselects and xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of whole stages slow, by their folder; one process runs all of the sample."""
    for item in items:
        stages = item.path.parent.name == "pipeline" and item.path.stem not in QUICK_STAGES
        if stages or item.path.stem in ("test_export", "test_verify"):
            item.add_marker(pytest.mark.slow)
        if "done" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
            if not item.get_closest_marker("xdist_group"):
                item.add_marker(pytest.mark.xdist_group("dag"))


@pytest.fixture
def params() -> Params:
    """The committed `params.yaml` as nested dictionaries, free to change."""
    content: Params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return content


@pytest.fixture
def write_params(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Work in an empty folder with the committed parameters, the given sections updated.

    write_params(split={"valid": 0.5}) changes one key; each call starts from the last one.
    """
    monkeypatch.chdir(tmp_path)

    def write(**sections: Any) -> None:
        for name, changed in sections.items():
            replaces = not isinstance(changed, dict) or "kind" in changed
            params[name] = changed if replaces else params[name] | changed
        Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")

    return write


@pytest.fixture
def album(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Album:
    """18 pictures in shards of 5; one shard at once, so that counts are certain.

    Keras runs in this process already, if at all.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cached_shards, "SHARD_ROWS", 5)
    monkeypatch.setattr(resize, "processors", lambda: 1)
    monkeypatch.setattr(extract, "SHARDS_AT_ONCE", 1)
    monkeypatch.setattr(keras_setup, "start", lambda *_, **__: None)
    return Album(monkeypatch, capsys)


@pytest.fixture(scope="session")
def tiny_made(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A project of two small stages that has run; do not change it."""
    return Tiny.made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def tiny(tiny_made: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """A copy of it, in which this process works."""
    shutil.copytree(tiny_made.folder.parent, tmp_path / "a copy", symlinks=True)
    monkeypatch.setenv("TINY", str(tmp_path / "a copy" / "outside"))
    monkeypatch.chdir(tmp_path / "a copy" / "tiny")
    return Tiny(Path.cwd())


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The quick sample, run once from end to end and committed; do not change it.

    `pytest_collection_modifyitems` marks the tests that use it.
    """
    project = Project.copy_of_this(tmp_path_factory.mktemp("done") / "project")
    project.change(QUICK_LOGISTIC)
    project.repro()
    project.commit("reproduced")
    return project


@pytest.fixture(scope="session")
def other(done: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, list[str]]:
    """A copy on another branch, with another head, and the stages that ran; do not change it."""
    project = done.copy_to(tmp_path_factory.mktemp("other") / "project")
    project.git("checkout", "--quiet", "-b", "other")
    project.change({"train_head.inverse_regularization": 0.02})
    stages = project.repro()
    project.commit("another strength")
    return project, stages
