"""Stage `submit`: the submission file from the log-probabilities of the selected model."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from pipeline.paths import EVALUATION, LEDGER
from pipeline.paths import SUBMISSION as OUT
from pipeline.storage import arrays, ledger, tables
from pipeline.storage.ledger import LedgerRow
from stages import submit

WriteParams = Callable[..., None]


@pytest.fixture(autouse=True)
def empty_folder(write_params: WriteParams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder with parameters."""
    monkeypatch.setattr("sys.argv", ["submit"])
    write_params()


def image(id_: str, label: str = "", index: int = -1, reason: str = "") -> LedgerRow:
    source, subset = ("train", "train") if label else ("test", "unlabelled")
    member = f"{id_}.png"
    return LedgerRow(id_, source, member, label, index, subset, id_, 9, 6, "RGB", id_, reason)


def ledger_of(
    classes: list[str], reasons: Mapping[str, str] = MappingProxyType({})
) -> list[LedgerRow]:
    """Return three training images of the first class, one of each other, 1, 2, 10 to predict."""
    return [
        *(image(f"{classes[0]}.{i}", classes[0], 0) for i in (0, 1)),
        *(image(f"{name}.2", name, index) for index, name in enumerate(classes)),
        *(image(id_, reason=reasons.get(id_, "")) for id_ in ("1", "2", "10")),
    ]


def write_predictions(
    rows: list[LedgerRow], unlabelled: Sequence[Sequence[float]], chosen: str
) -> None:
    """Write the log-probabilities of both models; the one that is not chosen predicts 0.5."""
    ledger.write_ledger(LEDGER, rows)
    classes = len(unlabelled[0])
    accepted = [row for row in rows if row.accepted]
    values = np.full((len(accepted), classes), 1 / classes)
    values[-len(unlabelled) :] = unlabelled
    for folder, name in (("head", "head"), ("model", "fine_tune")):
        probability = values if name == chosen else np.full_like(values, 0.5)
        with np.errstate(divide="ignore"):
            logs = np.log(probability).astype(np.float32)
        arrays.write(
            Path("data", folder, "predictions.zarr"),
            [logs],
            shape=logs.shape,
            dtype=np.float32,
            fingerprint=ledger.fingerprint(rows),
        )
    choice = {"chosen": chosen, "temperature": 1.0, "clip": 0.01}
    tables.write_json(EVALUATION, choice)


EVEN = [[0.5, 0.5]] * 3


@pytest.mark.parametrize("chosen", ["head", "fine_tune"])
def test_a_submission_of_two_classes_holds_the_second_class_of_the_chosen_model(
    capsys: pytest.CaptureFixture[str], chosen: str
) -> None:
    rows = ledger_of(["cat", "dog"])
    write_predictions(rows, [[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]], chosen)
    assert submit.main() == 0
    assert OUT.read_bytes() == b"id,label\n1,0.250000\n2,0.500000\n10,0.875000\n"
    printed = capsys.readouterr().out
    assert f"submit: 3 rows by {chosen} in {OUT}, none nearer to 0 or 1 than 0.01\n" in printed


@pytest.mark.parametrize(
    ("clip", "temperature", "expected"),
    [
        (0.02, 1.0, [0.98, 0.02, 0.9]),
        (0, 1.0, [1, 0, 0.9]),
        ("auto", 2.0, [0.99, 0.01, 0.75]),  # odds of 9 become 3
    ],
)
def test_clip_and_temperature_are_applied(
    write_params: WriteParams, clip: float | str, temperature: float, expected: list[float]
) -> None:
    write_params(submit={"clip": clip})
    write_predictions(ledger_of(["cat", "dog"]), [[0, 1], [1, 0], [0.1, 0.9]], "head")
    tables.write_json(EVALUATION, {"chosen": "head", "temperature": temperature, "clip": 0.01})
    assert submit.main() == 0
    lines = OUT.read_text(encoding="utf-8").splitlines()
    assert lines[1:] == [
        f"{id_},{value:.6f}" for id_, value in zip((1, 2, 10), expected, strict=True)
    ]


def test_a_submission_of_three_classes_has_a_column_each_that_sum_to_one(
    write_params: WriteParams,
) -> None:
    write_params(submit={"clip": 0.1})
    probability = [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.1, 0.2, 0.7]]
    write_predictions(ledger_of(["dog", "cat", "bird"]), probability, "fine_tune")
    assert submit.main() == 0
    assert OUT.read_text(encoding="utf-8").splitlines() == [
        "id,dog,cat,bird",
        "1,0.466667,0.266667,0.266667",
        "2,0.866667,0.066667,0.066667",
        "10,0.146667,0.226667,0.626667",
    ]


@pytest.mark.parametrize(("classes", "prior"), [(2, "0.250000"), (3, "0.594667,0.202667,0.202667")])
def test_a_rejected_image_gets_the_training_prior_and_is_named(
    classes: int, prior: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ledger_of(["dog", "cat", "bird"][:classes], {"10": "truncated image"})
    write_predictions(rows, [[1 / classes] * classes] * 2, "head")
    assert submit.main() == 0
    assert OUT.read_text(encoding="utf-8").splitlines()[-1] == f"10,{prior}"
    printed = capsys.readouterr().out
    assert printed.startswith("submit: 10.png was rejected (truncated image); it gets the prior\n")


def test_predictions_of_another_ledger_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ledger_of(["cat", "dog"])
    write_predictions(rows, EVEN, "head")
    ledger.write_ledger(LEDGER, rows[1:])
    assert submit.main() == 1
    assert "data/head/predictions.zarr: expected the rows of" in capsys.readouterr().err
    assert not OUT.exists()


@pytest.mark.parametrize(
    ("chosen", "folder", "stage"),
    [("head", "head", "train_head"), ("fine_tune", "model", "fine_tune")],
)
def test_missing_predictions_name_the_stage_that_writes_them(
    capsys: pytest.CaptureFixture[str], chosen: str, folder: str, stage: str
) -> None:
    write_predictions(ledger_of(["cat", "dog"]), EVEN, chosen)
    shutil.rmtree(Path("data", folder))
    assert submit.main() == 1
    assert capsys.readouterr().err.startswith(
        f"error: data/{folder}/predictions.zarr: expected the output of `{stage}`, got nothing"
    )
