"""How stages run: alone, with their inputs, and under DVC with the recorded code and parameters."""

import importlib
import importlib.metadata
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from project import ROOT

from pipeline import config, paths
from pipeline import stage as stage_module
from pipeline.runtime import atomic_files, fingerprint, machine
from pipeline.storage import arrays, ledger
from stages import submit

STAGES = [path.stem for path in sorted((ROOT / "stages").glob("[!_]*.py"))]
BACKBONE_STAGES = ("fetch_weights", "extract")
ROW = ledger.LedgerRow(
    "cat.0", "train", "cat.0.jpg", "cat", 0, "train", "0" * 64, 9, 9, "RGB", "train/cat.0", ""
)
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run(name) -> what a stage that is refused prints, in a folder with parameters only."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")

    def run(name: str) -> str:
        words = ["convnet"] if name in BACKBONE_STAGES else []
        monkeypatch.setattr("sys.argv", [name, *words])
        assert importlib.import_module(f"stages.{name}").main() == 1
        return capsys.readouterr().err

    return run


def missing(path: Path, writer: str) -> str:
    return (
        f"error: {path}: expected the output of `{writer}`, got nothing at that path; "
        f"run `dvc repro {writer}` first\n"
    )


@pytest.mark.parametrize(
    ("name", "path", "writer"),
    [
        ("resize", paths.LEDGER, "split"),
        ("extract", paths.RESIZED, "resize"),
        ("audit", paths.LEDGER, "split"),
        ("train_head", paths.LEDGER, "split"),
        ("train_head", paths.features("convnet"), "extract@convnet"),
        ("fine_tune", paths.RESIZED, "resize"),
        ("evaluate", paths.predictions(paths.HEAD), "train_head"),
        ("submit", paths.EVALUATION, "evaluate"),
        ("report", paths.EVALUATION, "evaluate"),
    ],
)
def test_a_missing_input_is_refused_with_the_stage_that_writes_it(
    name: str, path: Path, writer: str, run: Run
) -> None:
    if path != paths.LEDGER:
        ledger.write_ledger(paths.LEDGER, [ROW])
    assert run(name) == missing(path, writer)


def write_array(path: Path, fingerprint: str) -> None:
    zeros = np.zeros((1, 1, 4), dtype=np.float32)
    arrays.write(path, [zeros], shape=(1, 1, 4), dtype="float32", fingerprint=fingerprint)


def test_extract_without_weights_is_refused(run: Run) -> None:
    write_array(paths.RESIZED, ledger.fingerprint([ROW]))
    assert run("extract") == missing(paths.weights("convnet"), "fetch_weights@convnet")


@pytest.mark.parametrize(
    ("name", "path"), [("train_head", paths.features("convnet")), ("fine_tune", paths.RESIZED)]
)
def test_an_array_of_other_images_is_refused(name: str, path: Path, run: Run) -> None:
    ledger.write_ledger(paths.LEDGER, [ROW])
    write_array(path, "of other images")
    assert f"{path}: expected the rows of the current data/split.csv" in run(name)


@pytest.mark.parametrize("name", STAGES)
def test_help_prints_the_docstring(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"stages.{name}")
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    printed = capsys.readouterr().out
    assert end.value.code == 0
    assert f"usage: python -m stages.{name} " in printed
    assert re.sub(r"\s+", " ", module.__doc__ or "?") in re.sub(r"\s+", " ", printed)


@pytest.mark.parametrize("words", [["one more word"], ["--cluster", "tcp://host:1"]])
def test_an_argument_too_many_is_refused_with_the_usage(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["submit", *words])
    with pytest.raises(SystemExit) as end:
        submit.main()
    assert end.value.code == 2
    assert "usage: python -m stages.submit" in capsys.readouterr().err


def test_a_stage_runs_once_at_a_time(run: Run) -> None:
    paths.DATA.mkdir()
    with atomic_files.only_writer(paths.DATA / "submit"):
        assert "data/submit: expected to be its only writer" in run("submit")
    assert run("submit") == missing(paths.LEDGER, "split")


