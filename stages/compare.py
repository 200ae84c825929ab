"""This run against that of another commit: is it better, or is the difference chance?

    python -m stages.compare REVISION

Prints Markdown. Predictions of both sides are compared image by image, on those that are in the
same subset under the same label on both, so that neither has trained on them. The other side's
predictions come from DVC's cache, so they must have been computed or pulled here.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.scm import RevError

from stages.errors import UserError
from stages.scores import calibration, metrics, resampled, uncertainty
from stages.scores.losses import Floats, Ints
from stages.scripts import arguments, script
from stages.store import arrays, files, tables

LEDGER, FIGURES = "data/split.csv", "metrics/evaluate.json"
FOLDERS = {"head": "data/head", "fine_tune": "data/model"}
SUBSETS = ("valid", "test")
THIS, OTHER = "this", "other"
DECIMALS = 6


class Side(NamedTuple):
    """What one commit says of its images.

    Attributes:
        rows: accepted ones of the ledger.
        classes: their names.
        log_probability: of the final model, calibrated, float (n, n_classes).
    """

    rows: list[tables.Row]
    classes: tuple[str, ...]
    log_probability: Floats


@script
def main() -> None:
    """Print how the final models compare."""
    (revision,) = arguments(__doc__, count=1)
    with tempfile.TemporaryDirectory() as folder:
        _fetch(revision, Path(folder))
        other = _side(Path(folder))
    this = _side(Path())
    if this.classes != other.classes:
        raise UserError(
            f"compare: expected the same classes on both sides, got {', '.join(this.classes)} here "
            f"and {', '.join(other.classes)} in {revision}; compare commits that share them"
        )
    print(f"# This run against `{revision}`\n")
    print("Final models, on the images that both hold out, paired; intervals of 95 %.\n")
    print("| subset | images | figure | this | other | difference | |")
    print("|---|---|---|---|---|---|---|")
    for subset in SUBSETS:
        for line in compared(this, other, subset):
            print(f"| {' | '.join(line)} |")


def compared(this: Side, other: Side, subset: str) -> list[tuple[str, ...]]:
    """The table's lines for a subset; none if no image is in it on both sides."""
    here, there = _common(this.rows, other.rows, subset)
    if not len(here):
        return []
    label = np.array([this.rows[place].index for place in here], dtype=np.int64)
    given = {OTHER: other.log_probability[there], THIS: this.log_probability[here]}
    samples = resampled.samples(given, label)
    figures = {side: metrics.figures(predicted, label) for side, predicted in given.items()}
    differences = uncertainty.of_difference(
        given[OTHER], given[THIS], label, (samples[OTHER], samples[THIS]), DECIMALS
    )
    lines: list[tuple[str, ...]] = []
    for name, found in differences.items():
        low, high = found["interval"]
        lines.append(
            (
                subset,
                f"{len(label):,}",
                name,
                f"{figures[THIS][name]:.4f}",
                f"{figures[OTHER][name]:.4f}",
                f"{found['difference']:+.4f} ({low:+.4f} to {high:+.4f})",
                found["shown"],
            )
        )
    return lines


def _common(
    here: Sequence[tables.Row], there: Sequence[tables.Row], subset: str
) -> tuple[Ints, Ints]:
    """Places of the images, by content, that are in the subset under one label on both sides."""

    def places(rows: Sequence[tables.Row]) -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        for place, row in enumerate(rows):
            if row.subset == subset:
                found.setdefault((row.sha256, row.label), place)
        return found

    first, second = places(here), places(there)
    both = [key for key in first if key in second]
    return (
        np.array([first[key] for key in both], dtype=np.int64),
        np.array([second[key] for key in both], dtype=np.int64),
    )


def _side(folder: Path) -> Side:
    """Read what `split`, training and `evaluate` wrote below `folder`."""
    rows = tables.read_ledger(files.require(folder / LEDGER, "split"))
    labels = tables.labels(rows)
    found = _figures(folder)
    writer = {"head": "train_head"}.get(found["chosen"], found["chosen"])
    path = files.require(folder / FOLDERS[found["chosen"]] / "predictions.zarr", writer)
    stored = arrays.Rows(path, tables.fingerprint(rows))
    predicted = calibration.calibrated(stored.read(0, len(stored)), found["temperature"])
    return Side([row for row in rows if row.accepted], labels.classes, predicted)


def _figures(folder: Path) -> dict[str, Any]:
    path = files.require(folder / FIGURES, "evaluate")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("chosen") not in FOLDERS or "temperature" not in found:
        raise UserError(
            f"compare: expected {FIGURES} that names the chosen model and its temperature, got one "
            "without, of an older version of this project; compare with a later commit"
        )
    return found


def _fetch(revision: str, folder: Path) -> None:
    """Copy the files of another commit that `_side` reads, from git and DVC's cache."""
    try:
        there = DVCFileSystem(str(Path.cwd()), rev=revision)
        for path in (LEDGER, FIGURES):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            there.get_file(path, str(folder / path))
        predictions = f"{FOLDERS[_figures(folder)['chosen']]}/predictions.zarr"
        there.get(predictions, str(folder / predictions), recursive=True)
    except RevError:
        raise UserError(
            f"compare: expected a branch, tag or commit, got {revision!r}; "
            "`git branch --all` lists the branches"
        ) from None
    except (FileNotFoundError, DvcException) as error:
        raise UserError(
            f"compare: expected predictions of {revision} in DVC's cache, got none "
            f"({' '.join(str(error).split())}); `dvc fetch` them from your remote, or check that "
            "commit out and run `dvc repro` once"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
