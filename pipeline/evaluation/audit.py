"""Features to judge, and the tables of `audit`: labels and images ranked by suspicion."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import data_quality
from pipeline.evaluation.data_quality import ALIKE, Features, LabelQuality, Neighbors, light_faults
from pipeline.evaluation.probabilities import Ints
from pipeline.runtime import environment
from pipeline.storage import array_views, arrays, cache_key, results, tables
from pipeline.storage.ledger import Ledger, LedgerRow
from pipeline.storage.texts import first_of_equal

BATCH, PART = 64, 256  # images at a time; those that a thread or worker is given
SHOWN, SHOWN_AT_LEAST = 0.05, 50  # of the labelled images, fraction and number a table may have
MOST_FEATURES, PROJECTED = 4_096, 1_024  # of more than the first, so many random sums are taken
DECIMALS = 6
YES = {False: "no", True: "yes"}

Line = tuple[LedgerRow, *tuple[str | float, ...]]  # and the other columns


def first_view(features: arrays.Readable, rows: Ints) -> Features:
    """Return features of the images themselves, or random sums of more than `MOST_FEATURES`.

    Random sums keep distances: D. Achlioptas, "Database-friendly random projections" (2003).
    """
    d, signs = features.shape[-1], None
    if d > MOST_FEATURES:
        one = np.float32(1 / np.sqrt(PROJECTED))
        signs = np.random.default_rng(0).choice(np.array([-one, one]), (d, PROJECTED))
    shape = len(rows), d if signs is None else PROJECTED
    batches = (batch[:, 0].astype(np.float32) for batch in features.batches(BATCH, rows))
    taken = (batch if signs is None else batch @ signs for batch in batches)
    return array_views.in_file_if_large(taken, shape, environment.memory_bytes())


class Light:
    """The work of `audit` on stored pixels; on a cluster, each worker opens them."""

    def __init__(self, pixels: Path, fingerprint: str) -> None:
        self.pixels, self.fingerprint = pixels.absolute(), fingerprint
        self.key = cache_key.of("audit", {})

    def __getstate__(self) -> dict[str, Any]:
        return {"pixels": self.pixels, "fingerprint": self.fingerprint, "key": self.key}

    @functools.cached_property
    def images(self) -> arrays.StoredArray:
        """The pixels."""
        cache_key.require_same("audit", self.key)
        return arrays.StoredArray(self.pixels, self.fingerprint)

    def parts(self) -> list[range]:
        """Return ranges of rows, to be measured at a time."""
        n = len(self.images)
        return [range(at, min(at + PART, n)) for at in range(0, n, PART)]

    def __call__(self, part: range) -> NDArray[np.float64]:
        """Return `data_quality.light` of some rows."""
        batches = self.images.batches(BATCH, np.arange(part.start, part.stop))
        return np.concatenate([data_quality.light(batch) for batch in batches])


def tables_and_counts(
    accepted: Ledger,
    labelled: Ledger,
    classes: Sequence[str],
    quality: LabelQuality,
    near: Neighbors,
    light: NDArray[np.float64],
) -> tuple[dict[str, list[Line]], dict[str, Any]]:
    """Return the lines of each table, and counts ready for JSON.

    `light` is of the accepted images, `quality` and `near` of those that are labelled.
    """
    most = max(SHOWN_AT_LEAST, round(SHOWN * len(labelled)))
    margin, suggested, likely = (values.tolist() for values in quality)
    by_doubt = np.argsort(-quality.margin, kind="stable").tolist()
    last_likely = max((place for place, at in enumerate(by_doubt) if likely[at]), default=-1)
    shown = min(sum(one > 0 for one in margin), max(most, last_likely + 1))
    faults = {fault: np.flatnonzero(has).tolist() for fault, has in light_faults(light).items()}
    copies, alike = _copies(accepted), _alike(labelled, near)
    lines: dict[str, list[Line]] = {
        "labels": [
            (row := labelled[at], row.label, classes[suggested[at]], margin[at], YES[likely[at]])
            for at in by_doubt[:shown]
        ],
        "outliers": [
            (row := labelled[at], row.label, near.isolation[at].item())
            for at in np.argsort(-near.isolation, kind="stable")[:most]
        ],
        "light": [
            (accepted[at], fault, *light[at].tolist())
            for fault, rows in faults.items()
            for at in rows[:most]
        ],
        "copies": copies[:most],
        "alike": alike[:most],
    }
    return lines, {
        "likely_label_errors": sum(likely),
        "light": {fault: len(rows) for fault, rows in faults.items()},
        "copies": len(copies),
        "alike_pairs": len(alike),
    }


def _copies(rows: Ledger) -> list[Line]:
    """Return images of a group of several, by `split`; groups in several subsets come first."""
    first = first_of_equal(rows.texts("group"))
    groups: dict[str, list[LedgerRow]] = {}
    for row in rows.where(np.bincount(first, minlength=len(first))[first] > 1):
        groups.setdefault(row.group, []).append(row)
    several = list(groups.values())
    several.sort(key=lambda members: len({row.subset for row in members}) == 1)
    return [(row, row.group, row.label) for members in several for row in members]


def _alike(rows: Ledger, near: Neighbors) -> list[Line]:
    """Return pairs that features tell to be copies and `split` does not, across subsets first."""
    likeness: dict[tuple[int, int], float] = {}
    for at in np.flatnonzero(near.likeness < ALIKE).tolist():
        pair = min(at, int(near.nearest[at])), max(at, int(near.nearest[at]))
        if rows[pair[0]].group != rows[pair[1]].group:
            likeness[pair] = min(near.likeness[at].item(), likeness.get(pair, np.inf))
    pairs = [(rows[first], rows[other], value) for (first, other), value in likeness.items()]
    pairs.sort(key=lambda pair: (pair[0].subset == pair[1].subset, pair[2]))
    return [
        (row, row.label, other.member, other.source, other.subset, other.label, value)
        for row, other, value in pairs
    ]


def write(folder: Path, lines: Iterable[Line], table: str) -> None:
    """Write `table`.csv with the columns of `AUDIT_COLUMNS`."""
    rounded = (
        (
            *(row.member, row.source, row.subset),
            *(round(value, DECIMALS) if isinstance(value, float) else value for value in values),
        )
        for row, *values in lines
    )
    tables.write_csv(folder / f"{table}.csv", results.AUDIT_COLUMNS[table], rounded)
