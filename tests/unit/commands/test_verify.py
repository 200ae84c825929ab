"""`pipeline verify` runs a commit again and says whether its outputs come again, else why not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import Tiny
from torture import digest

from pipeline import paths
from pipeline.runtime import machine

Verify = Callable[..., SimpleNamespace]
NOT_AGAIN = "verify: it is not deterministic here: a third run wrote other bytes than the second"


@pytest.fixture
def run(tiny: Tiny, pipeline: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verify:
    """Call `verify`; its clone is gone afterwards."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))

    def call(*words: str) -> SimpleNamespace:
        said = pipeline("verify", *words)
        assert list(scratch.glob("verify-*")) == []
        said.last = said.out.splitlines()[-1:]
        return said

    return call


def test_the_same_bytes_are_reproduced_and_nothing_here_changes(tiny: Tiny, run: Verify) -> None:
    before = digest(tiny.folder / ".dvc" / "cache"), digest(tiny.folder / "data")
    said = run()
    assert said.status == 0
    lines = said.out.splitlines()
    assert lines[1:7] == [
        "| stage | output | result | |",
        "|---|---|---|---|",
        "| draw | data/numbers.csv | same bytes |  |",
        "| score | data/model | same bytes |  |",
        "| score | metrics/score.json | same bytes |  |",
        "",
    ]
    commit = tiny.git("rev-parse", "HEAD")[:10]
    assert lines[7].startswith(f"verify: 3 outputs of 2 stages at {commit}: 3 same bytes (")
    assert (digest(tiny.folder / ".dvc" / "cache"), digest(tiny.folder / "data")) == before
    assert tiny.git("status", "--porcelain") == ""


def test_differences_are_measured_and_another_machine_is_named(tiny: Tiny, run: Verify) -> None:
    other = machine.this() | {"processor": "Another One"}
    record = tiny.folder / paths.MACHINES / "draw.json"
    record.parent.mkdir()
    record.write_text(json.dumps(other))
    tiny.outside("offset", "0.001")
    said = run()
    assert (
        "| draw | data/numbers.csv | DIFFERENT | 0.001 absolute, 0.001 relative; at numbers.csv "
        "line 3 number 1; first: numbers.csv line 1 number 1: 1 and 1.001 |"
    ) in said.out
    assert (
        "| score | data/model | DIFFERENT | 0.002 absolute, 0.001 relative; at model/head.npz "
        "weights [2]; first: model/head.npz weights [0]: 2 and 2.002 |"
    ) in said.out
    here = machine.this()["processor"]
    assert said.status == 1
    assert said.out.splitlines()[-4:] == [
        "verify: the first stage that differs is draw",
        "verify: it read the recorded inputs: draw.py, raw/numbers.txt",
        "verify: it is deterministic here: a third run wrote the bytes of the second",
        f"verify: this machine differs: processor: Another One, now {here}",
    ]
    assert "got others of draw, score; see above, and raise `verify` in params.yaml" in said.err

    tiny.change({"verify.absolute": 0.003})
    said = run()
    assert said.status == 0
    assert ": 3 within tolerance (" in said.out


@pytest.mark.slow
def test_randomness_is_distinguished_from_another_machine(tiny: Tiny, run: Verify) -> None:
    tiny.outside("chance", "")
    said = run("score")
    assert "data/numbers.csv" not in said.out.partition("\n\n")[0]  # that stage did not run
    assert "| score | data/model | DIFFERENT | first: model/note.txt" in said.out
    assert "| score | metrics/score.json | same bytes |  |" in said.out
    assert (said.status, said.last) == (1, [NOT_AGAIN])

    kept = 'kept = Path("data/.rows/one")\nkept.parent.mkdir(parents=True, exist_ok=True)\n'
    kept += "kept.exists() or kept.write_text(uuid.uuid4().hex)\noutside ="
    tiny.edit("score.py", "outside =", kept)  # a cache between runs does not hide it
    chance = 'uuid.uuid4().hex if (outside / "chance").exists() else ""'
    tiny.edit("score.py", chance, "kept.read_text()")
    tiny.dvc("repro", "--quiet")
    tiny.commit("random")
    assert run("score").last == [NOT_AGAIN]


def test_other_inputs_are_named(tiny: Tiny, run: Verify) -> None:
    (tiny.folder / "raw" / "numbers.txt").write_text("1\n2\n5\n")
    tiny.change({"split.seed": 7})
    tiny.edit("draw.py", "+ offset", "+ 7")
    tiny.commit("not run")
    assert run("draw").last == [
        "verify: it read other inputs than recorded: draw.py, raw/numbers.txt, "
        "params.yaml.split.seed 0 -> 7"
    ]


@pytest.mark.slow
def test_one_stage_runs_with_the_outputs_in_a_folder_that_it_reads(tiny: Tiny, run: Verify) -> None:
    tiny.edit("dvc.yaml", "outs: [data/numbers.csv]", "outs: [data/parts/numbers.csv]")
    tiny.edit("dvc.yaml", "score.py, data/numbers.csv]", "score.py, data/parts]")
    tiny.edit("draw.py", 'Path("data").mkdir(', 'Path("data/parts").mkdir(parents=True, ')
    for name in ("draw.py", "score.py"):
        tiny.edit(name, "data/numbers.csv", "data/parts/numbers.csv")
    tiny.dvc("repro", "--quiet")
    tiny.commit("a folder")
    assert run("score").status == 0
    tiny.edit("score.py", "numbers.mean()", "numbers.max()")
    tiny.dvc("repro", "--quiet")
    tiny.commit("the largest")
    said = run("--revision", "HEAD~1")  # an earlier commit is compared with its own record
    assert (said.status, ": 3 same bytes (" in said.out) == (0, True)


