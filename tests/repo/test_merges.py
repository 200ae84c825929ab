"""Merging two branches that both changed params and ran, with real git and DVC."""

import shutil
from pathlib import Path

import pytest
from project import ROOT, Project

pytestmark = pytest.mark.xdist_group("dag")


@pytest.fixture(scope="module")
def conflict(other: tuple[Project, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """On branch `raw`, which rounds metrics otherwise, while merging `other` conflicts."""
    project = other[0].copy_to(tmp_path_factory.mktemp("merge") / "project")
    project.git("checkout", "--quiet", "main")
    project.run("dvc", "checkout", "--quiet")
    project.git("checkout", "--quiet", "-b", "raw")
    project.change({"evaluate.decimals": 5})
    assert project.repro("evaluate") == ["code", "evaluate"]
    project.commit("five decimals")
    assert "Merge conflict in dvc.lock" in project.run("git", "merge", "other", passes=False)
    return project


def conflicting(project: Project) -> list[str]:
    return project.git("diff", "--name-only", "--diff-filter=U").split()


@pytest.mark.slow
def test_a_conflict_leaves_files_of_one_run_and_only_new_stages_run(
    conflict: Project, tmp_path: Path
) -> None:
    files = conflicting(conflict)
    assert {"dvc.lock", "metrics/evaluate.json", "metrics/intervals.json"} < set(files)
    assert "params.yaml" not in files
    for name in files:
        assert conflict.git("hash-object", name) == conflict.git("rev-parse", f"raw:{name}")
    project = conflict.copy_to(tmp_path / "project")
    trees = []
    # The second time, the cache has the outputs of the first, except those of `evaluate`.
    ran = {"ours": ["code", "evaluate", "explain", "submit", "report"]}
    ran["theirs"] = ["code", "evaluate"]
    for side, stages in ran.items():
        project.git("checkout", f"--{side}", "dvc.lock")
        assert project.repro() == stages
        project.git("add", "dvc.lock", "code.yaml", "settings.yaml", "metrics")
        assert conflicting(project) == []
        project.git("commit", "--quiet", "--message=both")
        assert project.repro() == []
        assert project.git("status", "--porcelain") == ""
        trees.append(project.git("rev-parse", "HEAD^{tree}"))
        assert project.read("params.yaml").count("decimals: 5") == 1
        assert project.read("params.yaml").count("inverse_regularization: 0.02") == 1
        project.git("reset", "--quiet", "--hard", "HEAD~1")
        project.run("git", "merge", "other", passes=False)
    assert trees[0] == trees[1]


def test_records_changed_on_both_sides_are_never_merged_line_by_line(
    done: Project, tmp_path: Path
) -> None:
    """Two distant changes of dvc.lock, which git would merge silently."""
    project = done.copy_to(tmp_path / "project")
    for branch, stage in (("first", "  split:\n"), ("last", "  report:\n")):
        project.git("checkout", "--quiet", "-B", branch, "main")
        text = project.read("dvc.lock").replace(stage, f"  # changed\n{stage}")
        (project.folder / "dvc.lock").write_text(text, encoding="utf-8")
        project.commit(branch)
    project.run("git", "merge", "first", passes=False)
    assert conflicting(project) == ["dvc.lock"]
    assert project.git("hash-object", "dvc.lock") == project.git("rev-parse", "last:dvc.lock")


def test_a_checkout_has_the_same_line_ends_whatever_git_is_told(tmp_path: Path) -> None:
    project = Project.copy_of_this(tmp_path / "project")
    clone = ("clone", "--quiet", "--config", "core.autocrlf=true", ".", str(tmp_path / "clone"))
    project.git(*clone)
    for name in ("dvc.yaml", "dvc.lock", "params.yaml", "stages/code.py", ".ci/compare"):
        assert (tmp_path / "clone" / name).read_bytes() == (project.folder / name).read_bytes()


def test_git_has_dvc_files_of_raw_data_at_any_depth_and_no_data(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.init()
    shutil.copyfile(ROOT / ".gitignore", tmp_path / ".gitignore")
    project.run("dvc", "init", "--quiet")
    raw = tmp_path / "data" / "raw"
    for name in ("train.zip", "cats/one/1.jpg", "cats/2.jpg", "photos/3.jpg", "not added/4.jpg"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_text(name, encoding="utf-8")
    added = ("train.zip", "cats/one", "cats/2.jpg", "photos")
    project.run("dvc", "add", "--quiet", *(f"data/raw/{name}" for name in added))
    project.commit("raw data")
    listed = project.git("ls-files", "data").splitlines()
    assert [name for name in listed if ".gitignore" not in name] == [
        *("data/raw/cats/2.jpg.dvc", "data/raw/cats/one.dvc"),
        *("data/raw/photos.dvc", "data/raw/train.zip.dvc"),
    ]
