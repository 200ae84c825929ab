"""GitHub's workflows pass their linters, call only files of this project, and may do no more than
they need; a broken copy fails these checks.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in WORKFLOWS}
CI = TEXTS["ci.yaml"]
ZIZMOR = ("zizmor", "--offline", "--pedantic", "--no-progress")
SCHEMA = ("check-jsonschema", "--builtin-schema", "vendor.github-workflows")
PERMISSIONS = {"comment": {"pull-requests": "write"}}  # of a job; all others may only read
PINNED_TOOL = r"pipx run --python python (--spec )?[\w-]+==[\d.]+ "


def faults(text: str) -> Iterator[str]:
    """Yield violations of this project's rules that the linters do not report."""
    content = yaml.safe_load(text)
    if content["concurrency"]["cancel-in-progress"] is not True:
        yield "superseded runs continue"
    for line in text.splitlines():
        if "uses:" in line and not re.search(r"uses: \S+ # v\d+\.\d+\.\d+$", line):
            yield f"no comment with a version: {line.strip()}"
    for name, job in content["jobs"].items():
        if job.get("permissions") != PERMISSIONS.get(name, {"contents": "read"}):
            yield f"{name}: permissions are {job.get('permissions')}"
        if not isinstance(job.get("timeout-minutes"), int):
            yield f"{name}: no timeout"
        if job["runs-on"].endswith("-latest"):
            yield f"{name}: runs-on changes by itself"
        if job.get("needs", name) not in content["jobs"]:
            yield f"{name}: needs a job that does not exist"
        yield from (f"{name}: {fault}" for fault in _faults_of_steps(job["steps"]))


def _faults_of_steps(steps: list[dict[str, Any]]) -> Iterator[str]:
    actions = {step["uses"].split("@")[0]: step.get("with", {}) for step in steps if "uses" in step}
    checkout, cache = actions.get("actions/checkout"), actions.get("actions/cache")
    if checkout and checkout.get("persist-credentials") is not False:
        yield "checkout keeps the token"
    if cache and ("'dvc.lock'" not in cache["key"] or "restore-keys" in cache):
        yield "the cache may belong to another dvc.lock"
    for run in (step["run"] for step in steps if "run" in step):
        if run == "make compare-here" and (checkout or {}).get("fetch-depth") != 0:
            yield "needs the history"
        if not (_is_here(run) if checkout else _only_comments(run)):
            yield f"runs something that is not in this project: {run}"


def _is_here(run: str) -> bool:
    """Return whether it is a make target, an executable of .ci/ or a tool of a fixed version."""
    program, *words = run.split()
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        return len(words) == 1 and re.search(rf"^{words[0]}:", makefile, re.M) is not None
    is_script = program.startswith(".ci/") and not words and os.access(ROOT / program, os.X_OK)
    return is_script or re.match(PINNED_TOOL, run) is not None


def _only_comments(run: str) -> bool:
    """Return whether it runs printf and gh only: a job that may write runs no file."""
    return {line.split()[0] for line in run.splitlines()} <= {"printf", "gh"}


