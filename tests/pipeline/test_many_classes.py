"""`evaluate` and `audit` in this process, with few images per class and with many classes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.storage import arrays, ledger, tables
from pipeline.training.history import COLUMNS
from stages import audit, evaluate


def write(n_classes: int, images: int) -> None:
    """A ledger of `images` images per class in turn in each subset, and what `extract` made."""
    rng = np.random.default_rng(0)
    rows = [
        ledger.LedgerRow(
            f"{c}/{i}", "train", f"{c}/{i}.jpg", f"{c}", c, ("test", "valid", "train")[i % 3],
            f"{c}/{i}", 9, 9, "RGB", f"train/{c}/{i}", "",
        )
        for c in range(n_classes)
        for i in range(images)
    ]  # fmt: skip
    ledger.write_ledger(Path("data/split.csv"), rows)
    label = np.array([row.index for row in rows])
    centers = rng.normal(0, 2, (n_classes, 32))
    logits = rng.normal(0, 1, (len(rows), n_classes))
    logits[np.arange(len(rows)), label] += 2
    log_probability = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    features = centers[label][:, None] + rng.normal(0, 1, (len(rows), 1, 32))
    for path, values in {
        "data/resized.zarr": rng.integers(0, 256, (len(rows), 16, 16, 3), np.uint8),
        "data/features/convnet.zarr": features,
        "data/head/predictions.zarr": log_probability,
        "data/model/predictions.zarr": log_probability * 0.9 - 0.1 * np.log(n_classes),
    }.items():
        dtype = values.dtype if values.dtype == np.uint8 else np.float32
        arrays.write(
            Path(path),
            [values.astype(dtype)],
            shape=values.shape,
            dtype=dtype,
            fingerprint=ledger.fingerprint(rows),
        )
    for name in ("head", "fine_tune"):
        epochs = [(0, 0.7, 0.5, 0.7, 0.5), (1, 0.6, 0.6, 0.6, 0.6)]
        tables.write_csv(Path(f"metrics/{name}_history.csv"), COLUMNS, epochs)


@pytest.mark.slow
@pytest.mark.parametrize(("n_classes", "images"), [(12, 3), (40, 9)], ids=str)
def test_both_stages_end_well_and_repeat(
    n_classes: int,
    images: int,
    write_params: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_params()
    monkeypatch.setattr(sys, "argv", ["stage"])
    write(n_classes, images)
    assert (evaluate.main(), audit.main()) == (0, 0)
    intervals = json.loads(Path("metrics/intervals.json").read_text(encoding="utf-8"))
    of_test = intervals["final"]["test"]
    assert len(of_test["per_class"]) == n_classes
    assert (of_test["roc_auc"] is None) == (images == 3)  # one image of each class in `test`
    assert of_test["accuracy"] is not None
    audited = json.loads(Path("metrics/audit.json").read_text(encoding="utf-8"))
    assert audited["images"] == n_classes * images
    before = {path: path.read_bytes() for path in Path("metrics").rglob("*.*")}
    assert (evaluate.main(), audit.main()) == (0, 0)
    assert {path: path.read_bytes() for path in Path("metrics").rglob("*.*")} == before
