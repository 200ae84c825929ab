"""The ledger, `data/split.csv`: one row for every file in the inputs.

Rows have one fixed order: the labelled source before the unlabelled one, each in natural order of
its member names. The *accepted* rows, in this order, are the rows of every array.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.errors import UserError
from pipeline.storage import tables

SUBSETS = ("train", "valid", "test", "unlabelled")
AGAIN = "run `dvc repro split` again"


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One file in the inputs.

    Attributes:
        id: name in a submission: the member's path below the searched folders, no extension.
        source: the input that it lies in, "train" (`data.train`) or "test" (`data.test`).
        member: its path inside the zip or folder.
        label: its class; empty if it has none.
        index: position of the class in the order of classes, from 0; -1 without a label.
        subset: one of `SUBSETS`; empty for a rejected file that is not "unlabelled".
        sha256: of the file's bytes; empty if they could not be read.
        width, height: in pixels, after EXIF orientation; 0 if it could not be read.
        mode: Pillow's name of the pixel format, such as RGB, L or CMYK.
        group: source/id of the first file with the same bytes or nearly the same pixels; a group
            lies in one subset.
        reason: why the file was rejected; empty for an accepted one.
        fix: the entry of the label fixes: a class, "exclude", or empty. A test image keeps its
            label all the same.
    """

    id: str
    source: str
    member: str
    label: str
    index: int
    subset: str
    sha256: str
    width: int
    height: int
    mode: str
    group: str
    reason: str
    fix: str = ""

    @property
    def accepted(self) -> bool:
        return not self.reason


COLUMNS = tuple(field.name for field in fields(LedgerRow))
_OF_FEW_VALUES = ("source", "label", "subset", "mode", "reason")  # in memory once each
_CONVERT = tuple(
    int if field.type is int else sys.intern if field.name in _OF_FEW_VALUES else str
    for field in fields(LedgerRow)
)


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels and subsets of the accepted rows, in the order of the rows of every array.

    Attributes:
        classes: class names; a label is an index into them.
        label: int64 (n,), -1 for none.
        subset: str (n,), values of `SUBSETS`.
    """

    classes: tuple[str, ...]
    label: NDArray[np.int64]
    subset: NDArray[np.str_]

    def rows(self, subset: str) -> NDArray[np.int64]:
        """Return the indices of the rows of one subset, ascending, int64."""
        return np.flatnonzero(self.subset == subset).astype(np.int64)


def write_ledger(path: Path, rows: Iterable[LedgerRow]) -> None:
    """Write `rows`, in their order, as csv with the header `COLUMNS`."""
    tables.write_csv(path, COLUMNS, (astuple(row) for row in rows))


def read_ledger(path: Path) -> list[LedgerRow]:
    """Read what `write_ledger` wrote.

    Raises:
        UserError: another header, or a row that does not fit it.
    """
    lines = tables.read_rows(path, COLUMNS, AGAIN)
    rows = [_row(fields, where) for where, fields in lines]
    if len({(row.source, row.member) for row in rows}) < len(rows):
        raise UserError(f"{path}: expected one row per file, got two of one; {AGAIN}")
    classes = {(row.index, row.label) for row in rows if row.label}
    if not len(classes) == len(dict(classes)) == len({label for _, label in classes}):
        raise UserError(f"{path}: expected one index for each label, got several; {AGAIN}")
    return rows


def _row(fields: Sequence[str], where: str) -> LedgerRow:
    """Convert a line; refuse one with values that cannot go together."""
    try:
        values = [convert(text) for convert, text in zip(_CONVERT, fields, strict=True)]
    except ValueError:
        expected = "integers as index, width and height"
        raise tables.unexpected(where, expected, ",".join(fields), AGAIN) from None
    row = LedgerRow(*values)  # type: ignore[arg-type]
    fits = row.subset in SUBSETS and (row.subset == "unlabelled") is not bool(row.label)
    if row.accepted and not fits:
        raise UserError(
            f"{where}: expected an accepted row with a subset ({', '.join(SUBSETS)}), and a label "
            f"unless it is unlabelled, got {row.subset!r} and {row.label!r}; {AGAIN}"
        )
    if not (0 <= row.index < 2**31 if row.label else row.index == -1):
        raise UserError(
            f"{where}: expected an index of 0 or more with a label, and -1 without, got "
            f"{row.index} for {row.label!r}; {AGAIN}"
        )
    return row


def labels(rows: Sequence[LedgerRow]) -> Labels:
    """Turn the accepted rows into arrays."""
    accepted = [row for row in rows if row.accepted]
    names = dict(sorted({(row.index, row.label) for row in accepted if row.label}))
    return Labels(
        classes=tuple(names.values()),
        label=np.array([row.index for row in accepted], dtype=np.int64),
        subset=np.array([row.subset for row in accepted], dtype=np.str_),
    )


def fingerprint(rows: Iterable[LedgerRow]) -> str:
    """Identify the images in an array's rows and their order by a sha256 in hex.

    It covers source, member and content of the accepted rows, not labels or subsets, so that a new
    split leaves features valid.
    """
    digest = hashlib.sha256()
    for row in rows:
        if row.accepted:
            digest.update(f"{row.source}\0{row.member}\0{row.sha256}\n".encode())
    return digest.hexdigest()


def summary(rows: Sequence[LedgerRow], classes: Sequence[str]) -> dict[str, object]:
    """Count files found, accepted, rejected by reason, copies, and the subsets by class."""
    accepted = [row for row in rows if row.accepted]
    groups: dict[str, list[LedgerRow]] = {}
    for row in accepted:
        groups.setdefault(row.group, []).append(row)
    contents = {row.sha256 for row in accepted}
    by_subset = {
        name: Counter(row.subset for row in accepted if row.label == name) for name in classes
    }
    return {
        "found": len(rows),
        "accepted": len(accepted),
        "rejected": len(rows) - len(accepted),
        "rejected_by_reason": dict(Counter(row.reason for row in rows if not row.accepted)),
        "duplicates": len(accepted) - len(contents),
        "near_duplicates": len(contents) - len(groups),
        "duplicates_with_other_label": sum(
            len({row.label for row in group if row.label}) > 1 for group in groups.values()
        ),
        "duplicates_across_subsets": sum(
            len({row.subset for row in group}) > 1 for group in groups.values()
        ),
        "subsets": {name: dict(counts) for name, counts in by_subset.items()},
        "unlabelled": sum(row.subset == "unlabelled" for row in accepted),
    }
