"""GitHub's workflows: what each may do, that it does nothing but call what is here, and that these
checks fail where they should.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import ROOT

FOLDER = ROOT / ".github" / "workflows"
CI, PACKAGES = FOLDER / "ci.yaml", FOLDER / "packages.yaml"
WORKFLOWS = sorted(FOLDER.iterdir())
PINNED = re.compile(r"(?P<action>[\w-]+/[\w./-]+)@[0-9a-f]{40}")
VERSION = re.compile(r"uses: \S+ # v\d+\.\d+\.\d+$")
MAY_COMMENT = "comment"
NEED_HISTORY = {"make compare-here"}


def faults(text: str) -> Iterator[str]:
    """What is wrong with a workflow, by this project's own rules."""
    content = yaml.safe_load(text)
    if content["permissions"] != {}:
        yield "permissions: not {}"
    if {"pull_request_target", "workflow_run"} & set(content[True]):  # YAML's word for `on`
        yield "on: runs foreign code with rights"
    if content.get("concurrency", {}).get("cancel-in-progress") is not True:
        yield "concurrency: superseded runs go on"
    for line in text.splitlines():
        if "uses:" in line and not VERSION.search(line):
            yield f"{line.strip()}: no comment with a version"
    for name, job in content["jobs"].items():
        yield from (f"{name}: {fault}" for fault in _faults_of_job(name, job))
        if job.get("needs", name) not in content["jobs"]:
            yield f"{name}: needs a job that is not there"


def _faults_of_job(name: str, job: dict[str, Any]) -> Iterator[str]:
    allowed = {"pull-requests": "write"} if name == MAY_COMMENT else {"contents": "read"}
    if job.get("permissions") != allowed:
        yield f"permissions are not {allowed}"
    if not isinstance(job.get("timeout-minutes"), int):
        yield "no timeout"
    if job["runs-on"].endswith("-latest"):
        yield "runs-on changes by itself"
    runs = [step["run"] for step in job["steps"] if "run" in step]
    for step in job["steps"]:
        if "uses" in step:
            found = PINNED.fullmatch(step["uses"])
            yield from _faults_of_action(found["action"], step["with"]) if found else ["not pinned"]
    checkouts = [step["with"] for step in job["steps"] if "/checkout@" in step.get("uses", "")]
    if NEED_HISTORY & set(runs) and checkouts[0].get("fetch-depth") != 0:
        yield "needs the history, fetch-depth is not 0"
    for run in runs:
        if "${{" in run:
            yield "an expression in run"
        if not (_is_here(run) if checkouts else _only_comments(run)):
            yield f"runs what is not here: {run}"


def _faults_of_action(action: str, given: dict[str, Any]) -> Iterator[str]:
    if action == "actions/checkout" and given.get("persist-credentials") is not False:
        yield "checkout keeps the token"
    if action == "actions/setup-python" and (
        given.get("cache"),
        given.get("cache-dependency-path"),
    ) != ("pip", "requirements.lock"):
        yield "packages are not cached by requirements.lock"
    if action == "actions/cache":
        hashed = re.search(r"hashFiles\((.*)\)", given["key"])
        if hashed is None or "'dvc.lock'" not in hashed[1]:
            yield "the cache is not that of dvc.lock"
        if "restore-keys" in given:
            yield "a cache of another dvc.lock is taken"


def _is_here(run: str) -> bool:
    """Whether it is a target of the Makefile or an executable of `.ci/`."""
    program, *words = run.split()
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        return len(words) == 1 and re.search(rf"^{words[0]}:", makefile, re.M) is not None
    return program.startswith(".ci/") and not words and os.access(ROOT / program, os.X_OK)


def _only_comments(run: str) -> bool:
    """Whether it runs no file, as befits a job that may write: nothing but printf and gh."""
    return {line.split()[0] for line in run.splitlines()} <= {"printf", "gh"}


def zizmor(path: Path) -> subprocess.CompletedProcess[str]:
    return _checked("zizmor", "--offline", "--pedantic", "--no-progress", str(path))


