"""`verify` runs a commit again and says whether it is reproduced, and if not, where and why."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from project import Project
from tiny import Tiny
from torture import digest

from pipeline.commands import verify
from pipeline.runtime import machine

Verify = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Verify:
    """Call `verify`: its status, what it printed, and the error."""

    def call(*words: str) -> tuple[int, str, str]:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        monkeypatch.setattr(sys, "argv", ["verify", *words, "--scratch", str(scratch)])
        capfd.readouterr()
        status = verify.main()
        printed = capfd.readouterr()
        assert list(scratch.iterdir()) == []
        return status, printed.out, printed.err.rpartition("error: ")[2]

    return call


def tolerate(tiny: Project, **tolerance: float) -> None:
    tiny.change({f"verify.{name}": value for name, value in tolerance.items()})


def test_a_commit_that_gives_the_same_bytes_is_reproduced_and_nothing_here_changes(
    tiny: Tiny, run: Verify
) -> None:
    before = digest(tiny.folder / ".dvc" / "cache"), digest(tiny.folder / "data")
    status, told, _ = run()
    assert status == 0
    assert told.splitlines()[1:7] == [
        "| stage | output | result | |",
        "|---|---|---|---|",
        "| draw | data/numbers.csv | same bytes |  |",
        "| score | data/model | same bytes |  |",
        "| score | metrics/score.json | same bytes |  |",
        "",
    ]
    commit = tiny.git("rev-parse", "--short", "HEAD").strip()
    assert told.splitlines()[7].startswith(
        f"verify: 3 outputs of 2 stages at {commit}: 3 same bytes ("
    )
    assert (digest(tiny.folder / ".dvc" / "cache"), digest(tiny.folder / "data")) == before
    assert tiny.git("status", "--porcelain") == ""


def test_numbers_of_another_machine_differ_by_so_much_and_the_machine_is_told(
    tiny: Tiny, run: Verify
) -> None:
    other = machine.this() | {"processor": "Another One"}
    record = {"machines": {"a": other}, "stages": {"draw": "a"}}
    (tiny.folder / machine.PATH).write_text(json.dumps(record))
    tiny.commit("recorded elsewhere")
    tiny.outside("offset", "0.001")
    status, told, error = run()
    assert status == 1
    assert (
        "| draw | data/numbers.csv | DIFFERENT | 0.001 absolute, 0.001 relative; at numbers.csv "
        "line 3; first: numbers.csv line 1: 1 and 1.001 |"
    ) in told
    assert (
        "| score | data/model | DIFFERENT | 0.002 absolute, 0.001 relative; at head.npz weights "
        "[2]; first: head.npz weights [0]: 2 and 2.002 |"
    ) in told
    assert "| score | metrics/score.json | DIFFERENT | 0.001 absolute" in told
    *_, first, read, again, differs = told.splitlines()
    assert first == "verify: the first stage that differs is draw"
    assert read == "verify: it read what is recorded: draw.py, raw/numbers.txt"
    assert again == ("verify: it is deterministic here: a third run wrote the bytes of the second")
    here = machine.this()["processor"]
    assert differs == f"verify: this machine differs: processor: Another One, now {here}"
    assert error.endswith(
        "got other ones of draw, score; see above, and raise `verify` in "
        "params.yaml only if you can say why they may differ\n"
    )

    tolerate(tiny, absolute=0.003)
    status, told, _ = run()
    assert status == 0
    assert "3 outputs of 2 stages" in told
    assert ": 3 within tolerance (" in told


def test_chance_is_told_from_another_machine(tiny: Tiny, run: Verify) -> None:
    tiny.outside("chance", "")
    status, told, error = run("score")
    assert status == 1
    assert "data/numbers.csv" not in told.partition("\n\n")[0]  # that stage did not run
    assert "| score | data/model | DIFFERENT | first: note.txt" in told
    assert "| score | metrics/score.json | same bytes |  |" in told
    assert told.splitlines()[-1] == (
        "verify: it is not deterministic here: a third run wrote other bytes than the second"
    )
    assert "got other ones of score; " in error


def test_another_input_is_named(tiny: Tiny, run: Verify) -> None:
    (tiny.folder / "raw" / "numbers.txt").write_text("1\n2\n5\n")
    status, told, _ = run("draw")
    assert status == 1
    assert told.splitlines()[-1] == (
        "verify: it read something else than recorded: raw/numbers.txt"
    )


def test_without_the_recorded_output_other_bytes_are_not_taken_for_close_ones(
    tiny: Tiny, run: Verify
) -> None:
    tolerate(tiny, absolute=1)
    tiny.outside("offset", "0.001")
    shutil.rmtree(tiny.folder / ".dvc" / "cache")
    status, told, _ = run("draw")
    assert status == 1
    assert (
        "| draw | data/numbers.csv | other bytes | the recorded one is not in DVC's cache here: "
        "`dvc fetch` it to compare numbers |"
    ) in told


def test_an_earlier_commit_is_verified_with_what_it_recorded(tiny: Tiny, run: Verify) -> None:
    code = tiny.read("score.py").replace("numbers.mean()", "numbers.max()")
    (tiny.folder / "score.py").write_text(code)
    tiny.dvc("repro", "--quiet")
    tiny.commit("the largest")
    status, told, _ = run("score", "--revision", "HEAD~1")
    assert status == 0
    assert ": 2 same bytes (" in told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--revision", "nowhere"),
            "verify: expected a branch, tag or commit, got 'nowhere'; `git branch --all` lists the "
            "branches\n",
        ),
        (
            ("scoer",),
            "verify: expected stages of dvc.lock (draw, score), got 'scoer'; correct the name\n",
        ),
    ],
)
def test_what_is_not_there_is_one_sentence(
    words: tuple[str, ...], sentence: str, tiny: Tiny, run: Verify
) -> None:
    assert run(*words) == (1, "", sentence)


def test_an_input_that_is_nowhere_is_one_sentence(tiny: Tiny, run: Verify) -> None:
    (tiny.folder / "raw" / "numbers.txt").unlink()
    status, _, error = run()
    assert (status, error) == (
        1,
        "raw/numbers.txt: expected it in this folder, in DVC's cache or on its remote, got it "
        "nowhere; put it there, `dvc pull` it, or verify all stages\n",
    )


def test_a_stage_that_fails_when_run_again_is_one_sentence(tiny: Tiny, run: Verify) -> None:
    tiny.outside("offset", "none")
    status, _, error = run("draw")
    assert status == 1
    assert error.endswith("got a failure (above); mend it there first\n")


def test_committed_figures_that_the_lock_does_not_know_are_not_reproduced(
    tiny: Tiny, run: Verify
) -> None:
    (tiny.folder / "metrics" / "score.json").write_text('{"loss": 0.0001}')
    tiny.commit("forged")
    status, told, _ = run("score")
    assert status == 1
    assert (
        "| score | metrics/score.json | DIFFERENT | what is committed is not what dvc.lock says: "
        "`dvc repro`, and commit both |"
    ) in told


def test_what_an_earlier_run_in_the_clone_kept_does_not_hide_chance(
    tiny: Tiny, run: Verify
) -> None:
    kept = 'kept = Path("data/.rows/one")\n'
    kept += "kept.parent.mkdir(parents=True, exist_ok=True)\n"
    kept += "kept.exists() or kept.write_text(uuid.uuid4().hex)\n"
    code = tiny.read("score.py").replace("outside =", f"{kept}outside =", 1)
    code = code.replace(
        'uuid.uuid4().hex if (outside / "chance").exists() else ""', "kept.read_text()"
    )
    (tiny.folder / "score.py").write_text(code)
    tiny.dvc("repro", "--quiet")
    tiny.commit("by chance")
    status, told, _ = run("score")
    assert status == 1
    assert told.splitlines()[-1].startswith("verify: it is not deterministic here")


def test_another_parameter_is_named_as_what_it_read(tiny: Tiny, run: Verify) -> None:
    tiny.change({"split.seed": 7})
    code = tiny.read("draw.py").replace("+ offset", "+ 7")
    (tiny.folder / "draw.py").write_text(code)
    tiny.commit("not run")
    status, told, _ = run("draw")
    assert status == 1
    assert told.splitlines()[-1] == (
        "verify: it read something else than recorded: draw.py, params.yaml split.seed"
    )


def test_in_a_git_hook_it_leaves_the_branch_alone(
    tiny: Tiny, run: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tiny.folder / ".git"))
    assert run("draw")[0] == 0
    monkeypatch.delenv("GIT_DIR")
    assert tiny.git("branch", "--show-current") == "main\n"


def test_a_link_as_input_is_followed(tiny: Tiny, run: Verify) -> None:
    raw = tiny.folder / "raw" / "numbers.txt"
    raw.rename(tiny.folder / "elsewhere.txt")
    raw.symlink_to("../elsewhere.txt")
    assert run("draw")[0] == 0


def test_an_output_that_the_lock_does_not_know_is_told(tiny: Tiny, run: Verify) -> None:
    text = tiny.read("dvc.yaml").replace(
        "[data/numbers.csv]\n  score", "[data/numbers.csv, more]\n  score"
    )
    (tiny.folder / "dvc.yaml").write_text(text)
    tiny.commit("one more")
    status, _, error = run()
    assert status == 1
    assert "with their outputs, got none or others of draw; run `dvc repro` and commit it" in error


def test_a_commit_without_dvc_is_one_sentence(tiny: Tiny, run: Verify) -> None:
    tiny.git("checkout", "--quiet", "--orphan", "old")
    tiny.git("rm", "-r", "--quiet", "--cached", ".dvc")
    tiny.git("commit", "--quiet", "--message=before DVC")
    tiny.git("checkout", "--quiet", "--force", "main")
    status, _, error = run("--revision", "old")
    assert status == 1
    assert "expected a commit with DVC's folder .dvc, got " in error
