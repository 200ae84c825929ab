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
    assert (
        f"submit: 3 rows by {chosen} in {OUT}, none nearer to 0 or 1 than 0.01\n"
        in capsys.readouterr().out
    )


def test_no_probability_is_nearer_to_0_or_1_than_the_clip(
    write_params: WriteParams,
) -> None:
    write_params(submit={"clip": 0.02})
    write_predictions(ledger_of(["cat", "dog"]), [[0, 1], [1, 0], [0.03, 0.97]], "head")
    assert submit.main() == 0
    assert OUT.read_bytes() == b"id,label\n1,0.980000\n2,0.020000\n10,0.970000\n"


def test_clip_and_temperature_are_those_of_evaluate() -> None:
    write_predictions(ledger_of(["cat", "dog"]), [[0, 1], [0.9, 0.1], [0.5, 0.5]], "head")
    choice = {"chosen": "head", "temperature": 2.0, "clip": 0.125}
    tables.write_json(EVALUATION, choice)
    assert submit.main() == 0
    # 0.1 is odds of 1/9; at a temperature of 2 they are 1/3.
    assert OUT.read_bytes() == b"id,label\n1,0.875000\n2,0.250000\n10,0.500000\n"


def test_a_clip_of_zero_leaves_the_probabilities(
    write_params: WriteParams,
) -> None:
    write_params(submit={"clip": 0})
    write_predictions(ledger_of(["cat", "dog"]), [[0, 1], [1, 0], [0.03, 0.97]], "head")
    assert submit.main() == 0
    assert OUT.read_bytes() == b"id,label\n1,1.000000\n2,0.000000\n10,0.970000\n"


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


def test_a_rejected_image_gets_the_training_prior_and_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = ledger_of(["cat", "dog"], {"2": "truncated image"})
    write_predictions(rows, [[0.75, 0.25], [0.125, 0.875]], "head")
    assert submit.main() == 0
    assert OUT.read_bytes() == b"id,label\n1,0.250000\n2,0.250000\n10,0.875000\n"
    assert capsys.readouterr().out.startswith(
        "submit: 2.png was rejected (truncated image); it gets the prior\n"
        f"submit: 3 rows by head in {OUT}, none nearer to 0 or 1 than 0.01\n"
    )


def test_a_rejected_image_gets_the_prior_of_three_classes() -> None:
    rows = ledger_of(["dog", "cat", "bird"], {"10": "empty file"})
    write_predictions(rows, [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], "head")
    assert submit.main() == 0
    last = OUT.read_text(encoding="utf-8").splitlines()[-1]
    assert last == "10,0.594667,0.202667,0.202667"


def test_predictions_of_another_ledger_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = ledger_of(["cat", "dog"])
    write_predictions(rows, EVEN, "head")
    ledger.write_ledger(LEDGER, rows[1:])
    assert submit.main() == 1
    assert "data/head/predictions.zarr: expected the rows of" in capsys.readouterr().err
    assert not OUT.exists()


@pytest.mark.parametrize(("chosen", "folder"), [("head", "head"), ("fine_tune", "model")])
def test_missing_predictions_name_the_stage_that_writes_them(
    capsys: pytest.CaptureFixture[str], chosen: str, folder: str
) -> None:
    write_predictions(ledger_of(["cat", "dog"]), EVEN, chosen)
    shutil.rmtree(Path("data", folder))
    stage = "train_head" if chosen == "head" else "fine_tune"
    assert submit.main() == 1
    assert capsys.readouterr().err.startswith(
        f"error: data/{folder}/predictions.zarr: expected the output of `{stage}`, got nothing"
    )


def test_a_submission_of_many_classes_keeps_the_largest_probability(
    write_params: WriteParams,
) -> None:
    write_params(submit={"clip": 0.01})
    classes = [f"breed {i}" for i in range(120)]
    confident = [0.99, *([0.01 / 119] * 119)]
    write_predictions(ledger_of(classes), [confident, confident, confident], "head")
    assert submit.main() == 0
    values = [
        float(value) for value in OUT.read_text(encoding="utf-8").split("\n")[1].split(",")[1:]
    ]
    assert values[0] == pytest.approx(0.98 * 0.99 + 0.02 / 120, abs=1e-6)
    assert sum(values) == pytest.approx(1, abs=1e-4)
