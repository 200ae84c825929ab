"""GitHub's workflows pass their linters, and may do no more than they need."""

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
LINTERS = [
    ("zizmor", "--offline", "--pedantic", "--no-progress"),
    ("check-jsonschema", "--builtin-schema", "vendor.github-workflows"),
]
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
        yield from (f"{name}: {fault}" for fault in faults_of_steps(job["steps"]))


def faults_of_steps(steps: list[dict[str, Any]]) -> Iterator[str]:
    actions = {step["uses"].split("@")[0]: step.get("with", {}) for step in steps if "uses" in step}
    checkout, cache = actions.get("actions/checkout"), actions.get("actions/cache")
    if checkout and checkout.get("persist-credentials") is not False:
        yield "checkout keeps the token"
    if cache and ("'dvc.lock'" not in cache["key"] or "restore-keys" in cache):
        yield "the cache may belong to another dvc.lock"
    for run in (step["run"] for step in steps if "run" in step):
        if run == "make compare-here" and (checkout or {}).get("fetch-depth") != 0:
            yield "needs the history"
        # A job without the project, which may write a comment, runs no file of it.
        programs = {line.split()[0] for line in run.splitlines()}
        if not (is_here(run) if checkout else programs <= {"printf", "gh"}):
            yield f"runs something that is not in this project: {run}"


def is_here(run: str) -> bool:
    """Return whether it is a make target, an executable of .ci/ or a tool of a fixed version."""
    program, *words = run.split()
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        return len(words) == 1 and re.search(rf"^{words[0]}:", makefile, re.M) is not None
    is_script = program.startswith(".ci/") and not words and os.access(ROOT / program, os.X_OK)
    return is_script or re.match(PINNED_TOOL, run) is not None


@pytest.mark.parametrize("name", TEXTS)
def test_a_workflow_keeps_the_rules(name: str) -> None:
    assert list(faults(TEXTS[name])) == []


@pytest.mark.parametrize("linter", LINTERS, ids=lambda words: words[0])
def test_the_workflows_pass_the_linters(linter: tuple[str, ...]) -> None:
    program, *words = linter
    command = [str(Path(sys.executable).parent / program), *words, *map(str, WORKFLOWS)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_an_action_has_the_same_commit_everywhere() -> None:
    used = set(re.findall(r"uses: (.+)", "".join(TEXTS.values())))
    assert len(used) == len({action.split("@")[0] for action in used})


def test_pull_requests_from_forks_get_no_comment_and_no_key() -> None:
    jobs = yaml.safe_load(CI)["jobs"]
    same = "github.event.pull_request.head.repo.full_name == github.repository"
    assert (jobs["comment"]["if"], jobs["comment"]["needs"]) == (same, "compare")
    assert jobs["compare"]["if"] == "github.event_name == 'pull_request'"
    assert "secrets." not in CI


def test_the_comment_is_the_comparison_with_a_link_to_its_run(tmp_path: Path) -> None:
    """The job's own lines, with `cat` in place of `gh`."""
    (tmp_path / "gh").write_text('#!/bin/sh\necho "$1 $2 $3"\ncat "${7}"\n', encoding="utf-8")
    (tmp_path / "gh").chmod(0o755)
    (tmp_path / "comparison").mkdir()
    (tmp_path / "comparison/comparison.md").write_text("# Compared\n", encoding="utf-8")
    ended = subprocess.run(
        ["bash", "-e", "-c", yaml.safe_load(CI)["jobs"]["comment"]["steps"][1]["run"]],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "PULL_REQUEST": "7", "RUN": "r/1"},
        check=True,
        capture_output=True,
        text=True,
    )
    link = "Plots: artifact `comparison` of [this run](r/1)."
    assert ended.stdout == f"pr comment 7\n# Compared\n\n{link}\n"
