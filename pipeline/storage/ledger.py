"""The ledger, `data/split.csv`: one row for every file found.

Rows stand in one fixed order: the labelled source before the unlabelled one, each in natural order
of its member names. The *accepted* rows, in this order, are the rows of every array in the store.
"""

import csv
import hashlib
import io
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.errors import UserError
from pipeline.storage import tables

SUBSETS = ("train", "valid", "test", "unlabelled")
MOST_TOLD = 200  # characters of a bad line


@dataclass(frozen=True, slots=True)
class Row:
    """One file found in the inputs.

    Attributes:
        id: name in a submission: the member's path below the looked-through folders, no extension.
        source: which input it lies in, "train" (`data.train`) or "test" (`data.test`).
        member: its path inside the zip or folder.
        label: its class; empty where it has none.
        index: the class' place in the order of classes, from 0; -1 where it has no label.
        subset: one of `SUBSETS`; empty for a rejected file that is not "unlabelled".
        sha256: of the file's bytes; empty where they could not be read.
        width, height: in pixels, as shown (after EXIF orientation); 0 where it could not be read.
        mode: Pillow's name of the pixel format, such as RGB, L or CMYK.
        group: source/id of the first file with the same bytes or nearly the same pixels; a group
            lies in one subset.
        reason: why the file was rejected; empty for an accepted one.
        fix: what the label fixes say of it: a class, "exclude", or empty. A test image keeps its
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


COLUMNS = tuple(field.name for field in fields(Row))
_OF_FEW_VALUES = ("source", "label", "subset", "mode", "reason")  # held in memory once each
_CONVERT = tuple(
    int if field.type is int else sys.intern if field.name in _OF_FEW_VALUES else str
    for field in fields(Row)
)


@dataclass(frozen=True, slots=True)
class Labels:
    """The accepted rows as arrays, one entry a row of the store.

    Attributes:
        classes: class names; a label is an index into them.
        label: int64 (n,), -1 where there is none.
        subset: str (n,), values of `SUBSETS`.
    """

    classes: tuple[str, ...]
    label: NDArray[np.int64]
    subset: NDArray[np.str_]

    def rows(self, subset: str) -> NDArray[np.int64]:
        """Indices of the rows of one subset, ascending, int64."""
        return np.flatnonzero(self.subset == subset).astype(np.int64)


def write_ledger(path: Path, rows: Iterable[Row]) -> None:
    """Write `rows`, in their order, as csv with the header `COLUMNS`."""
    tables.write_csv(path, COLUMNS, (astuple(row) for row in rows))


def read_ledger(path: Path) -> list[Row]:
    """Read what `write_ledger` wrote.

    Raises:
        UserError: another header, or a row that does not fit it.
    """
    again = "run `dvc repro split` again"
    lines = tables.read_lines(path, "split")
    header = next(lines)
    if tuple(header) != COLUMNS:
        raise UserError(
            f"{path}: expected the columns {','.join(COLUMNS)}, got {_told(header)}; {again}"
        )
    rows = [
        _row(line, f"{path} line {number}", again) for number, line in enumerate(lines, start=2)
    ]
    if len({(row.source, row.member) for row in rows}) < len(rows):
        raise UserError(f"{path}: expected one row a file, got two of one; {again}")
    classes = {(row.index, row.label) for row in rows if row.label}
    if not len(classes) == len(dict(classes)) == len({label for _, label in classes}):
        raise UserError(f"{path}: expected one index for each label, got several; {again}")
    return rows


def _row(line: Sequence[str], where: str, again: str) -> Row:
    """Raises `UserError` for a line of other fields, or of values that cannot go together."""
    try:
        values = [convert(text) for convert, text in zip(_CONVERT, line, strict=True)]
    except ValueError:
        raise UserError(
            f"{where}: expected {len(COLUMNS)} fields with integers as index, width and height, "
            f"got {_told(line)}; {again}"
        ) from None
    row = Row(*values)  # type: ignore[arg-type]
    fits = row.subset in SUBSETS and (row.subset == "unlabelled") is not bool(row.label)
    if row.accepted and not fits:
        raise UserError(
            f"{where}: expected of an accepted row a subset ({', '.join(SUBSETS)}), and a label "
            f"but for the last, got {row.subset!r} and {row.label!r}; {again}"
        )
    if not (0 <= row.index < 2**31 if row.label else row.index == -1):
        raise UserError(
            f"{where}: expected an index from 0 on for a label, and -1 for none, got {row.index} "
            f"for {row.label!r}; {again}"
        )
    return row


def _told(line: Sequence[str]) -> str:
    """A line of a csv in quotes; of a long one, such as an open quote makes, the start."""
    text = ",".join(line)
    return repr(text if len(text) <= MOST_TOLD else f"{text[:MOST_TOLD]}...")


def read_label_fixes(path: Path) -> list[tuple[str, str, str]]:
    """(member, label, source) of each line of a csv with that header, member and label not empty.

    Raises:
        UserError: another header, or a line that does not fit it.
    """
    header = ["member", "label", "source"]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected a csv in UTF-8, got a byte that is none at {error.start}; save it so"
        ) from None
    lines = csv.reader(io.StringIO(text, newline=""))
    found = []
    try:
        got = next(lines, [])
        if got != header:
            raise UserError(
                f"{path}: expected the header {','.join(header)}, got {_told(got)}; "
                "put it into the first line"
            )
        for line in lines:
            # No file's name has control characters, and the screen should not show them.
            odd = any(unicodedata.category(character) == "Cc" for character in "".join(line))
            if len(line) != len(header) or not line[0] or not line[1] or odd:
                raise UserError(
                    f"{path} line {lines.line_num}: expected member, label and source, got "
                    f"{_told(line)}; correct it"
                )
            found.append((line[0], line[1], line[2]))
    except csv.Error as error:
        raise UserError(
            f"{path} line {lines.line_num}: expected member, label and source, got {str(error)!r}; "
            "correct it"
        ) from None
    return found


def labels(rows: Sequence[Row]) -> Labels:
    """Turn the accepted rows into arrays."""
    accepted = [row for row in rows if row.accepted]
    names = dict(sorted({(row.index, row.label) for row in accepted if row.label}))
    return Labels(
        classes=tuple(names.values()),
        label=np.array([row.index for row in accepted], dtype=np.int64),
        subset=np.array([row.subset for row in accepted], dtype=np.str_),
    )


def fingerprint(rows: Iterable[Row]) -> str:
    """Tell which images stand in a store's rows, and in which order: a sha256 in hex.

    It covers source, member and content of the accepted rows, not labels or subsets, so that a new
    split leaves features valid.
    """
    digest = hashlib.sha256()
    for row in rows:
        if row.accepted:
            digest.update(f"{row.source}\0{row.member}\0{row.sha256}\n".encode())
    return digest.hexdigest()


def summary(rows: Sequence[Row], classes: Sequence[str]) -> dict[str, object]:
    """Count what was found, accepted, rejected and why, copies, and the subsets by class."""
    accepted = [row for row in rows if row.accepted]
    groups: dict[str, list[Row]] = {}
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
