"""Stage `submit`: the submission file from the log-probabilities of the selected model."""

from collections.abc import Callable, Sequence
from pathlib import Path

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


def write_predictions(
    classes: Sequence[str],
    unlabelled: Sequence[Sequence[float]],
    chosen: str = "head",
    temperature: float = 1.0,
    reason: str = "",
) -> list[LedgerRow]:
    """Three training images of the first class, one of each other; 1, 2, 10 to predict.

    `reason` rejects the last one. The model that is not chosen predicts 0.5.
    """
    rows = [
        *(image(f"{classes[0]}.{i}", classes[0], 0) for i in (0, 1)),
        *(image(f"{name}.2", name, index) for index, name in enumerate(classes)),
        *(image("1"), image("2"), image("10", reason=reason)),
    ]
    ledger.write_ledger(LEDGER, rows)
    values = np.full((sum(row.accepted for row in rows), len(classes)), 1 / len(classes))
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
    tables.write_json(EVALUATION, {"chosen": chosen, "temperature": temperature, "clip": 0.01})
    return rows


@pytest.mark.parametrize("chosen", ["head", "fine_tune"])
def test_a_submission_of_two_classes_holds_the_second_class_of_the_chosen_model(
    capsys: pytest.CaptureFixture[str], chosen: str
) -> None:
    write_predictions(["cat", "dog"], [[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]], chosen)
    assert submit.main() == 0
    assert OUT.read_bytes() == b"id,label\n1,0.250000\n2,0.500000\n10,0.875000\n"
    printed = capsys.readouterr().out
    assert f"submit: 3 rows by {chosen} in {OUT}, none nearer to 0 or 1 than 0.01\n" in printed


@pytest.mark.parametrize(
    ("clip", "temperature", "expected"),
    [
        (0.02, 1.0, ["1,0.980000", "2,0.020000", "10,0.900000"]),
        (0, 1.0, ["1,1.000000", "2,0.000000", "10,0.900000"]),
        ("auto", 2.0, ["1,0.990000", "2,0.010000", "10,0.750000"]),  # odds of 9 become 3
    ],
)
def test_clip_and_temperature_are_applied(
    write_params: WriteParams, clip: float | str, temperature: float, expected: list[str]
) -> None:
    write_params(submit={"clip": clip})
    write_predictions(["cat", "dog"], [[0, 1], [1, 0], [0.1, 0.9]], temperature=temperature)
    assert submit.main() == 0
    assert OUT.read_text(encoding="utf-8").splitlines()[1:] == expected


def test_a_submission_of_three_classes_has_a_column_each_that_sum_to_one(
    write_params: WriteParams,
) -> None:
    write_params(submit={"clip": 0.1})
    probability = [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.1, 0.2, 0.7]]
    write_predictions(["dog", "cat", "bird"], probability, "fine_tune")
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
    names = ["dog", "cat", "bird"][:classes]
    write_predictions(names, [[1 / classes] * classes] * 2, reason="truncated image")
    assert submit.main() == 0
    assert OUT.read_text(encoding="utf-8").splitlines()[-1] == f"10,{prior}"
    printed = capsys.readouterr().out
    assert printed.startswith("submit: 10.png was rejected (truncated image); it gets the prior\n")


def test_predictions_of_another_ledger_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_predictions(["cat", "dog"], [[0.5, 0.5]] * 3)
    ledger.write_ledger(LEDGER, rows[1:])
    assert submit.main() == 1
    assert "data/head/predictions.zarr: expected the rows of" in capsys.readouterr().err
    assert not OUT.exists()
