"""Two branches that both changed params and ran, merged: git and DVC for real."""

from pathlib import Path

import pytest
from project import Project

pytestmark = pytest.mark.xdist_group("dag")


@pytest.fixture(scope="module")
def conflict(other: tuple[Project, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """On branch `raw`, which has run without calibration, in the midst of merging `other`."""
    project = other[0].copy_to(tmp_path_factory.mktemp("merge") / "project")
    project.git("checkout", "--quiet", "main")
    project.run("dvc", "checkout", "--quiet")
    project.git("checkout", "--quiet", "-b", "raw")
    project.change({"evaluate.calibration": "none"})
    assert project.repro("evaluate") == ["evaluate"]
    project.commit("no calibration")
    assert "Merge conflict in dvc.lock" in project.run("git", "merge", "other", passes=False)
    return project


def conflicting(project: Project) -> list[str]:
    return project.git("diff", "--name-only", "--diff-filter=U").split()


@pytest.mark.slow
def test_a_conflict_leaves_files_whole_that_name_one_run(conflict: Project) -> None:
    files = conflicting(conflict)
    assert {"dvc.lock", "metrics/evaluate.json", "metrics/pictures/scores.png"} < set(files)
    assert "params.yaml" not in files
    for name in files:
        assert conflict.git("hash-object", name) == conflict.git("rev-parse", f"raw:{name}")


@pytest.mark.slow
def test_after_a_conflict_only_what_nobody_has_run_runs_whichever_side_is_taken(
    conflict: Project, tmp_path: Path
) -> None:
    project = conflict.copy_to(tmp_path / "project")
    trees = []
    # The second time the first one's outputs are in the cache, but for those of `evaluate`.
    ran = {"ours": ["evaluate", "explain", "submit", "report"], "theirs": ["evaluate"]}
    for side, stages in ran.items():
        project.git("checkout", f"--{side}", "dvc.lock")
        assert project.repro() == stages
        project.git("add", "dvc.lock", "metrics")
        assert conflicting(project) == []
        project.git("commit", "--quiet", "--message=both")
        assert project.repro() == []
        assert project.git("status", "--porcelain") == ""
        trees.append(project.git("rev-parse", "HEAD^{tree}"))
        assert project.read("params.yaml").count("calibration: none") == 1
        assert project.read("params.yaml").count("inverse_regularization: 0.02") == 1
        project.git("reset", "--quiet", "--hard", "HEAD~1")
        project.run("git", "merge", "other", passes=False)
    assert trees[0] == trees[1]


def test_what_both_sides_have_changed_is_never_joined_line_by_line(
    done: Project, tmp_path: Path
) -> None:
    """Two changes that are far apart in dvc.lock, which git would join without a word."""
    project = done.copy_to(tmp_path / "project")
    for branch, stage in (("first", "  split:\n"), ("last", "  report:\n")):
        project.git("checkout", "--quiet", "-B", branch, "main")
        text = project.read("dvc.lock").replace(stage, f"  # changed\n{stage}")
        (project.folder / "dvc.lock").write_text(text, encoding="utf-8")
        project.commit(branch)
    project.run("git", "merge", "first", passes=False)
    assert conflicting(project) == ["dvc.lock"]
    assert project.git("hash-object", "dvc.lock") == project.git("rev-parse", "last:dvc.lock")
