"""The model that `evaluate` has chosen, and what it says of every image, calibrated."""

from pathlib import Path
from typing import NamedTuple

from stages.errors import UserError
from stages.scores import calibration
from stages.scores.losses import Floats
from stages.store import arrays, files, sums

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


def read(figures: Path, head: Path, model: Path, fingerprint: str) -> Chosen:
    """Read the choice from `evaluate`'s figures, and the predictions from the chosen's folder.

    Raises:
        UserError: a file is missing, of other images, or of an older version of this project.
    """
    found = sums.read_json(figures, "evaluate")
    if not {"chosen", "temperature", "clip"} <= found.keys():
        raise UserError(
            f"{figures}: expected chosen, temperature and clip, got figures without; "
            "run `dvc repro evaluate` again"
        )
    name = found["chosen"]
    folder = head if name == "head" else model
    stored = arrays.Rows(files.require(folder / "predictions.zarr", WRITERS[name]), fingerprint)
    raw = stored.read(0, len(stored))
    return Chosen(name, found["clip"], calibration.calibrated(raw, found["temperature"]))