def lint(linter: tuple[str, ...], *paths: Path) -> subprocess.CompletedProcess[str]:
    program, *words = linter
    command = [str(Path(sys.executable).parent / program), *words, *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", TEXTS)
def test_a_workflow_keeps_the_rules(name: str) -> None:
    assert list(faults(TEXTS[name])) == []


@pytest.mark.parametrize("linter", [ZIZMOR, SCHEMA], ids=lambda linter: linter[0])
def test_the_workflows_pass_the_linters(linter: tuple[str, ...]) -> None:
    result = lint(linter, *WORKFLOWS)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (" # v7.0.1", "", "no comment with a version"),
        ("contents: read", "contents: write", "quick: permissions are {'contents': 'write'}"),
        ("pull-requests: write", "contents: write", "comment: permissions are"),
        ("cancel-in-progress: true", "cancel-in-progress: false", "superseded runs continue"),
        ("fetch-depth: 0", "fetch-depth: 1", "compare: needs the history"),
        ("persist-credentials: false", "persist-credentials: true", "checkout keeps the token"),
        ("    timeout-minutes: 15\n", "", "quick: no timeout"),
        ("ubuntu-24.04", "ubuntu-latest", "runs-on changes by itself"),
        ("hashFiles('dvc.lock'", "hashFiles('dvc.yaml'", "the cache may belong to another"),
        ("make verify-quick", "make verify-quik", "quick: runs something that is not in this"),
        ("run: .ci/run", "run: .ci/rum", "run: runs something that is not in this project: .ci"),
        ("run: .ci/run", "run: pipx run --python python x", "run: runs something that is not in"),
        ("          gh pr", "          ./gh pr", "comment: runs something that is not in this"),
        ("needs: compare", "needs: compere", "comment: needs a job that does not exist"),
    ],
)
def test_a_broken_copy_breaks_the_rules(old: str, new: str, fault: str) -> None:
    assert any(fault in found for found in faults(_edit(old, new)))


@pytest.mark.parametrize(
    ("linter", "old", "new", "message"),
    [
        (ZIZMOR, "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7", "unpinned-uses"),
        (ZIZMOR, '"$PULL_REQUEST"', "${{ github.head_ref }}", "template-injection"),
        (ZIZMOR, "permissions: {}", "permissions: write-all", "excessive-permissions"),
        (ZIZMOR, "  pull_request:\n", "  pull_request_target:\n", "dangerous-triggers"),
        (SCHEMA, "timeout-minutes: 15", "time-out-minutes: 15", "time-out-minutes"),
    ],
)
def test_a_broken_copy_does_not_pass_the_linters(
    linter: tuple[str, ...], old: str, new: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / ".github" / "workflows" / "ci.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(_edit(old, new), encoding="utf-8")
    result = lint(linter, path)
    assert result.returncode != 0
    assert message in result.stdout


def _edit(old: str, new: str) -> str:
    assert old in CI
    return CI.replace(old, new, 1)


def test_an_action_has_the_same_commit_everywhere() -> None:
    used = set(re.findall(r"uses: (.+)", "".join(TEXTS.values())))
    assert len(used) == len({action.split("@")[0] for action in used})


def test_pull_requests_from_forks_get_no_comment_and_no_key() -> None:
    jobs = yaml.safe_load(CI)["jobs"]
    same = "github.event.pull_request.head.repo.full_name == github.repository"
    assert jobs["comment"]["if"] == same
    assert jobs["comment"]["needs"] == "compare"
    assert jobs["compare"]["if"] == "github.event_name == 'pull_request'"
    assert "secrets." not in CI


def test_the_comment_is_the_comparison_with_a_link_to_its_run(tmp_path: Path) -> None:
    """The job's own lines in bash, with a `gh` that records its arguments."""
    steps = yaml.safe_load(CI)["jobs"]["comment"]["steps"]
    (tmp_path / "gh").write_text('#!/bin/sh\nprintf "%s\\n" "$@" >arguments\n', encoding="utf-8")
    (tmp_path / "gh").chmod(0o755)
    text = tmp_path / "comparison" / "comparison.md"
    text.parent.mkdir()
    text.write_text("# Compared\n", encoding="utf-8")
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", steps[1]["run"]],
        cwd=tmp_path,
        env={"PATH": path, "PULL_REQUEST": "7", "RUN": "https://r/1"},
        check=True,
    )
    assert (tmp_path / "arguments").read_text(encoding="utf-8").splitlines() == [
        *("pr", "comment", "7", "--edit-last", "--create-if-none"),
        *("--body-file", "comparison/comparison.md"),
    ]
    assert text.read_text(encoding="utf-8") == (
        "# Compared\n\nPlots: artifact `comparison` of [this run](https://r/1).\n"
    )
