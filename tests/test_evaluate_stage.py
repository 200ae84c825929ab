"""`evaluate` by hand, on predictions that are made up."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages import evaluate
from stages.models.history import COLUMNS
from stages.store import arrays, tables

ROOT = Path(__file__).parent.parent
ARGUMENTS = [
    "data/split.csv",
    "data/head",
    "data/model",
    "h.csv",
    "m.csv",
    "e.json",
    "curves",
    "pictures",
]


def write(head: list[float], fine_tune: list[float], subsets: list[str]) -> None:
    """A ledger of cats in those subsets, and what each model gives the class cat."""
    rows = [
        tables.Row(
            f"{name}.{i}", "train", f"{name}.{i}.jpg", name, index, subset, f"{name}{i}", 9, 9,
            "RGB", "", "",
        )
        for i, subset in enumerate(subsets)
        for index, name in enumerate(["cat", "dog"])
    ]  # fmt: skip
    tables.write_ledger(Path("data/split.csv"), rows)
    for folder, given in (("head", head), ("model", fine_tune)):
        right = np.repeat(given, 2)
        probability = np.stack([right, 1 - right], axis=1)
        probability[1::2] = probability[1::2, ::-1]
        arrays.write(
            Path("data", folder, "predictions.zarr"),
            [np.log(probability)],
            shape=probability.shape,
            dtype=np.float32,
            fingerprint=tables.fingerprint(rows),
        )
    for name in ("h.csv", "m.csv"):
        tables.write_csv(Path(name), COLUMNS, [(0, 0.7, 0.5, 0.7, 0.5), (1, 0.6, 0.6, 0.6, 0.6)])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stages/evaluate.py", *ARGUMENTS])
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")


def test_rounding_does_not_choose_the_final_model() -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["evaluate"]["decimals"] = 2
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    write([0.957], [0.965], ["valid"])
    assert evaluate.main() == 0
    figures = json.loads(Path("e.json").read_text(encoding="utf-8"))
    losses = [figures[name]["valid"]["log_loss"] for name in ("head", "fine_tune")]
    assert (losses, figures["final"]) == ([0.04, 0.04], "fine_tune")


def test_valid_chooses_even_where_test_says_otherwise() -> None:
    write([0.9, 0.6], [0.8, 0.99], ["valid", "test"])
    assert evaluate.main() == 0
    assert json.loads(Path("e.json").read_text(encoding="utf-8"))["final"] == "head"


def test_without_a_test_subset_curves_and_pictures_are_those_of_valid() -> None:
    write([0.9, 0.4], [0.8, 0.7], ["valid", "valid"])
    assert evaluate.main() == 0
    figures = json.loads(Path("e.json").read_text(encoding="utf-8"))
    assert figures["head"].keys() == {"valid"}
    assert figures["head"]["valid"]["accuracy"] == 0.5
    assert figures["final"] == "fine_tune"
    lines = Path("curves/head_confusion.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["actual,predicted", "cat,cat", "dog,dog", "cat,dog", "dog,cat"]
    pictures = {path.name for path in Path("pictures").iterdir()}
    assert pictures == {"learning_curves.png", "roc.png", "confusion.png", "scores.png"}
