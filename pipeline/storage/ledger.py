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
    """One file in the inputs; texts are empty and sizes 0 where there is none."""

    id: str  # in a submission: the member's path below the searched folders, no extension
    source: str  # the input that it lies in, "train" (`data.train`) or "test" (`data.test`)
    member: str  # its path inside the zip or folder
    label: str  # its class
    index: int  # position of the class in the order of classes, from 0; -1 without a label
    subset: str  # one of `SUBSETS`; empty for a rejected file that is not "unlabelled"
    sha256: str  # of the file's bytes
    width: int  # in pixels, after EXIF orientation
    height: int
    mode: str  # Pillow's name of the pixel format, such as RGB, L or CMYK
    group: str  # source/id of the first file with the same bytes or nearly the same pixels
    reason: str  # why the file was rejected; empty for an accepted one
    fix: str = ""  # entry of the label fixes: a class or "exclude"; a test image keeps its label

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
    """Labels and subsets of the accepted rows, in the order of the rows of every array."""

    classes: tuple[str, ...]
    label: NDArray[np.int64]  # (n,), indices of classes, -1 for none
    subset: NDArray[np.str_]  # (n,), values of `SUBSETS`

    def rows(self, subset: str) -> NDArray[np.int64]:
        """Return the indices of the rows of one subset, ascending."""
        return np.flatnonzero(self.subset == subset).astype(np.int64)


def write_ledger(path: Path, rows: Iterable[LedgerRow]) -> None:
    """Write `rows`, in their order, as csv with the header `COLUMNS`."""
    tables.write_csv(path, COLUMNS, (astuple(row) for row in rows))


def read_ledger(path: Path) -> list[LedgerRow]:
    """Read what `write_ledger` wrote; anything else is a UserError."""
    rows = [_row(fields, where) for where, fields in tables.read_rows(path, COLUMNS, AGAIN)]
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
    """Identify the images of an array, in order, by a sha256 in hex of source, member and content.

    Labels and subsets play no part, so that a new split leaves features valid.
    """
    digest = hashlib.sha256()
    for row in rows:
        if row.accepted:
            digest.update(f"{row.source}\0{row.member}\0{row.sha256}\n".encode())
    return digest.hexdigest()


def summary(rows: Sequence[LedgerRow], classes: Sequence[str]) -> dict[str, object]:
    """Count files found, accepted, rejected by reason, copies, and the subsets by class."""
    accepted = [row for row in rows if row.accepted]
    contents, groups = {row.sha256 for row in accepted}, {row.group for row in accepted}
    labels = {(row.group, row.label) for row in accepted if row.label}
    subsets = {(row.group, row.subset) for row in accepted}
    of_class: dict[str, Counter[str]] = {name: Counter() for name in classes}
    for row in accepted:
        if row.label in of_class:
            of_class[row.label][row.subset] += 1
    return {
        "found": len(rows),
        "accepted": len(accepted),
        "rejected": len(rows) - len(accepted),
        "rejected_by_reason": Counter(row.reason for row in rows if not row.accepted),
        "duplicates": len(accepted) - len(contents),
        "near_duplicates": len(contents) - len(groups),
        "duplicates_with_other_label": _repeated(group for group, _ in labels),
        "duplicates_across_subsets": _repeated(group for group, _ in subsets),
        "subsets": of_class,
        "unlabelled": sum(row.subset == "unlabelled" for row in accepted),
    }


def _repeated(groups: Iterable[str]) -> int:
    return sum(count > 1 for count in Counter(groups).values())
