"""A stage that is started by hand without its inputs says which stage writes them."""

import importlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.storage import arrays, ledger

ROOT = Path(__file__).parent.parent
LEDGER = "data/split.csv"

CASES = [
    ("resize", ["data/split.csv", "data/resized.zarr"], "data/split.csv", "split"),
    (
        "extract",
        ["convnet", "data/resized.zarr", "data/weights/convnet.weights.h5", "data/f.zarr"],
        "data/resized.zarr",
        "resize",
    ),
    (
        "train_head",
        [LEDGER, *["data/features/convnet.zarr"] * 2, "data/head", "h.json", "h.csv"],
        "data/features/convnet.zarr",
        "extract@convnet",
    ),
    (
        "fine_tune",
        [LEDGER, "data/resized.zarr", *["data/w.h5"] * 2, "data/head", "data/m", "m.json", "m.csv"],
        "data/resized.zarr",
        "resize",
    ),
    (
        "evaluate",
        [
            *(LEDGER, "data/head", "data/model", "h.csv", "m.csv"),
            *("e.json", "i.json", "curves", "pictures"),
        ],
        "data/head/predictions.zarr",
        "train_head",
    ),
    ("submit", [LEDGER, "data/head", "data/model", "e.json", "s.csv"], "e.json", "evaluate"),
]


@pytest.fixture
def row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ledger.Row:
    """One image of a ledger, in an empty project with the sample's parameters."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    return ledger.Row(
        "cat.0", "train", "cat.0.jpg", "cat", 0, "train", "0" * 64, 9, 9, "RGB", "train/cat.0", ""
    )


def run(stage: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [stage, *arguments])
    return int(importlib.import_module(f"stages.{stage}").main())


@pytest.mark.parametrize(("stage", "arguments", "missing", "writer"), CASES)
def test_a_missing_input_is_named_with_the_stage_that_writes_it(
    stage: str,
    arguments: list[str],
    missing: str,
    writer: str,
    row: ledger.Row,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if missing != LEDGER:
        ledger.write_ledger(Path(LEDGER), [row])
    assert run(stage, arguments, monkeypatch) == 1
    assert capsys.readouterr().err == (
        f"error: {missing}: expected the output of `{writer}`, got nothing at that path; "
        f"run `dvc repro {writer}` first\n"
    )
    assert not Path(arguments[-1]).exists()


def test_extract_names_the_missing_weights(
    row: ledger.Row, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, arguments, resized, _ = CASES[1]
    _write(Path(resized), ledger.fingerprint([row]))
    assert run("extract", arguments, monkeypatch) == 1
    assert capsys.readouterr().err == (
        "error: data/weights/convnet.weights.h5: expected the output of `fetch_weights@convnet`, "
        "got nothing at that path; run `dvc repro fetch_weights@convnet` first\n"
    )


@pytest.mark.parametrize("case", [2, 3], ids=["train_head", "fine_tune"])
def test_a_store_with_the_rows_of_another_ledger_is_refused(
    case: int,
    row: ledger.Row,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage, arguments, store, _ = CASES[case]
    ledger.write_ledger(Path(LEDGER), [row])
    _write(Path(store), "of other images")
    assert run(stage, arguments, monkeypatch) == 1
    assert capsys.readouterr().err == (
        f"error: {store}: expected the rows of the data/split.csv that stands there now, "
        "got 1 rows of another one; run `dvc repro` to make it anew\n"
    )


def _write(path: Path, fingerprint: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    zeros = np.zeros((1, 1, 4), dtype=np.float32)
    arrays.write(path, [zeros], shape=(1, 1, 4), dtype="float32", fingerprint=fingerprint)