@pytest.mark.parametrize(
    "name", ["convnet", "extract@convnet", "../dvc.yaml:extract@convnet", "a@b/dvc.yaml:x@convnet"]
)
def test_a_backbone_is_named_by_itself_or_by_the_stage_of_dvc(
    name: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def main(backbone: str) -> None:
        called.append(backbone)

    monkeypatch.setattr("sys.argv", ["extract", name])
    assert stage_module.stage(main)() == 0
    assert called == ["convnet"]


@pytest.fixture
def recorded(run: Run, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `code` records for `submit`, which runs under DVC and does nothing."""
    params = config.read()
    content = {"submit": fingerprint.of("submit")}
    paths.CODE.write_text(yaml.safe_dump(content), encoding="utf-8")
    settings = {"submit": config.settings(params)["submit"]}
    paths.SETTINGS.write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.setenv("DVC_STAGE", "submit")
    monkeypatch.setattr(stage_module, "_end_with_dvc", lambda: None)
    monkeypatch.setattr("sys.argv", ["submit"])
    return content


def run_submit(work: Callable[[], None] = lambda: None) -> int:
    """Run a stage named submit that calls `work`."""

    def main() -> None:
        work()

    main.__code__ = main.__code__.replace(co_filename="stages/submit.py")
    return stage_module.stage(main)()


def test_a_stage_of_dvc_runs_with_the_recorded_code_and_its_machine_is_recorded(
    recorded: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_submit() == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(r"submit: done in \d+\.\d s, at most [\d,]+ MiB\n", printed)
    assert machine.recorded("submit") == machine.this()


def test_a_stage_started_by_hand_needs_and_records_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["submit"])
    assert run_submit() == 0
    assert not paths.MACHINES.exists()


def damage_code(content: dict[str, Any]) -> None:
    content["submit"]["pipeline/storage/ledger.py"] = "another hash"
    paths.CODE.write_text(yaml.safe_dump(content), encoding="utf-8")


def change_params() -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("clip: auto", "clip: 0.1"), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (damage_code, "code.yaml: expected the code that stands there for `submit`, got another"),
        (lambda _: paths.CODE.unlink(), "code.yaml: expected what stage `code` writes, got none"),
        (lambda _: paths.CODE.write_text("- a"), "code.yaml: expected what stage `code` writes"),
        (lambda _: change_params(), "settings.yaml: expected the parameters that stand there"),
        (lambda _: paths.SETTINGS.unlink(), "settings.yaml: expected what stage `code` writes"),
    ],
    ids=["code", "no code.yaml", "a list", "params", "no settings.yaml"],
)
def test_code_and_parameters_that_are_not_recorded_are_refused_before_the_stage_starts(
    change: Callable[[dict[str, Any]], Any],
    refusal: str,
    recorded: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(recorded)
    started: list[int] = []
    assert run_submit(lambda: started.append(1)) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {refusal}")
    assert "run `dvc repro" in printed
    assert started == []


@pytest.mark.parametrize("edited", ["code", "params"])
def test_code_and_parameters_edited_while_a_stage_runs_are_refused(
    edited: str,
    recorded: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def edit() -> None:
        if edited == "params":
            change_params()
        else:
            other = {**recorded["submit"], "stages/submit.py": "another hash"}
            monkeypatch.setattr(fingerprint, "of", lambda name: other)

    assert run_submit(edit) == 1
    printed = capsys.readouterr().err
    assert "stages/submit.py; it was edited while" in printed or "edited meanwhile" in printed
    assert not paths.MACHINES.exists()


def test_packages_that_are_not_recorded_are_refused(
    recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = importlib.metadata.version

    def other_numpy(name: str) -> str:
        return "1.0" if name == "numpy" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", other_numpy)
    assert run_submit() == 1
    printed = capsys.readouterr().err
    assert "error: code.yaml: expected numpy " in printed
    assert "got 1.0; run `make clean-venv repro`" in printed
