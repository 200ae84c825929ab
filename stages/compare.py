"""This run against that of another commit: is it better, or is the difference chance?

    python -m stages.compare REVISION

Prints Markdown. Predictions of both sides are compared image by image, on those that are in the
same subset under the same label on both, so that neither has trained on them. The other side's
predictions come from DVC's cache, so they must have been computed or pulled here.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.scm import RevError

from stages import chosen
from stages.errors import UserError
from stages.scores import metrics, resampled, uncertainty
from stages.scores.losses import Floats, Ints
from stages.scripts import arguments, quiet_if_nobody_reads, script
from stages.store import files, tables

LEDGER, FIGURES = "data/split.csv", "metrics/evaluate.json"
FOLDERS = ("data/head", "data/model")
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
        try:
            other = _side(Path(folder))
        except UserError as fault:
            reason = str(fault).replace(f"{folder}/", "")
            raise UserError(
                f"compare: expected a commit that this version of the project can read, got "
                f"{revision} ({reason.partition(';')[0]}); compare with a later one"
            ) from None
    this = _side(Path())
    if this.classes != other.classes:
        raise UserError(
            f"compare: expected the same classes on both sides, got {', '.join(this.classes)} here "
            f"and {', '.join(other.classes)} in {revision}; compare commits that share them"
        )
    lines = [line for subset in SUBSETS for line in compared(this, other, subset)]
    if not lines:
        raise UserError(
            f"compare: expected images that this run and {revision} both hold out, got none; "
            "compare runs on the same images and the same split"
        )
    with quiet_if_nobody_reads():
        print(f"# This run against `{revision}`\n")
        print("Final models, on the images that both hold out, paired; intervals of 95 %.\n")
        print("| subset | images | figure | this | other | difference | |")
        print("|---|---|---|---|---|---|---|")
        for line in lines:
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
    head, tuned = (folder / name for name in FOLDERS)
    model = chosen.read(folder / FIGURES, head, tuned, tables.fingerprint(rows))
    accepted = [row for row in rows if row.accepted]
    return Side(accepted, tables.labels(rows).classes, model.log_probability)


def _fetch(revision: str, folder: Path) -> None:
    """Copy the files of another commit that `_side` reads, from git and DVC's cache."""
    try:
        there = DVCFileSystem(str(Path.cwd()), rev=revision)
        for path in (LEDGER, FIGURES):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            there.get_file(path, str(folder / path))
        for name in FOLDERS:
            predictions = f"{name}/predictions.zarr"
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
