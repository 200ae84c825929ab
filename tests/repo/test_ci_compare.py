"""`.ci/compare` compares two commits on one machine, with real git and DVC."""

import re
import sys
from pathlib import Path

import pytest
from project import Project

pytestmark = [pytest.mark.xdist_group("dag"), pytest.mark.slow]


@pytest.fixture
def branch(other: tuple[Project, list[str]], tmp_path: Path) -> Project:
    """On branch `other`, whose run has another regularization of the head than `main`."""
    return other[0].copy_to(tmp_path / "project")


def test_runs_in_the_cache_are_compared_without_running_a_stage_but_resize(
    branch: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    printed = branch.run("bash", ".ci/compare", "main")
    ran = set(re.findall("Running stage '(.+)'", printed))
    assert ran == {"code", "resize"}  # `code` links the inputs, pixels are not in DVC's cache
    assert "against `main`" in printed
    assert summary.read_text(encoding="utf-8") == branch.read("comparison/comparison.md")
    assert branch.git("branch", "--format=%(refname:short)").split() == ["main", "other"]
    assert branch.git("status", "--porcelain") == ""


def test_a_base_with_other_outputs_on_this_machine_is_compared_as_run_here(branch: Project) -> None:
    recorded = branch.git("show", "main:dvc.lock")
    branch.git("checkout", "--quiet", "main")
    other, count = re.subn(r"(path: data/head\n.*\n +md5: )\w+", rf"\g<1>{'ab' * 16}", recorded)
    assert count > 0
    (branch.folder / "dvc.lock").write_text(other, encoding="utf-8")
    branch.commit("recorded on another machine")
    branch.git("checkout", "--quiet", "other")
    printed = branch.run("bash", ".ci/compare", "main")
    assert "against `run-here/main`" in printed
    assert branch.git("show", "run-here/main:dvc.lock") == recorded
    assert branch.git("status", "--porcelain") == ""


def test_a_project_below_the_root_of_git_is_compared(branch: Project, tmp_path: Path) -> None:
    below = branch.copy_to(tmp_path / "monorepo" / "ml")
    (below.folder / ".git").rename(tmp_path / "monorepo" / ".git")
    below.commit("moved")
    printed = below.run("bash", ".ci/compare", "HEAD")
    assert "\n0 parameters and 0 metrics differ.\n" in printed
    assert "Not paired" not in printed
    assert below.git("status", "--porcelain") == ""


def test_both_commits_run_without_caches_if_the_remote_lacks_outputs(
    branch: Project, tmp_path: Path
) -> None:
    """With a `python -m dvc` that only records the arguments of `dvc repro`."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        "#!/bin/sh\n"
        f'[ "$2" = dvc ] || exec "{sys.executable}" "$@"\nshift 2\n'
        'case "$1" in pull) exit 1 ;; remote) echo shared ;;\n'
        f'repro) echo "$@" >>{tmp_path}/arguments ;; *) echo "$PWD/.dvc/cache" ;; esac\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    printed = branch.run("bash", "-c", f"PATH={python.parent}:$PATH bash .ci/compare main")
    assert "not all outputs came from the remote: running both commits here" in printed
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8").splitlines()
    assert arguments == ["repro --force --no-run-cache"] * 2


def test_an_unknown_base_is_one_sentence_and_never_run_as_a_command(
    branch: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REV", "$(touch new)")
    words = ("make", "--silent", "--assume-old=.venv/.installed", "compare-here")
    printed = branch.run(*words, passes=False)
    assert "expected a branch, tag or commit, got '$(touch new)'; `git branch" in printed
    assert branch.git("status", "--porcelain") == ""
