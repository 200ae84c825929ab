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


def plots() -> list[str]:
    return sorted(path.stem for path in Path("comparison/plots").iterdir())


def test_equal_runs_have_no_differences(compared: Compared) -> None:
    text = compared("main")
    assert "\n0 parameters and 0 metrics differ.\n" in text
    assert "On test (120 images) no difference is shown.\n" in text
    assert "Code:" not in text
    assert "## Parameters" not in text
    assert plots() == []
    told = [line for line in text.splitlines() if line.startswith("> ")]
    assert len(told) == 1
    assert "predictions of main are neither in DVC's cache nor on a remote; push them" in told[0]


def test_differences_have_both_values(runs: TwoRuns, compared: Compared) -> None:
    changed = {"fine_tune": {"learning_rate": 0.0002, "decay": "constant"}}
    runs.run(changed, figures(0.81, 0.45), intervals((0.73, 0.87), (0.35, 0.6)))
    text = compared("main")
    assert "\n1 parameter and 4 metrics differ.\n" in text
    assert table(text, "Parameters") == [["`fine_tune.learning_rate`", "`0.0005`", "`0.0002`"]]
    line = ["`final.test.log_loss`", "`0.5`", "`0.45`", "\u22120.05", "overlap"]
    assert line in table(text, "Metrics")
    assert "fine_tune.<wbr>learning_rate" in PAGE.read_text(encoding="utf-8")
    assert text == Path("comparison/comparison.md").read_text(encoding="utf-8")


def test_differing_code_is_named_in_words(runs: TwoRuns, compared: Compared) -> None:
    old = "extract: {keras: 3.15.1, a/b.py: '1'}\nsplit: {a/b.py: '1'}\nresize: {a/c.py: '1'}\n"
    runs.write("code.yaml", old)
    runs.commit("code")
    runs.write("code.yaml", old.replace("a/b.py: '1'", "a/b.py: '2'").replace("15.1", "15.2"))
    sentence = "Code: `extract` and 1 other stage differ (`a/b.py`, `keras 3.15.1 -> 3.15.2`).\n"
    assert sentence in compared("HEAD")
    assert "extract" in PAGE.read_text(encoding="utf-8")
    assert "Code: `extract` and 2 other stages differ (`code.yaml added`).\n" in compared("main")


def test_intervals_that_are_apart_show_a_difference(runs: TwoRuns, compared: Compared) -> None:
    runs.run(PARAMS, figures(0.95, 0.45), intervals((0.9, 0.98), (0.35, 0.6)))
    text = compared("main")
    assert "On test (120 images) accuracy is better.\n" in text
    old, new = "80.0\u00a0% (72.0 to 86.0)", "95.0\u00a0% (90.0 to 98.0)"
    assert ["test", "accuracy", old, new, "better"] in table(text, "Final models")
    lines = [line[-2:] for line in table(text, "Metrics") if "final.test." in line[0]]
    assert lines == [["+0.15", "apart"], ["\u22120.05", "overlap"]]
    runs.run(PARAMS, figures(0.5, 0.9), intervals((0.4, 0.6), (0.71, 1.1)))
    assert "On valid (120 images) accuracy and log loss are worse.\n" in compared("main")


def test_an_older_commit_with_other_keys_and_files_is_compared(
    runs: TwoRuns, compared: Compared
) -> None:
    params = {"fine_tune": {"step_size": 0.1, "decay": "constant"}, "new": {"key": [1, None]}}
    runs.run(params, figures(0.8, 0.5), intervals((0.72, 0.86), (0.4, 0.7)))
    runs.write("metrics/audit.json", '{"copies": 6}')
    text = compared("main")
    assert table(text, "Parameters") == [
        ["`fine_tune.learning_rate`", "`0.0005`", "`\u2013`"],
        ["`fine_tune.step_size`", "`\u2013`", "`0.1`"],
        ["`new.key`", "`\u2013`", "`[1, null]`"],
    ]
    assert ["`copies`", "`\u2013`", "`6`"] in table(text, "Metrics")
    runs.run({"fine_tune": None}, figures(0.8, 0.5), intervals((0.72, 0.86), (0.4, 0.7)))
    assert table(compared("main"), "Parameters") == [
        ["`fine_tune.decay`", "`constant`", "`\u2013`"],
        ["`fine_tune.learning_rate`", "`0.0005`", "`\u2013`"],
    ]


def test_curves_that_differ_are_drawn(runs: TwoRuns, compared: Compared) -> None:
    runs.write_csv("metrics/curves/head_roc.csv", ("fpr", "tpr"), [(0.0, 0.0), (1.0, 1.0)])
    runs.write_csv("metrics/curves/final_thresholds.csv", ("threshold", "accuracy"), [(0.5, 0.9)])
    text = compared("main")
    assert plots() == ["final_thresholds", "head_roc"]  # one of them has only one side
    assert "ROC, fine-tuned.\n" in text
    assert PAGE.read_text(encoding="utf-8").count("data:image/svg+xml;base64,") == 2


