"""`pipeline compare` where git or DVC has less than usual, or has it elsewhere."""

import html
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from two_runs import PARAMS, TwoRuns, figures, intervals

Pipeline = Callable[..., SimpleNamespace]
TRACKED = "data/split.csv"  # one of the predictions' files


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoRuns:
    """Two commits, the newer with a file that DVC has, in the working folder."""
    runs = TwoRuns.made(tmp_path / "runs")
    runs.write_run(PARAMS, figures(0.9, 0.4), intervals((0.8, 0.95), (0.3, 0.5)))
    runs.write(TRACKED, "member\n")
    monkeypatch.chdir(runs.folder)
    runs.run("dvc", "add", "--quiet", TRACKED)
    runs.commit("better")
    return runs


def in_a_folder(runs: TwoRuns) -> Path:
    """Move the project to `ml` of a monorepo, with both commits."""
    runs.git(
        *("filter-branch", "--force", "--tree-filter"),
        "mkdir ml && find . -mindepth 1 -maxdepth 1 ! -name ml -exec mv {} ml \\;",
        *("--", "--all"),
    )
    runs.git("clean", "--quiet", "-dfx")
    runs.git("reset", "--quiet", "--hard")
    return runs.folder / "ml"


def in_a_worktree(runs: TwoRuns) -> Path:
    in_a_folder(runs)
    runs.git("worktree", "add", "--quiet", "../worktree", "HEAD")
    return runs.folder.parent / "worktree" / "ml"


def in_a_submodule(runs: TwoRuns) -> Path:
    in_a_folder(runs)
    outer = TwoRuns(runs.folder.parent / "outer")
    outer.folder.mkdir()
    outer.init()
    add = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add")
    outer.git(*add, str(runs.folder), "inner")
    return outer.folder / "inner" / "ml"


@pytest.mark.parametrize("place", [in_a_folder, in_a_worktree, in_a_submodule])
def test_a_project_below_the_root_of_git_is_compared_there(
    place: Callable[[TwoRuns], Path],
    runs: TwoRuns,
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FILTER_BRANCH_SQUELCH_WARNING", "1")
    monkeypatch.chdir(place(runs))
    for words in (["HEAD~1"], ["HEAD~1", "HEAD"]):
        said = pipeline("compare", *words)
        assert said.status == 0, said.err
        assert "\n0 parameters and 4 metrics differ.\n" in said.out


REMOTES = {
    "": "neither in DVC's cache nor on a remote; push them",
    "s3://bucket/cats": "not in DVC's cache, and remote 'shared' (s3://bucket/cats): expected the "
    "package dvc-s3, got none; add it",
    "/nowhere/at/all": "not in DVC's cache, and remote 'shared' (/nowhere/at/all): expected a fold",
    "http://127.0.0.1:9/": "not in DVC's cache, and remote 'shared' (http://127.0.0.1:9/): expect",
}


@pytest.mark.parametrize("url", REMOTES)
def test_what_a_remote_does_not_give_is_unknown_and_no_difference(
    url: str, runs: TwoRuns, pipeline: Pipeline
) -> None:
    if url:
        runs.run("dvc", "remote", "add", "--quiet", "--default", "shared", url)
        runs.commit("a remote")
    assert "predictions of HEAD are not outputs of that commit" in pipeline("compare", "HEAD").out
    shutil.rmtree(".dvc/cache")
    said = pipeline("compare", "HEAD")
    assert said.status == 0
    assert "\n0 parameters and 0 metrics differ.\n" in said.out
    assert f"predictions of HEAD are {REMOTES[url]}" in html.unescape(said.out)


def test_a_damaged_file_of_the_cache_is_named_and_not_read(
    runs: TwoRuns, pipeline: Pipeline
) -> None:
    (cached,) = (path for path in Path(".dvc/cache/files").rglob("*") if path.is_file())
    cached.chmod(0o644)
    cached.write_text("another\n", encoding="utf-8")
    text = html.unescape(pipeline("compare", "HEAD").out)
    assert f"predictions of HEAD are damaged in DVC's cache; remove {cached}, then `dvc pu" in text


def test_metrics_that_dvc_has_and_cannot_give_are_not_compared(
    runs: TwoRuns, pipeline: Pipeline
) -> None:
    runs.write("metrics/audit.json", '{"copies": 6}')
    runs.run("dvc", "add", "--quiet", "metrics/audit.json")
    runs.commit("audit")
    shutil.rmtree(".dvc/cache")
    runs.write("metrics/audit.json", '{"copies": 7}')
    text = html.unescape(pipeline("compare", "HEAD").out)
    assert "\n0 parameters and 0 metrics differ in the files that both runs have.\n" in text
    assert "audit.json is not compared: that of HEAD is neither in DVC's cache nor on a re" in text


def test_a_commit_without_parameters_is_one_sentence(runs: TwoRuns, pipeline: Pipeline) -> None:
    runs.git("mv", "params.yaml", "others.yaml")
    runs.commit("none")
    runs.git("mv", "others.yaml", "params.yaml")
    said = pipeline("compare", "HEAD")
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert "expected a commit with params.yaml, got 'HEAD', whose is absent; choose" in said.err


@pytest.mark.parametrize("words", [("compare", "HEAD"), ("verify", "--quick")])
def test_a_repository_of_another_owner_is_one_sentence(
    words: tuple[str, ...], runs: TwoRuns, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    if os.geteuid() == 0:
        for path in (runs.folder, *runs.folder.rglob("*")):
            os.chown(path, 1234, 1234, follow_symlinks=False)
    else:
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    said = pipeline(*words)
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert f"`git config --global --add safe.directory {runs.folder}` if you trust it" in said.err
