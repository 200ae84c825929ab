"""Read which model `evaluate` selected, and its calibrated predictions of every image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import paths
from pipeline.evaluation import calibration
from pipeline.evaluation.probabilities import Floats
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays, ledger, tables

FOLDERS = {"head": paths.HEAD, "fine_tune": paths.MODEL}
BATCH = 4_096  # rows at a time
STAGES = {"head": "train_head", "fine_tune": "fine_tune"}


class Selection(NamedTuple):
    """The choice of `evaluate`."""

    name: str  # "head" or "fine_tune"
    temperature: float  # divides the log-probabilities
    clip: float  # a submission's probabilities lie in [clip, 1 - clip]


class Run(NamedTuple):
    """The final model's log-probabilities (n, n_classes) of a run's accepted images, `rows`."""

    rows: Sequence[ledger.LedgerRow]
    classes: tuple[str, ...]
    log_probability: Floats
    has_folds: bool = False  # whether all predictions of train and valid are out of fold


def selection(project: Path = Path()) -> Selection:
    """Read the choice from the metrics of `evaluate` below the folder `project`."""
    path = project / paths.EVALUATION
    content = tables.read_json(path, "evaluate")
    values: list[Any] = [content.get(key) for key in ("chosen", "temperature", "clip")]
    name, temperature, clip = values
    numbers = all(type(value) in (int, float) for value in (temperature, clip))
    if name not in list(STAGES) or not numbers or not (0 < temperature < 1e6 and 0 <= clip < 0.5):
        raise UserError(
            f"{path}: expected chosen: {' or '.join(STAGES)}, temperature: a number above 0, "
            f"clip: a number from 0 to below 0.5, got {name!r}, {temperature!r}, {clip!r}; "
            "run `dvc repro evaluate` again"
        )
    return Selection(name, temperature, clip)


def classes() -> tuple[str, ...]:
    """Read the classes, in the order of the probabilities, from the metrics of `evaluate`."""
    names = tables.read_json(paths.EVALUATION, "evaluate").get("classes")
    texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    if len(set(texts)) < 2 or not isinstance(names, list) or len(set(texts)) != len(names):
        raise UserError(
            f"{paths.EVALUATION}: expected classes: the names of two classes or more, got "
            f"{names!r}; run `dvc repro evaluate` again"
        )
    return tuple(texts)


def read(fingerprint: str, project: Path = Path()) -> tuple[Selection, Floats]:
    """Read the choice, and calibrated log-probabilities (n, n_classes) of every accepted image.

    `fingerprint` is the ledger's; predictions of other images are a UserError.
    """
    selected = selection(project)
    path = project / paths.predictions(FOLDERS[selected.name])
    stored = arrays.StoredArray(atomic_files.require(path, STAGES[selected.name]), fingerprint)
    blocks = [calibration.scaled(block, selected.temperature) for block in stored.batches(BATCH)]
    return selected, np.concatenate(blocks)


def read_run(project: Path) -> Run:
    """Read the ledger and the final predictions of the run in `project`."""
    rows = ledger.read_ledger(atomic_files.require(project / paths.LEDGER, "split"))
    _, log_probability = read(ledger.fingerprint(rows), project)
    final = tables.read_json(project / paths.EVALUATION, "evaluate").get("final", {})
    has_folds = "out_of_fold" in final
    return Run(rows.accepted(), ledger.labels(rows).classes, log_probability, has_folds)