def test_a_curve_that_is_nowhere_is_left_out(runs: TwoRuns, compared: Compared) -> None:
    curve, pointer = Path("metrics/curves/head_roc.csv"), Path("metrics/curves/head_roc.csv.dvc")
    text = curve.read_text(encoding="utf-8")
    curve.unlink()
    content = f"outs:\n- md5: {'a' * 32}\n  size: 9\n  hash: md5\n  path: {curve.name}\n"
    runs.write(str(pointer), content)
    runs.commit("DVC keeps the curve")
    pointer.unlink()
    curve.write_text(text, encoding="utf-8")
    compared("HEAD")
    assert plots() == ["head_roc"]


def test_a_damaged_curve_is_named_and_the_rest_is_drawn(runs: TwoRuns, compared: Compared) -> None:
    runs.write("metrics/curves/head_roc.csv", "fpr,tpr\n0,<<<<<<< main\n")
    runs.write_csv("metrics/curves/fine_tune_roc.csv", ("fpr", "tpr"), ROC[:2])
    assert "ROC, head, is not drawn &#40;metrics&#47;curves&#47;head" in compared("main")
    assert "fine_tune_roc" in plots()


def test_commits_are_compared_without_the_working_tree(runs: TwoRuns, compared: Compared) -> None:
    runs.run(PARAMS, *BETTER)
    runs.commit("better")
    runs.git("tag", "v1", "main")
    shutil.rmtree("metrics")
    text = compared("v1", "other")
    assert text.startswith("# `other` against `v1`\n")
    assert "4 metrics differ" in text
    assert compared("other~1", "HEAD").startswith("# `HEAD` against `other~1`\n")


def test_two_comparisons_have_the_same_bytes(runs: TwoRuns, compared: Compared) -> None:
    runs.write_csv("metrics/curves/head_roc.csv", ("fpr", "tpr"), [(0.0, 0.0), (1.0, 1.0)])
    runs.run({"a": 1, "b": {"c": "x"}}, *BETTER)
    written = []
    for name in ("one", "two"):
        compared("main", "--out", name)
        files = [path for path in Path(name).rglob("*") if path.is_file()]
        written.append({path.relative_to(name): path.read_bytes() for path in files})
    assert len(written[0]) == 3
    assert written[0] == written[1]


def test_only_an_earlier_comparison_is_replaced(runs: TwoRuns, compared: Compared) -> None:
    compared("main")
    compared("main")
    before = Path("metrics/evaluate.json").read_bytes()
    for mine in ("metrics", "dvc.yaml"):
        refused = compared("main", "--out", mine, status=1)
        assert f"got '{mine}', which holds something else; name another one" in refused
    assert Path("metrics/evaluate.json").read_bytes() == before
    assert runs.folder.joinpath("dvc.yaml").is_file()


def test_a_shallow_clone_is_told_how_to_fetch_the_history(
    runs: TwoRuns, compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.run(PARAMS, *BETTER)
    runs.commit("better")
    runs.git("clone", "--quiet", "--depth=1", f"file://{runs.folder}", str(runs.folder / "clone"))
    clone = TwoRuns.__new__(TwoRuns)
    clone.folder = runs.folder / "clone"
    monkeypatch.chdir(clone.folder)
    assert "`git remote set-branches origin '*' && git fetch --unsh" in compared("main", status=1)
    clone.git("remote", "set-branches", "origin", "*")
    clone.git("fetch", "--unshallow")
    for revision in ("main", "origin/main", "HEAD~1"):
        assert "4 metrics differ" in compared(revision)


def write(path: str, text: str) -> Callable[[], object]:
    return lambda: Path(path).write_text(text, encoding="utf-8")


EVALUATION, INTERVALS = "metrics/evaluate.json", "metrics/intervals.json"
HARMS: list[tuple[Callable[[], object], str, str]] = [
    (list, "no-such", "revision: expected a branch, tag or commit, got 'no-such'; `git branch --a"),
    (write(EVALUATION, "{"), "main", f"{EVALUATION}: expected a JSON object"),
    (Path(EVALUATION).unlink, "main", f"{EVALUATION}: expected the output of `evaluate`, got noth"),
    (write(INTERVALS, "{"), "main", f"{INTERVALS}: expected"),
    (write("params.yaml", "a: ["), "main", "params.yaml: expected YAML"),
]


@pytest.mark.parametrize(("harm", "revision", "sentence"), HARMS)
def test_a_fault_is_one_sentence(
    harm: Callable[[], object], revision: str, sentence: str, compared: Compared
) -> None:
    harm()
    printed = compared(revision, status=1)
    assert printed.startswith(f"error: {sentence}")
    assert printed.count("\n") == 1
    assert not Path("comparison").exists()
