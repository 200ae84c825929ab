"""Read which model `evaluate` selected, and its calibrated predictions of every image."""

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.evaluation import calibration
from pipeline.evaluation.probabilities import Floats
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays, ledger, sums

LEDGER, METRICS = "data/split.csv", "metrics/evaluate.json"
FOLDERS = {"head": "data/head", "fine_tune": "data/model"}
STAGES = {"head": "train_head", "fine_tune": "fine_tune"}
PREDICTIONS = tuple(f"{folder}/predictions.zarr" for folder in FOLDERS.values())


class Selection(NamedTuple):
    """The choice of `evaluate`.

    Attributes:
        name: "head" or "fine_tune".
        temperature: divides the log-probabilities.
        clip: chosen on valid; a submission's probabilities lie in [clip, 1 - clip].
    """

    name: str
    temperature: float
    clip: float


class Run(NamedTuple):
    """The final model's log-probabilities (n, n_classes) of a run's accepted images, `rows`."""

    rows: list[ledger.Row]
    classes: tuple[str, ...]
    log_probability: Floats


def selection(metrics: Path) -> Selection:
    """Read the choice from the metrics of `evaluate`.

    Raises:
        UserError: the file is missing, damaged, or from an older version of this project.
    """
    content = sums.read_json(metrics, "evaluate")
    values: list[Any] = [content.get(key) for key in ("chosen", "temperature", "clip")]
    name, temperature, clip = values
    numbers = all(type(value) in (int, float) for value in (temperature, clip))
    if name not in list(STAGES) or not numbers or not (0 < temperature < 1e6 and 0 <= clip < 0.5):
        raise UserError(
            f"{metrics}: expected chosen: {' or '.join(STAGES)}, temperature: a number above 0, "
            f"clip: a number from 0 to below 0.5, got {name!r}, {temperature!r}, {clip!r}; "
            "run `dvc repro evaluate` again"
        )
    return Selection(name, temperature, clip)


def read(metrics: Path, head: Path, model: Path, fingerprint: str) -> tuple[Selection, Floats]:
    """Read the choice, and calibrated log-probabilities (n, n_classes) of every accepted image.

    Raises:
        UserError: a file is missing, about other images, or from an older version.
    """
    selected = selection(metrics)
    folder = head if selected.name == "head" else model
    path = atomic_files.require(folder / "predictions.zarr", STAGES[selected.name])
    stored = arrays.Rows(path, fingerprint)
    return selected, calibration.scaled(stored.read(0, len(stored)), selected.temperature)


def read_run(folder: Path) -> Run:
    """Read the ledger and the final predictions of the run in `folder`.

    Raises:
        UserError: a file is missing, or from another version of this project.
    """
    rows = ledger.read_ledger(atomic_files.require(folder / LEDGER, "split"))
    head, model = (folder / name for name in FOLDERS.values())
    _, log_probability = read(folder / METRICS, head, model, ledger.fingerprint(rows))
    accepted = [row for row in rows if row.accepted]
    return Run(accepted, ledger.labels(rows).classes, log_probability)
