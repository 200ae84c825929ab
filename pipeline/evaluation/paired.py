"""The final models of two runs, compared image by image.

Only images that are in the same subset under the same label on both sides count, so that neither
has trained on them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.evaluation import classification, comparison, resampled, selected_model
from pipeline.evaluation.losses import Floats, Ints
from pipeline.runtime import atomic_files
from pipeline.storage import ledger

LEDGER, FIGURES = "data/split.csv", "metrics/evaluate.json"
FOLDERS = ("data/head", "data/model")
PREDICTIONS = tuple(f"{folder}/predictions.zarr" for folder in FOLDERS)
DECIMALS = 6


class Side(NamedTuple):
    """What one run says of its images.

    Attributes:
        rows: accepted ones of the ledger.
        classes: their names.
        log_probability: of the final model, calibrated, float (n, n_classes).
    """

    rows: list[ledger.LedgerRow]
    classes: tuple[str, ...]
    log_probability: Floats


class Difference(NamedTuple):
    """Of one figure of the final models, on the images that both hold out.

    Attributes:
        images: how many these are.
        difference: new - old, with its interval of 95 %.
        shown: "better", "worse" or "no difference shown".
    """

    subset: str
    figure: str
    images: int
    old: float
    new: float
    difference: float
    interval: tuple[float, float]
    shown: str


def side(folder: Path) -> Side:
    """Read what `split`, training and `evaluate` wrote below `folder`.

    Raises:
        UserError: a file is missing, or of another version of this project.
    """
    rows = ledger.read_ledger(atomic_files.require(folder / LEDGER, "split"))
    head, tuned = (folder / name for name in FOLDERS)
    model = selected_model.read(folder / FIGURES, head, tuned, ledger.fingerprint(rows))
    accepted = [row for row in rows if row.accepted]
    return Side(accepted, ledger.labels(rows).classes, model.log_probability)


def differences(old: Side, new: Side, subset: str) -> list[Difference]:
    """Of each figure on a subset; none if no image is in it on both sides."""
    there, here = _common(old.rows, new.rows, subset)
    if not len(here):
        return []
    label = np.array([new.rows[place].index for place in here], dtype=np.int64)
    given = {"old": old.log_probability[there], "new": new.log_probability[here]}
    samples = resampled.samples(given, label)
    figures = {name: classification.figures(predicted, label) for name, predicted in given.items()}
    found = comparison.of_difference(
        given["old"], given["new"], label, (samples["old"], samples["new"]), DECIMALS
    )
    return [
        Difference(
            subset,
            name,
            len(label),
            figures["old"][name],
            figures["new"][name],
            one["difference"],
            (one["interval"][0], one["interval"][1]),
            one["shown"],
        )
        for name, one in found.items()
    ]


def _common(
    first: Sequence[ledger.LedgerRow], second: Sequence[ledger.LedgerRow], subset: str
) -> tuple[Ints, Ints]:
    """Places of the images, by content, that are in the subset under one label on both sides."""

    def places(rows: Sequence[ledger.LedgerRow]) -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        for place, row in enumerate(rows):
            if row.subset == subset:
                found.setdefault((row.sha256, row.label), place)
        return found

    old, new = places(first), places(second)
    both = [key for key in new if key in old]
    return (
        np.array([old[key] for key in both], dtype=np.int64),
        np.array([new[key] for key in both], dtype=np.int64),
    )