def schema(path: Path) -> subprocess.CompletedProcess[str]:
    return _checked("check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(path))


def _checked(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / program), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_keeps_the_rules(path: Path) -> None:
    assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("check", [zizmor, schema])
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_passes_the_linters(
    path: Path, check: Callable[[Path], subprocess.CompletedProcess[str]]
) -> None:
    found = check(path)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("checkout@3d3c42e5aac5ba805825da76410c181273ba90b1", "checkout@v7", "quick: not pinned"),
        (" # v7.0.1", "", "no comment with a version"),
        ("permissions: {}", "permissions: read-all", "permissions: not {}"),
        ("contents: read", "contents: write", "quick: permissions are not {'contents': 'read'}"),
        ("pull-requests: write", "contents: write", "comment: permissions are not"),
        ("  pull_request:\n", "  pull_request_target:\n", "runs foreign code with rights"),
        ("cancel-in-progress: true", "cancel-in-progress: false", "superseded runs go on"),
        ("fetch-depth: 0", "fetch-depth: 1", "compare: needs the history"),
        ("persist-credentials: false", "persist-credentials: true", "checkout keeps the token"),
        ("    timeout-minutes: 15\n", "", "quick: no timeout"),
        ("ubuntu-24.04", "ubuntu-latest", "runs-on changes by itself"),
        ("path: requirements.lock", "path: pyproject.toml", "not cached by requirements.lock"),
        ("hashFiles('dvc.lock'", "hashFiles('dvc.yaml'", "the cache is not that of dvc.lock"),
        ("make verify-quick", "make verify-quik", "runs what is not here: make verify-quik"),
        ("run: .ci/run", "run: .ci/rum", "runs what is not here: .ci/rum"),
        ("make compare-here", "make ${{ github.base_ref }}", "compare: an expression in run"),
        ("          gh pr", "          ./gh pr", "comment: runs what is not here"),
        ("needs: compare", "needs: compere", "comment: needs a job that is not there"),
    ],
)  # fmt: skip
def test_a_broken_copy_breaks_the_rules(old: str, new: str, fault: str) -> None:
    text = CI.read_text(encoding="utf-8")
    assert old in text
    assert any(fault in found for found in faults(text.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("check", "old", "new", "told"),
    [
        (zizmor, "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7", "unpinned-uses"),
        (zizmor, '"$PULL_REQUEST"', "${{ github.head_ref }}", "template-injection"),
        (zizmor, "permissions: {}", "permissions: write-all", "excessive-permissions"),
        (schema, "timeout-minutes: 15", "time-out-minutes: 15", "time-out-minutes"),
        (schema, "runs-on: ubuntu-24.04", "run-on: ubuntu-24.04", "runs-on"),
    ],
)
def test_a_broken_copy_does_not_pass_the_linters(
    check: Callable[[Path], subprocess.CompletedProcess[str]],
    old: str,
    new: str,
    told: str,
    tmp_path: Path,
) -> None:
    text = CI.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / ".github" / "workflows" / "ci.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    found = check(path)
    assert found.returncode != 0
    assert told in found.stdout


def test_one_action_has_one_commit_everywhere() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    used = set(re.findall(r"uses: (.+)", text))
    assert len(used) == len({action.split("@")[0] for action in used})


def test_a_fork_gets_no_comment_and_no_key() -> None:
    jobs = yaml.safe_load(CI.read_text(encoding="utf-8"))["jobs"]
    same = "github.event.pull_request.head.repo.full_name == github.repository"
    assert jobs["comment"]["if"] == same
    assert jobs["comment"]["needs"] == "compare"
    assert jobs["compare"]["if"] == "github.event_name == 'pull_request'"
    assert "secrets." not in CI.read_text(encoding="utf-8")


def test_known_faults_of_packages_are_looked_for_weekly() -> None:
    content = yaml.safe_load(PACKAGES.read_text(encoding="utf-8"))
    assert [len(entry["cron"].split()) for entry in content[True]["schedule"]] == [5]
    assert content[True]["schedule"][0]["cron"].split()[2:4] == ["*", "*"]
    assert content[True]["schedule"][0]["cron"].split()[4] != "*"
    assert "push" in content[True]


def test_the_comment_is_the_comparison_and_names_its_run(tmp_path: Path) -> None:
    """The job's own lines in bash, with a `gh` that tells what it was asked."""
    steps = yaml.safe_load(CI.read_text(encoding="utf-8"))["jobs"]["comment"]["steps"]
    gh = tmp_path / "bin" / "gh"
    gh.parent.mkdir()
    gh.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >asked\n', encoding="utf-8")
    gh.chmod(0o755)
    text = tmp_path / "comparison" / "comparison.md"
    text.parent.mkdir()
    text.write_text("# Compared\n", encoding="utf-8")
    subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", steps[1]["run"]],
        cwd=tmp_path,
        env={
            "PATH": f"{gh.parent}:{os.environ['PATH']}",
            "PULL_REQUEST": "7",
            "RUN": "https://r/1",
        },
        check=True,
    )
    asked = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert asked[:5] == ["pr", "comment", "7", "--edit-last", "--create-if-none"]
    assert asked[5:] == ["--body-file", "comparison/comparison.md"]
    assert text.read_text(encoding="utf-8") == (
        "# Compared\n\nPlots: artifact `comparison` of [this run](https://r/1).\n"
    )