def test_neither_forged_metrics_nor_unknown_outputs_are_called_reproduced(
    tiny: Tiny, run: Verify
) -> None:
    (tiny.folder / "metrics" / "score.json").write_text('{"loss": 0.0001}')
    tiny.change({"verify.absolute": 1})
    tiny.commit("forged")
    tiny.outside("offset", "0.001")
    shutil.rmtree(tiny.folder / ".dvc" / "cache")
    shutil.rmtree(tiny.folder / "data")
    said = run()
    assert said.status == 1
    assert "| score | metrics/score.json | DIFFERENT | git has other bytes than dvc.lo" in said.out
    assert "| draw | data/numbers.csv | other bytes | the recorded one, to compare" in said.out


def test_outputs_that_are_only_in_this_folder_are_used_if_they_are_the_recorded_ones(
    tiny: Tiny, run: Verify
) -> None:
    shutil.rmtree(tiny.folder / ".dvc" / "cache")
    assert run("score").status == 0
    numbers = tiny.folder / "data" / "numbers.csv"
    numbers.unlink()
    numbers.write_text("7\n")
    assert "data/numbers.csv: expected it in this folder as dvc.lock rec" in run("score").err


def test_in_a_git_hook_the_branch_stays_and_a_linked_input_is_followed(
    tiny: Tiny, run: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tiny.folder / "raw" / "numbers.txt"
    raw.rename(tiny.folder / "elsewhere.txt")
    raw.symlink_to("../elsewhere.txt")
    monkeypatch.setenv("GIT_DIR", str(tiny.folder / ".git"))
    assert run("draw").status == 0
    monkeypatch.delenv("GIT_DIR")
    assert tiny.git("branch", "--show-current") == "main\n"


@pytest.mark.parametrize("above", [False, True])
def test_a_project_below_the_root_of_git_or_of_dvc_runs_there(
    above: bool, tiny: Tiny, run: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "monorepo"
    root.mkdir()
    tiny.folder.rename(root / "ml")
    for name in (".git", ".dvc") if above else (".git",):
        (root / "ml" / name).rename(root / name)
    below = Tiny(root / "ml")
    monkeypatch.chdir(below.folder)
    below.commit("moved")
    assert run("--quick").out.startswith("verify: outputs: 3 of 3 are here; 2 of the 2 that DVC ")
    said = run()
    assert (said.status, ": 3 same bytes (" in said.out) == (0, True)


def test_a_commit_of_no_branch_of_a_shallow_clone_runs(
    tiny: Tiny, run: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = tiny.git("rev-parse", "HEAD").strip()
    tiny.change({"split.seed": 3})
    tiny.commit("newer")
    tiny.git("clone", "--quiet", "--depth=1", f"file://{tiny.folder}", str(tmp_path / "clone"))
    clone = Tiny(tmp_path / "clone")
    clone.git("fetch", "--quiet", "--depth=1", "origin", commit)
    shutil.copytree("raw", clone.folder / "raw")
    monkeypatch.chdir(clone.folder)
    said = run("--revision", commit)
    assert (said.status, ": 3 same bytes (" in said.out) == (0, True)


def remove_dvc(tiny: Tiny) -> None:
    tiny.git("checkout", "--quiet", "--orphan", "old")
    tiny.git("rm", "-r", "--quiet", "--cached", ".dvc")
    tiny.git("commit", "--quiet", "--message=before DVC")
    tiny.git("checkout", "--quiet", "--force", "main")


def add_an_output(tiny: Tiny) -> None:
    tiny.edit("dvc.yaml", "[data/numbers.csv]\n  score", "[data/numbers.csv, more]\n  score")
    tiny.commit("one more")


FAULTS: list[tuple[Callable[[Tiny], object], str, str]] = [
    (id, "--revision nowhere", "expected a branch, tag or commit, got 'nowhere'; `git branch --al"),
    (id, "scoer", "expected stages of dvc.lock (draw, score), got 'scoer'; correct the name"),
    (id, "--quick draw", "verify --quick: expected no other argument"),
    (add_an_output, "", "with their outputs, got none or others of draw; run `dvc repro` and com"),
    (remove_dvc, "--revision old", "expected a commit with DVC's folder .dvc, got "),
    (lambda _: Path("raw/numbers.txt").unlink(), "", "raw/numbers.txt: expected it in this folder"),
    (lambda tiny: tiny.outside("offset", "none"), "draw", "got a failure (above); fix it there"),
]


@pytest.mark.parametrize(("make", "words", "sentence"), FAULTS)
def test_a_fault_is_one_sentence(
    make: Callable[[Tiny], object], words: str, sentence: str, tiny: Tiny, run: Verify
) -> None:
    make(tiny)
    said = run(*words.split())
    assert said.status == 1
    assert sentence in said.err.rpartition("error: ")[2]
