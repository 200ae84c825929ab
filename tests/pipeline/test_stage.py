"""How stages run: alone, with their inputs, and under DVC with the recorded code and parameters."""

import importlib
import importlib.metadata
import re
import shutil
from collections.abc import Callable
from pathlib import Path

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
        ("extract", paths.weights("convnet"), "fetch_weights@convnet"),
        ("audit", paths.LEDGER, "split"),
        ("train_head", paths.LEDGER, "split"),
        ("train_head", paths.features("convnet"), "extract@convnet"),
        ("fine_tune", paths.RESIZED, "resize"),
        ("evaluate", paths.predictions(paths.HEAD), "train_head"),
        ("submit", paths.EVALUATION, "evaluate"),
        ("report", paths.SPLIT_METRICS, "split"),
    ],
)
def test_a_missing_input_is_refused_with_the_stage_that_writes_it(
    name: str, path: Path, writer: str, run: Run
) -> None:
    if path != paths.LEDGER:
        ledger.write_ledger(paths.LEDGER, [ROW])
    if path == paths.weights("convnet"):
        pixels = [np.zeros((1, 4), dtype=np.float32)]
        digest = ledger.fingerprint([ROW])
        arrays.write(paths.RESIZED, pixels, shape=(1, 4), dtype="float32", fingerprint=digest)
    assert run(name) == missing(path, writer)


@pytest.mark.parametrize(
    ("name", "path"), [("train_head", paths.features("convnet")), ("fine_tune", paths.RESIZED)]
)
def test_an_array_of_other_images_is_refused(name: str, path: Path, run: Run) -> None:
    ledger.write_ledger(paths.LEDGER, [ROW])
    zeros = np.zeros((1, 1, 4), dtype=np.float32)
    arrays.write(path, [zeros], shape=(1, 1, 4), dtype="float32", fingerprint="of other images")
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


def test_an_argument_too_many_is_refused_with_the_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["submit", "one more word"])
    with pytest.raises(SystemExit) as end:
        submit.main()
    assert end.value.code == 2
    assert "usage: python -m stages.submit" in capsys.readouterr().err


def test_a_stage_runs_once_at_a_time(run: Run) -> None:
    paths.DATA.mkdir()
    with atomic_files.only_writer(paths.DATA / "submit"):
        assert "data/submit: expected to be its only writer" in run("submit")
    assert run("submit") == missing(paths.LEDGER, "split")


@pytest.mark.parametrize("name", ["convnet", "extract@convnet", "a@b/dvc.yaml:x@convnet"])
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
def recorded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record what `code` does for `submit`, which runs under DVC and does nothing."""
    settings = config.settings(config.read())["submit"]
    for path, entry in ((paths.CODE, fingerprint.of("submit")), (paths.SETTINGS, settings)):
        path.write_text(yaml.safe_dump({"submit": entry}), encoding="utf-8")
    monkeypatch.setenv("DVC_STAGE", "submit")
    monkeypatch.setattr(stage_module, "_set_up_process", lambda: None)
    monkeypatch.setattr("sys.argv", ["submit"])


def run_submit(work: Callable[[], object] = lambda: None) -> int:
    """Run a stage named submit that calls `work`."""

    def main() -> None:
        work()

    main.__code__ = main.__code__.replace(co_filename="stages/submit.py")
    return stage_module.stage(main)()


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("by", ["dvc", "hand"])
def test_a_stage_runs_and_under_dvc_its_machine_is_recorded(
    by: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if by == "hand":
        monkeypatch.delenv("DVC_STAGE")
        paths.CODE.unlink()
    assert run_submit() == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(r"submit: done in \d+\.\d s, at most [\d,]+ MiB\n", printed)
    assert machine.recorded("submit") == (machine.this() if by == "dvc" else {})


def damage_code() -> None:
    text = paths.CODE.read_text(encoding="utf-8")
    changed = re.sub("(?m)^(  stages/submit.py): .*", r"\1: another hash", text)
    paths.CODE.write_text(changed, encoding="utf-8")


def change_params() -> None:
    text = paths.PARAMS.read_text(encoding="utf-8")
    paths.PARAMS.write_text(text.replace("clip: auto", "clip: 0.1"), encoding="utf-8")


CODE = "code.yaml: expected the code that stands there for `submit`, got another stages/submit.py"
PARAMS = "settings.yaml: expected the parameters that stand there for `submit`, got others in "
NONE = "{}: expected what stage `code` writes, got none; run `dvc repro code`"
CHANGES: list[tuple[Callable[[], object], str]] = [
    (damage_code, CODE),
    (paths.CODE.unlink, NONE.format("code.yaml")),
    (lambda: paths.CODE.write_text("- a"), NONE.format("code.yaml")),
    (change_params, PARAMS),
    (paths.SETTINGS.unlink, NONE.format("settings.yaml")),
]


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(("change", "refusal"), CHANGES)
@pytest.mark.parametrize("when", ["before", "while"])
def test_code_and_parameters_that_are_not_recorded_are_refused(
    change: Callable[[], object], refusal: str, when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[int] = []
    if when == "before":
        change()
    assert run_submit(lambda: started.append(1) if when == "before" else change()) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {refusal}")
    assert "run `dvc repro" in printed
    assert ("; it was edited while the stage ran" in printed) is (
        refusal == CODE and when == "while"
    )
    assert started == []
    assert not paths.MACHINES.exists()


@pytest.mark.usefixtures("recorded")
def test_packages_that_are_not_recorded_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.0" if name == "numpy" else version(name)
    )
    assert run_submit() == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: code.yaml: expected numpy ")
    assert " got 1.0; run `touch requirements*.lock && make repro`" in printed
