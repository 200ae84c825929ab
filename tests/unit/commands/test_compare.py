"""What `compare` tells of two commits: of a small repository without data, in this process."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from two_runs import PARAMS, ROC, TwoRuns, figures, intervals

from pipeline.commands import compare

Compared = Callable[..., str]
PAGE = Path("comparison/index.html")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not change it."""
    return TwoRuns(tmp_path_factory.mktemp("made") / "runs").folder


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoRuns:
    """A copy of it to work in."""
    copy = TwoRuns.__new__(TwoRuns)
    copy.folder = tmp_path / "runs"
    shutil.copytree(made, copy.folder)
    monkeypatch.chdir(copy.folder)
    return copy


@pytest.fixture
def compared(
    runs: TwoRuns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Compared:
    """Run the script; what it printed, on stderr if it is to fail."""

    def run(*words: str, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["compare.py", *words])
        assert compare.main() == status
        printed = capsys.readouterr()
        return printed.err if status else printed.out

    return run


def table(text: str, title: str) -> list[list[str]]:
    """The lines of the Markdown table below a title."""
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.*) \|$", section, re.M)
    return [re.split(r" \|(?: |$)", line.rstrip(" |")) for line in lines[1:]]


def test_equal_sides_differ_in_nothing(compared: Compared) -> None:
    text = compared("main")
    assert "\n0 parameters and 0 figures differ.\n" in text
    assert "On test (120 images) no difference is shown.\n" in text
    assert "## Parameters" not in text
    assert "## Figures" not in text
    assert text.endswith("## Plots\n\nNone differs.\n")
    assert not list(Path("comparison/plots").iterdir())


def test_what_differs_is_told_with_both_values(runs: TwoRuns, compared: Compared) -> None:
    changed = {"fine_tune": {"learning_rate": 0.0002, "decay": "constant"}}
    runs.run(changed, figures(0.81, 0.45), intervals((0.73, 0.87), (0.35, 0.6)))
    text = compared("main")
    assert "\n1 parameter and 4 figures differ.\n" in text
    assert table(text, "Parameters") == [["`fine_tune.learning_rate`", "`0.0005`", "`0.0002`"]]
    assert ["`final.test.log_loss`", "`0.5`", "`0.45`", "\u22120.05", "overlap"] in table(
        text, "Figures"
    )
    page = PAGE.read_text(encoding="utf-8")
    assert "fine_tune.<wbr>learning_rate" in page
    assert text == Path("comparison/comparison.md").read_text(encoding="utf-8")


def test_intervals_that_lie_apart_are_told_from_those_that_overlap(
    runs: TwoRuns, compared: Compared
) -> None:
    runs.run(PARAMS, figures(0.95, 0.45), intervals((0.9, 0.98), (0.35, 0.6)))
    text = compared("main")
    assert "On test (120 images) accuracy is better.\n" in text
    assert [
        "test",
        "accuracy",
        "80.0\u00a0% (72.0 to 86.0)",
        "95.0\u00a0% (90.0 to 98.0)",
        "better",
    ] in (table(text, "Final models"))
    assert [line[-2:] for line in table(text, "Figures") if "final.test." in line[0]] == [
        ["+0.15", "apart"],
        ["\u22120.05", "overlap"],
    ]
    runs.run(PARAMS, figures(0.5, 0.9), intervals((0.4, 0.6), (0.71, 1.1)))
    assert "On valid (120 images) accuracy and log loss are worse.\n" in compared("main")


def test_without_predictions_one_sentence_says_how_to_get_them(compared: Compared) -> None:
    told = [line for line in compared("main").splitlines() if line.startswith("> ")]
    assert len(told) == 1
    assert "predictions of main are neither in DVC's cache nor in a remote; push them" in told[0]


def test_an_older_commit_with_other_keys_and_without_a_file_is_compared(
    runs: TwoRuns, compared: Compared
) -> None:
    runs.run(
        {"fine_tune": {"step_size": 0.1, "decay": "constant"}, "new": {"key": [1, None]}},
        figures(0.8, 0.5),
        intervals((0.72, 0.86), (0.4, 0.7)),
    )
    runs.write("metrics/audit.json", '{"copies": 6}')
    runs.write("dvc.yaml", "params: [params.yaml]\nmetrics: [metrics/audit.json]\n")
    text = compared("main")
    assert table(text, "Parameters") == [
        ["`fine_tune.learning_rate`", "`0.0005`", "`\u2013`"],
        ["`fine_tune.step_size`", "`\u2013`", "`0.1`"],
        ["`new.key`", "`\u2013`", "`[1, None]`"],
    ]
    assert ["`copies`", "`\u2013`", "`6`"] in table(text, "Figures")


def test_curves_that_differ_are_drawn_and_those_that_do_not_are_named(
    runs: TwoRuns, compared: Compared
) -> None:
    runs.write_csv("metrics/curves/head_roc.csv", ("fpr", "tpr"), [(0.0, 0.0), (1.0, 1.0)])
    text = compared("main")
    assert [path.name for path in Path("comparison/plots").iterdir()] == ["head_roc.svg"]
    assert "The same on both sides: ROC, fine-tuned.\n" in text
    assert PAGE.read_text(encoding="utf-8").count("data:image/svg+xml;base64,") == 1


def test_a_curve_that_only_one_side_has_is_drawn_alone(runs: TwoRuns, compared: Compared) -> None:
    runs.write_csv("metrics/curves/final_thresholds.csv", ("threshold", "accuracy"), [(0.5, 0.9)])
    compared("main")
    assert [path.stem for path in Path("comparison/plots").iterdir()] == ["final_thresholds"]


