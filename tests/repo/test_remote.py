"""What a fresh clone gets from a remote, with real DVC and a folder as the remote."""

import re
import shutil
from pathlib import Path

import pytest
from project import Project

pytestmark = pytest.mark.xdist_group("dag")
AS_IF_INSTALLED = ("make", "--silent", "--assume-old=.venv/.installed")


@pytest.fixture(scope="module")
def pushed(done: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The quick sample and a branch with another clip, both pushed to a remote."""
    project = done.copy_to(tmp_path_factory.mktemp("pushed") / "project")
    remote = str(project.folder.parent / "remote")
    project.run("dvc", "remote", "add", "--default", "shared", remote)
    project.commit("a remote")
    project.run("dvc", "push", "--run-cache")
    project.git("checkout", "--quiet", "-b", "clipped")
    project.change({"submit.clip": 0.2})
    assert project.repro() == ["code", "submit", "report"]
    project.commit("another clip")
    project.run("dvc", "push", "--run-cache")
    project.git("checkout", "--quiet", "main")
    project.run("dvc", "checkout", "--quiet")
    return project


@pytest.fixture
def clone(pushed: Project, tmp_path: Path) -> Project:
    pushed.git("clone", "--quiet", ".", str(tmp_path / "clone"))
    return Project(tmp_path / "clone")


def outputs(project: Project) -> dict[str, bytes]:
    """Read all outputs of stages, in git or not, without the caches beside them."""
    files = [path for name in ("data", "metrics") for path in (project.folder / name).rglob("*")]
    named = {path.relative_to(project.folder).as_posix(): path for path in files if path.is_file()}
    apart = re.compile(r"/\.|^data/inputs/")
    return {name: path.read_bytes() for name, path in named.items() if not apart.search(name)}


def shared(project: Project) -> dict[str, bytes]:
    """The outputs without resized images, which no remote has."""
    files = outputs(project).items()
    return {name: content for name, content in files if "resized.zarr" not in name}


def test_a_fresh_clone_pulls_every_output_but_resized_images_and_runs_only_resize(
    pushed: Project, clone: Project
) -> None:
    assert not (clone.folder / "data" / "model").exists()
    clone.run("dvc", "pull")
    assert not (clone.folder / "data" / ".rows").exists()
    assert clone.repro() == ["code", "resize"]  # `code` links the inputs
    assert outputs(clone) == outputs(pushed)
    assert clone.run("dvc", "repro").endswith("Data and pipelines are up to date.\n")
    assert clone.git("status", "--porcelain") == ""


@pytest.mark.slow
def test_a_run_of_someone_else_with_other_params_is_pulled_not_repeated(
    pushed: Project, clone: Project
) -> None:
    clone.change({"submit.clip": 0.2})
    assert clone.repro("--pull") == ["code"]
    pushed.git("checkout", "--quiet", "clipped")
    pushed.run("dvc", "checkout", "--quiet")
    theirs = shared(pushed), pushed.read("dvc.lock")
    pushed.git("checkout", "--quiet", "main")
    pushed.run("dvc", "checkout", "--quiet")
    assert (outputs(clone), clone.read("dvc.lock")) == theirs
    assert clone.repro() == ["resize"]
    resized = [outputs(one).items() - shared(one).items() for one in (clone, pushed)]
    assert resized[0] == resized[1]


@pytest.mark.slow
def test_make_pull_fetches_what_the_remote_has_and_skips_the_rest(
    pushed: Project, clone: Project
) -> None:
    clone.run(*AS_IF_INSTALLED, "pull")
    assert outputs(clone) == shared(pushed)
    clone.change({"submit.clip": 0.3})
    clone.repro("submit")
    shutil.rmtree(clone.folder / ".dvc" / "cache")
    (clone.folder / "data" / "submission.csv").unlink()
    clone.run(*AS_IF_INSTALLED, "pull")
    assert clone.repro("submit") == ["submit"]


def test_make_pull_without_a_remote_says_so(done: Project) -> None:
    printed = done.run(*AS_IF_INSTALLED, "pull")
    assert printed == "no DVC remote is set: nothing to pull\n"


@pytest.mark.slow
def test_make_pull_fails_if_the_remote_is_gone(pushed: Project, clone: Project) -> None:
    clone.run("dvc", "remote", "modify", "--local", "shared", "url", "/nowhere/at/all")
    printed = clone.run(*AS_IF_INSTALLED, "pull", passes=False)
    assert "error: remote 'shared' (/nowhere/at/all): expected a folder, got none" in printed
