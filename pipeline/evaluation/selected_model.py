"""The model that `evaluate` has chosen, and what it says of every image, calibrated."""

from pathlib import Path
from typing import NamedTuple

from pipeline import paths
from pipeline.evaluation import calibration
from pipeline.evaluation.losses import Floats
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays, tables

WRITERS = {"head": "train_head", "fine_tune": "fine_tune"}


class Chosen(NamedTuple):
    """What predicts from `evaluate` on.

    Attributes:
        name: "head" or "fine_tune".
        clip: no probability nearer to 0 or 1 serves a submission, as `valid` has it.
        log_probability: of every image, calibrated, float (n, n_classes).
    """

    name: str
    clip: float
    log_probability: Floats


class Settings(NamedTuple):
    """What `evaluate` has chosen: "head" or "fine_tune", its temperature, and the clip."""

    name: str
    temperature: float
    clip: float


def settings(figures: Path) -> Settings:
    """Read the choice from `evaluate`'s figures.

    Raises:
        UserError: no such file, one of an older version of this project, or a damaged one.
    """
    found = tables.read_json(figures, "evaluate")
    if not {"chosen", "temperature", "clip"} <= found.keys():
        raise UserError(
            f"{figures}: expected chosen, temperature and clip, got figures without; "
            "run `dvc repro evaluate` again"
        )
    name, temperature, clip = found["chosen"], found["temperature"], found["clip"]
    numbers = all(type(value) in (int, float) for value in (temperature, clip))
    if name not in list(WRITERS) or not numbers or not (0 < temperature < 1e6 and 0 <= clip < 0.5):
        raise UserError(
            f"{figures}: expected as chosen one of {', '.join(WRITERS)}, as temperature a number "
            "above 0, as clip one from 0 to below 0.5, got others; run `dvc repro evaluate` again"
        )
    return Settings(name, temperature, clip)


def read(fingerprint: str) -> Chosen:
    """Read the choice from `evaluate`'s figures, and the predictions from the chosen's folder.

    Raises:
        UserError: a file is missing, of other images, or of an older version of this project.
    """
    name, temperature, clip = settings(paths.EVALUATION)
    folder = paths.HEAD if name == "head" else paths.MODEL
    stored = arrays.StoredArray(
        atomic_files.require(paths.predictions(folder), WRITERS[name]), fingerprint
    )
    raw = stored.read(0, len(stored))
    return Chosen(name, clip, calibration.calibrated(raw, temperature))