def test_a_curve_that_dvc_keeps_where_it_cannot_be_had_is_left_out(
    runs: TwoRuns, compared: Compared
) -> None:
    curve, kept = Path("metrics/curves/head_roc.csv"), Path("metrics/curves/head_roc.csv.dvc")
    text = curve.read_text(encoding="utf-8")
    curve.unlink()
    runs.write(
        str(kept), f"outs:\n- md5: {'a' * 32}\n  size: 9\n  hash: md5\n  path: {curve.name}\n"
    )
    runs.commit("the curve is DVC's")
    kept.unlink()
    curve.write_text(text, encoding="utf-8")
    compared("HEAD")
    assert [path.stem for path in Path("comparison/plots").iterdir()] == ["head_roc"]


def test_a_damaged_curve_is_told_and_the_rest_is_drawn(runs: TwoRuns, compared: Compared) -> None:
    runs.write("metrics/curves/head_roc.csv", "fpr,tpr\n0,<<<<<<< main\n")
    runs.write_csv("metrics/curves/fine_tune_roc.csv", ("fpr", "tpr"), ROC[:2])
    text = compared("main")
    told = "ROC, head, this run, is not drawn &#40;metrics&#47;curves&#47;head&#95;roc.csv"
    assert told in text
    assert Path("comparison/plots/fine_tune_roc.svg").exists()


def test_two_commits_are_compared_without_the_working_tree(
    runs: TwoRuns, compared: Compared
) -> None:
    runs.run(PARAMS, figures(0.9, 0.4), intervals((0.8, 0.95), (0.3, 0.5)))
    runs.commit("better")
    shutil.rmtree("metrics")
    text = compared("main", "other")
    assert text.startswith("# `other` against `main`\n")
    assert "4 figures differ" in text
    assert compared("other~1", "HEAD").startswith("# `HEAD` against `other~1`\n")


def test_the_same_bytes_come_again(runs: TwoRuns, compared: Compared) -> None:
    runs.write_csv("metrics/curves/head_roc.csv", ("fpr", "tpr"), [(0.0, 0.0), (1.0, 1.0)])
    runs.run({"a": 1, "b": {"c": "x"}}, figures(0.9, 0.4), intervals((0.8, 0.95), (0.3, 0.5)))
    written = []
    for name in ("one", "two"):
        compared("main", "--out", name)
        found = (path for path in Path(name).rglob("*") if path.is_file())
        written.append({path.relative_to(name): path.read_bytes() for path in found})
    assert len(written[0]) == 3
    assert written[0] == written[1]


def test_an_earlier_comparison_is_replaced_but_no_other_folder(
    runs: TwoRuns, compared: Compared
) -> None:
    compared("main")
    compared("main")
    before = Path("metrics/evaluate.json").read_bytes()
    assert compared("main", "--out", "metrics", status=1) == (
        "error: compare: expected a new folder or an earlier comparison to write to, got metrics "
        "with curves in it; name another folder\n"
    )
    assert Path("metrics/evaluate.json").read_bytes() == before
    assert "got dvc.yaml, a file;" in compared("main", "--out", "dvc.yaml", status=1)
    assert runs.folder.joinpath("dvc.yaml").is_file()


def test_an_unknown_revision_is_one_sentence(compared: Compared) -> None:
    assert compared("no-such", status=1) == (
        "error: compare: expected a branch, tag or commit, got 'no-such'; `git branch --all` lists "
        "the branches\n"
    )
    assert "got 'nor-this'" in compared("main", "nor-this", status=1)
    assert not Path("comparison").exists()


def test_a_shallow_clone_is_told_how_to_get_the_history(
    runs: TwoRuns, compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.run(PARAMS, figures(0.9, 0.4), intervals((0.8, 0.95), (0.3, 0.5)))
    runs.commit("better")
    runs.git("clone", "--quiet", "--depth=1", f"file://{runs.folder}", str(runs.folder / "clone"))
    clone = TwoRuns.__new__(TwoRuns)
    clone.folder = runs.folder / "clone"
    monkeypatch.chdir(clone.folder)
    assert compared("main", status=1) == (
        "error: compare: expected a branch, tag or commit, got 'main'; this clone has only the end "
        "of the history, `git remote set-branches origin '*' && git fetch --unshallow` brings the "
        "rest\n"
    )
    clone.git("remote", "set-branches", "origin", "*")
    clone.git("fetch", "--unshallow")
    for revision in ("main", "origin/main", "HEAD~1"):
        assert "4 figures differ" in compared(revision)


def test_a_tag_is_a_revision(runs: TwoRuns, compared: Compared) -> None:
    runs.git("tag", "v1", "main")
    assert compared("v1").startswith("# This run against `v1`\n")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda: Path("metrics/evaluate.json").write_text("{"),
            "expected to read metrics/evaluate",
        ),
        (
            lambda: Path("metrics/evaluate.json").unlink(),
            "metrics/evaluate.json of the working tree",
        ),
        (
            lambda: Path("metrics/intervals.json").write_text("{"),
            "metrics/intervals.json: expected",
        ),
        (
            lambda: Path("params.yaml").write_text("a: ["),
            "unable to read: 'params.yaml'",
        ),
        (lambda: shutil.rmtree(".dvc"), "expected to run in the project's folder"),
        (lambda: shutil.rmtree(".git"), "expected a git checkout, got a folder without git"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    compared: Compared, spoil: Callable[[], object], told: str
) -> None:
    spoil()
    printed = compared("main", status=1)
    assert told in printed
    assert printed.count("\n") == 1
    assert not Path("comparison").exists()
