"""A stage runs again when an output byte could change, and only then: real edits, real runs."""

import json
from collections.abc import Iterator

import pytest
from edits import HARMLESS, MATTERING, Case
from project import Project

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("reruns")]


@pytest.fixture(scope="module")
def copied(done: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return done.copy_to(tmp_path_factory.mktemp("reruns") / "project")


@pytest.fixture
def project(copied: Project) -> Iterator[Project]:
    """A copy of the finished sample, restored after each test."""
    yield copied
    copied.git("checkout", "--quiet", "--", ".")
    copied.run("dvc", "checkout", "--quiet", "metrics/report")


@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case.name)
def test_after_a_harmless_edit_only_code_split_and_report_run(case: Case, project: Project) -> None:
    before = project.read("params.yaml")
    case.edit(project.folder)
    edited_params = project.read("params.yaml") != before
    ran = project.repro()
    # A lock that only tests use is no dependency of `code`.
    assert ran in ([["code", *case.stages, "report"]] if edited_params else [["code"], []])


@pytest.mark.parametrize("case", MATTERING, ids=lambda case: case.name)
def test_an_edit_that_matters_makes_the_stages_stale_that_use_it(
    case: Case, project: Project
) -> None:
    before = project.read("params.yaml")
    case.edit(project.folder)
    shown = {"report"} if project.read("params.yaml") != before else set()  # it shows all params
    project.run("dvc", "repro", "--quiet", "code")
    stale = json.loads(project.run("dvc", "status", "--json"))
    assert {stage.partition("@")[0] for stage in stale} == {*case.stages} | shown
