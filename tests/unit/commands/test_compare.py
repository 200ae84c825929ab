"""`pipeline compare` of two commits of a small repository without data."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from two_runs import PARAMS, ROC, TwoRuns, figures, intervals

Compared = Callable[..., str]
BETTER = figures(0.9, 0.4), intervals((0.8, 0.95), (0.3, 0.5))
PAGE, PLOTS = Path("comparison/index.html"), Path("comparison/plots")
EVALUATION, INTERVALS = "metrics/evaluate.json", "metrics/intervals.json"
CURVE, HEADER = "metrics/curves/head_roc.csv", ("fpr", "tpr")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoRuns:
    """They are the working folder."""
    runs = TwoRuns.made(tmp_path / "runs")
    monkeypatch.chdir(runs.folder)
    return runs


@pytest.fixture
def compared(runs: TwoRuns, pipeline: Callable[..., SimpleNamespace]) -> Compared:
    """Run the command; return stdout, or stderr if it should fail."""

    def run(*words: str, status: int = 0) -> str:
        said = pipeline("compare", *words)
        assert said.status == status, said.err
        return str(said.err if status else said.out)

    return run


def table(text: str, title: str) -> list[list[str]]:
    """The lines of the Markdown table below a title."""
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.*) \|$", section, re.M)
    return [re.split(r" \|(?: |$)", line.rstrip(" |")) for line in lines[1:]]


def test_equal_runs_have_no_differences(compared: Compared) -> None:
    text = compared("main")
    assert "\n0 parameters and 0 metrics differ.\n" in text
    assert "On test (120 images) no difference is shown.\n" in text
    assert "Code:" not in text
    assert "## Parameters" not in text
    assert list(PLOTS.iterdir()) == []
    (told,) = [line for line in text.splitlines() if line.startswith("> ")]
    assert told == "> Not paired by image: predictions of main are not outputs of that commit."


def test_differences_have_both_values_and_older_commits_may_lack_keys_and_files(
    runs: TwoRuns, compared: Compared
) -> None:
    params = {"fine_tune": {"step_size": 0.1, "decay": "linear"}, "new": {"key": [1, None]}}
    runs.write_run(params, figures(0.81, 0.45), intervals((0.73, 0.87), (0.35, 0.6)))
    runs.write("metrics/audit.json", '{"copies": 6}')
    text = compared("main")
    assert "\n4 parameters and 4 metrics differ in the files that both runs have.\n" in text
    assert table(text, "Parameters") == [
        ["`fine_tune.decay`", "`constant`", "`linear`"],
        ["`fine_tune.learning_rate`", "`0.0005`", "`\u2013`"],
        ["`fine_tune.step_size`", "`\u2013`", "`0.1`"],
        ["`new.key`", "`\u2013`", "`[1, null]`"],
    ]
    lines = table(text, "Metrics")
    assert ["`final.test.log_loss`", "`0.5`", "`0.45`", "\u22120.05", "overlap"] in lines
    assert "\n> metrics&#47;audit.json is not compared: main has none.\n" in text
    assert "fine_tune.<wbr>learning_rate" in PAGE.read_text(encoding="utf-8")
    assert text == Path("comparison/comparison.md").read_text(encoding="utf-8")


def test_differing_code_is_named_in_words(runs: TwoRuns, compared: Compared) -> None:
    old = "extract: {keras: 3.15.1, a/b.py: '1'}\nsplit: {a/b.py: '1'}\nresize: {a/c.py: '1'}\n"
    runs.write("code.yaml", old)
    runs.commit("code")
    runs.write("code.yaml", old.replace("a/b.py: '1'", "a/b.py: '2'").replace("15.1", "15.2"))
    sentence = "Code: `extract` and 1 other stage differ (`a/b.py`, `keras 3.15.1 -> 3.15.2`).\n"
    assert sentence in compared("HEAD")
    text = compared("main")
    assert "Code:" not in text
    assert "code.yaml is not compared: main has none." in text


def test_intervals_that_are_apart_show_a_difference(runs: TwoRuns, compared: Compared) -> None:
    runs.write_run(PARAMS, figures(0.95, 0.45), intervals((0.9, 0.98), (0.35, 0.6)))
    text = compared("main")
    assert "On test (120 images) accuracy is better.\n" in text
    old, new = "80.0\u00a0% (72.0 to 86.0)", "95.0\u00a0% (90.0 to 98.0)"
    assert ["test", "accuracy", old, new, "better"] in table(text, "Final models")
    lines = [line[-2:] for line in table(text, "Metrics") if "final.test." in line[0]]
    assert lines == [["+0.15", "apart"], ["\u22120.05", "overlap"]]
    runs.write_run(PARAMS, figures(0.5, 0.9), intervals((0.4, 0.6), (0.71, 1.1)))
    assert "On valid (120 images) accuracy and log loss are worse.\n" in compared("main")


def test_an_interval_that_is_not_available_is_told_and_shows_no_difference(
    runs: TwoRuns, compared: Compared
) -> None:
    runs.write_run(PARAMS, figures(0.95, 0.1), intervals((0.9, 0.98), None))
    text = compared("main")
    assert "On test (120 images) accuracy is better.\n" in text
    values = ["test", "log loss", "0.5000 (0.4000 to 0.7000)", "0.1000 (interval not available)"]
    assert [*values, "no difference shown"] in table(text, "Final models")
    assert ["\u22120.4", "not available"] in [line[-2:] for line in table(text, "Metrics")]
    assert "interval not available" in PAGE.read_text(encoding="utf-8")


def test_curves_that_differ_are_drawn_and_a_damaged_one_is_named(
    runs: TwoRuns, compared: Compared
) -> None:
    runs.write_csv(CURVE, HEADER, [(0.0, 0.0), (1.0, 1.0)])
    runs.write_csv("metrics/curves/final_thresholds.csv", ("threshold", "accuracy"), [(0.5, 0.9)])
    text = compared("main")
    assert "ROC, fine-tuned.\n" in text
    assert "; Accuracy by threshold, only of `this run`.\n" in text
    drawn = {path.name for path in PLOTS.iterdir()}
    assert drawn == {"final_thresholds.svg", "head_roc.svg"}  # one of them has only one side
    assert PAGE.read_text(encoding="utf-8").count("data:image/svg+xml;base64,") == 2
    runs.write(CURVE, "fpr,tpr\n0,<<<<<<< main\n")
    text = compared("main")
    assert "ROC, head, is not drawn &#40;metrics&#47;curves&#47;head" in text
    assert (PLOTS / "final_thresholds.svg").is_file()
    runs.commit("a conflict")
    runs.write_csv(CURVE, HEADER, ROC)
    assert "is not drawn &#40;HEAD:metrics&#47;curves&#47;head" in compared("HEAD")


def test_commits_are_compared_without_the_working_tree_to_the_same_bytes(
    runs: TwoRuns, compared: Compared
) -> None:
    runs.write_run(PARAMS, *BETTER)
    runs.write_csv(CURVE, HEADER, [(0.0, 0.0), (1.0, 1.0)])
    runs.commit("better")
    runs.git("tag", "v1", "main")
    shutil.rmtree("metrics")
    written = []
    for name in ("one", "two"):
        text = compared("v1", "other", "--out", name)
        files = [path for path in Path(name).rglob("*") if path.is_file()]
        written.append({path.relative_to(name): path.read_bytes() for path in files})
    assert text.startswith("# `other` against `v1`\n")
    assert "4 metrics differ" in text
    assert len(written[0]) == 3
    assert written[0] == written[1]


def test_only_an_earlier_comparison_is_replaced(compared: Compared) -> None:
    compared("main")
    compared("main")
    before = Path(EVALUATION).read_bytes()
    for mine in ("metrics", "dvc.yaml"):
        refused = compared("main", "--out", mine, status=1)
        assert f"got '{mine}', which holds something else; name another one" in refused
    assert Path(EVALUATION).read_bytes() == before


def test_a_shallow_clone_is_told_how_to_fetch_the_history(
    runs: TwoRuns, compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.write_run(PARAMS, *BETTER)
    runs.commit("better")
    clone = TwoRuns(runs.folder / "clone")
    runs.git("clone", "--quiet", "--depth=1", f"file://{runs.folder}", str(clone.folder))
    monkeypatch.chdir(clone.folder)
    assert "`git remote set-branches origin '*' && git fetch --unsh" in compared("main", status=1)
    assert "`git fetch --depth=1 origin main` one commit as FETCH_H" in compared("main", status=1)
    clone.git("fetch", "--quiet", "--depth=1", "origin", "main")
    assert "4 metrics differ" in compared("FETCH_HEAD")
    clone.git("remote", "set-branches", "origin", "*")
    clone.git("fetch", "--unshallow")
    assert "4 metrics differ" in compared("main")


def test_a_partial_clone_is_told_how_to_fetch_the_files(
    runs: TwoRuns, compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.write_run(PARAMS, *BETTER)
    runs.commit("better")
    runs.git("config", "uploadpack.allowFilter", "true")
    clone = TwoRuns(runs.folder / "clone")
    partial = ("clone", "--quiet", "--filter=blob:none", f"file://{runs.folder}")
    runs.git(*partial, str(clone.folder))
    monkeypatch.chdir(clone.folder)
    assert "`git fetch --refetch --no-filter` fetches them" in compared("HEAD~1", status=1)
    clone.git("fetch", "--quiet", "--refetch", "--no-filter")
    assert "4 metrics differ" in compared("HEAD~1")


@pytest.mark.parametrize(
    ("path", "text", "revision", "sentence"),
    [
        ("x", "", "", "revision: expected a branch, tag or commit, got ''; `git branch --all` "),
        ("x", "", "nowhere", "revision: expected a branch, tag or commit, got 'nowhere'; `git br"),
        (EVALUATION, "{", "main", f"{EVALUATION}: expected a JSON object"),
        (EVALUATION, None, "main", f"{EVALUATION}: expected the output of `evaluate`, got noth"),
        (INTERVALS, "{", "main", f"{INTERVALS}: expected"),
        ("params.yaml", "a: [", "main", "params.yaml: expected YAML"),
    ],
)
def test_a_fault_is_one_sentence(
    path: str, text: str | None, revision: str, sentence: str, compared: Compared, runs: TwoRuns
) -> None:
    if text is None:
        Path(path).unlink()
    else:
        runs.write(path, text)
    printed = compared(revision, status=1)
    assert printed.startswith(f"error: {sentence}")
    assert printed.count("\n") == 1
    assert not Path("comparison").exists()
