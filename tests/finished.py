"""A small project whose stages have all run, in this process, for what uses the final model."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from album import AUGMENT, LEDGER, LOGISTIC, Album
from numpy.typing import NDArray
from project import ROOT

from pipeline.backbones import keras_setup
from pipeline.evaluation import calibration
from pipeline.storage import arrays, ledger, tables

FIGURES = Path("metrics/evaluate.json")
FOLDERS = {"head": Path("data/head"), "fine_tune": Path("data/model")}
SETTINGS: dict[str, Any] = {
    "extract": {"batch_size": 4, "views": 3, "augment": AUGMENT},
    "predict": {"views": 3},
    "train_head": LOGISTIC,
    "backbones.convnet": {"unfreeze_from": "conv3"},
    "fine_tune": {"epochs": 1, "batch_size": 4, "learning_rate": 0.001},
}


@contextlib.contextmanager
def in_this_process() -> Iterator[pytest.MonkeyPatch]:
    """Keras runs already, if at all."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(keras_setup, "start", lambda *_, **__: None)
        changed.setattr(
            "threadpoolctl.threadpool_limits", lambda *_, **__: contextlib.nullcontext()
        )
        yield changed


def finish(folder: Path) -> None:
    """Run all stages on 18 pictures in `folder`."""
    mute: Any = SimpleNamespace(readouterr=lambda: SimpleNamespace(out="", err=""))
    with in_this_process() as changed:
        changed.chdir(folder)
        album = Album(changed, mute)
        album.change(SETTINGS)
        shutil.copyfile(ROOT / "code.yaml", "code.yaml")
        album.split()
        album.resize()
        album.fetch_weights()
        album.extract()
        for stage in ("train_head", "fine_tune", "evaluate"):
            album.run(stage)


def choose(model: str, temperature: float = 1.5) -> None:
    """Have `model` be the one that `evaluate` has chosen, in the working folder."""
    found = tables.read_json(FIGURES, "evaluate")
    tables.write_json(FIGURES, found | {"chosen": model, "temperature": temperature})


def pipelines() -> dict[str, NDArray[np.float64]]:
    """What the pipeline's chosen model says of each labelled image, by its member."""
    found = json.loads(FIGURES.read_text(encoding="utf-8"))
    rows = ledger.read_ledger(LEDGER)
    stored = arrays.StoredArray(
        FOLDERS[found["chosen"]] / "predictions.zarr", ledger.fingerprint(rows)
    )
    probability = np.exp(calibration.scaled(stored.read(0, len(stored)), found["temperature"]))
    accepted = (row for row in rows if row.accepted)
    told = zip(accepted, probability, strict=True)
    return {row.member: given for row, given in told if row.source == "train"}
