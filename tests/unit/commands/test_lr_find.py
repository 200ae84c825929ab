"""`pipeline lr-find` trains at growing learning rates and suggests one."""

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from album import DENSE, LOGISTIC
from PIL import Image

from pipeline.commands import lr_find
from pipeline.training import history

OUT = Path("lr-find")
Run = Callable[..., SimpleNamespace]


@pytest.fixture
def run(project: Path, pipeline: Run) -> Run:
    return lambda *words: pipeline("lr-find", *words)


def change(**sections: Any) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    Path("params.yaml").write_text(yaml.safe_dump(params | sections), encoding="utf-8")


def rates() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with (OUT / lr_find.TABLE).open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    columns = ([float(line[name]) for line in lines] for name in ("learning_rate", "loss"))
    rate, loss = map(np.array, columns)
    return rate, loss


@pytest.mark.parametrize("stage", ["train_head", "fine_tune"])
def test_rates_grow_evenly_and_a_tenth_of_the_best_one_is_suggested(stage: str, run: Run) -> None:
    if stage == "train_head":
        change(train_head={**DENSE, "optimizer": "sgd", "input_dropout": 0})
    data = {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    said = run("--stage", stage, "--steps", 30)
    assert said.status == 0, said.err
    rate, loss = rates()
    assert rate[0] == 1e-7
    np.testing.assert_allclose(rate[1:] / rate[:-1], 1e8 ** (1 / 29), rtol=1e-4)
    assert np.isfinite(loss).all()
    smooth = history.averaged(loss.tolist())
    best = lr_find.highest_before_rise(rate.tolist(), loss.tolist(), smooth)
    assert f"{stage}.learning_rate: {best / 10:.2g} is a tenth of" in said.out
    with Image.open(OUT / lr_find.PICTURE) as picture:
        assert picture.size[0] > 500
    assert {path: path.read_bytes() for path in data} == data
    table = (OUT / lr_find.TABLE).read_bytes()
    assert run("--stage", stage, "--steps", 30).status == 0
    assert (OUT / lr_find.TABLE).read_bytes() == table


@pytest.mark.parametrize("falls", [0.0, 0.5])
def test_the_rate_before_the_loss_rises_is_found_whether_it_falls_or_not(falls: float) -> None:
    step = np.arange(100)
    loss = 0.7 - falls * np.clip((step - 30) / 40, 0, 1) + 0.05 * np.maximum(step - 75, 0)
    loss += np.random.default_rng(0).normal(0, 0.01, 100)
    rates = (1e-7 * 1e8 ** (step / 99)).tolist()
    smooth = history.averaged(loss.tolist())
    found = rates.index(lr_find.highest_before_rise(rates, loss.tolist(), smooth))
    assert 55 <= found <= 80


def test_the_average_starts_at_the_first_value() -> None:
    np.testing.assert_allclose(history.averaged([2.0, 2.0, 2.0]), [2, 2, 2])
    np.testing.assert_allclose(history.averaged([1.0, 3.0]), [1, (0.09 + 0.3) / 0.19])


@pytest.mark.parametrize(
    ("changes", "words", "expected"),
    [
        ({}, ("--steps", "9"), "lr-find --steps: expected 10 or more, got 9; raise it"),
        ({}, ("--out", "data"), "lr-find --out: expected a new folder or an earlier result, got"),
        (
            {"train_head": LOGISTIC},
            ("--stage", "train_head"),
            "lr-find: expected a head that is trained by gradient descent, got train_head.kind",
        ),
        (
            {"fine_tune": None},
            ("--stage", "fine_tune"),
            "lr-find --stage: expected train_head, as params.yaml has fine_tune: null, got 'fi",
        ),
    ],
)
def test_what_has_no_learning_rate_is_one_sentence(
    changes: dict[str, Any], words: tuple[str, ...], expected: str, run: Run
) -> None:
    change(**changes)
    said = run(*words)
    assert said.status == 1
    assert said.err.startswith(f"error: {expected}")
    assert not OUT.exists()
