"""The ledger, `data/split.csv`: one row for every file in the inputs.

Rows have one fixed order: the labelled source before the unlabelled one, each in natural order of
its member names. The *accepted* rows, in this order, are the rows of every array. In memory they
are columns, about 150 bytes a row.
"""

import hashlib
import itertools
import operator
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.errors import UserError
from pipeline.storage import tables
from pipeline.storage.texts import BATCH, STRINGS, Ints, Strings, first_of_equal, strings

SUBSETS = ("train", "valid", "test", "unlabelled")
AGAIN = "run `dvc repro split` again"

Bools = NDArray[np.bool_]


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
NUMBERS = ("index", "width", "height")
OF_FEW_VALUES = ("source", "label", "subset", "mode", "reason", "fix")  # stored as codes
_DIGITS = re.compile("[0-9a-f]{64}")
OWN = "\1"  # in the column `group`: source/id of the row itself


def _int32(text: str) -> int:
    return int(np.int32(int(text)))  # an OverflowError beyond


_CONVERT = tuple(_int32 if field.type is int else str for field in fields(LedgerRow))


class Ledger(Sequence[LedgerRow]):
    """Rows in columns; a `LedgerRow` is made when it is asked for.

    `take` and `where` return some of the rows, which share the columns with all of them.
    """

    def __init__(self, rows: Iterable[LedgerRow] = ()) -> None:
        self._codes: dict[str, int] = {}  # of texts
        self._at: Ints | None = None
        parts = {name: [self._stored(name, [])] for name in COLUMNS}
        rows = iter(rows)
        while batch := list(itertools.islice(rows, BATCH)):
            for name in COLUMNS:
                values = [getattr(row, name) for row in batch]
                if name == "group":
                    own = (f"{row.source}/{row.id}" for row in batch)
                    pairs = zip(values, own, strict=True)
                    values = [OWN if group == name else group for group, name in pairs]
                parts[name].append(self._stored(name, values))
        self._columns = {name: np.concatenate(parts.pop(name)) for name in COLUMNS}

    def __len__(self) -> int:
        return len(self._columns["id"] if self._at is None else self._at)

    @overload
    def __getitem__(self, place: int) -> LedgerRow: ...
    @overload
    def __getitem__(self, place: slice) -> "Ledger": ...
    def __getitem__(self, place: int | slice) -> "LedgerRow | Ledger":
        if isinstance(place, slice):
            return self.take(np.arange(*place.indices(len(self))))
        return next(self._rows(np.array([range(len(self))[place]])))

    def __iter__(self) -> Iterator[LedgerRow]:
        for at in range(0, len(self), BATCH):
            yield from self._rows(np.arange(at, min(at + BATCH, len(self))))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def take(self, places: Ints) -> "Ledger":
        """Return the listed rows."""
        taken = Ledger()
        taken._columns, taken._codes = self._columns, self._codes
        taken._at = places if self._at is None else self._at[places]
        return taken

    def where(self, chosen: Bools) -> "Ledger":
        """Return the rows that a mask, (n,), chooses; these themselves if it chooses all."""
        return self if chosen.all() else self.take(np.flatnonzero(chosen))

    def is_accepted(self) -> Bools:
        """Return which rows are, (n,)."""
        return self.equal("reason", "")

    def accepted(self) -> "Ledger":
        """Return the accepted rows."""
        return self.where(self.is_accepted())

    def equal(self, name: str, text: str) -> Bools:
        """Return which rows have a text in a column of few values, (n,)."""
        return np.asarray(self.numbers(name) == self._codes.get(text, -1))

    def numbers(self, name: str) -> NDArray[np.int32]:
        """Return a column of numbers, or a number for each text of few values, (n,)."""
        column: NDArray[np.int32] = self._columns[name]
        return column if self._at is None else column[self._at]

    def texts(self, name: str) -> Strings:
        """Return a column of texts, (n,), as variable-length strings."""
        if name in OF_FEW_VALUES:
            return np.array([*self._codes, ""], STRINGS)[self.numbers(name)]
        column: NDArray[Any] = self._columns[name]
        column = column if self._at is None else column[self._at]
        if name == "sha256":
            return strings(map(unpacked, column))
        if name == "group":
            own = np.flatnonzero(column == OWN)
            column = column.copy()
            column[own] = [f"{row.source}/{row.id}" for row in self.take(own)]
        return column

    def distinct(self, name: str) -> dict[LedgerRow, int]:
        """Return the first row of each label and value of a column, and how many are like it."""
        both = self.numbers("label").astype(np.int64) << 32 | self.numbers(name).astype(np.uint32)
        _, first, count = np.unique(both, return_index=True, return_counts=True)
        return dict(zip(self.take(first), count.tolist(), strict=True))

    def contents(self) -> NDArray[np.bytes_]:
        """Return a value for each sha256, (n,): equal and in order as these are."""
        column: NDArray[np.bytes_] = self._columns["sha256"]
        return column if self._at is None else column[self._at]

    def digests(self) -> NDArray[np.uint8]:
        """Return the sha256 of all rows, (n, 32), each of which has 64 digits."""
        packed = self.contents().astype("S33")  # behind a mark, and with the zeros at the end
        return packed.view(np.uint8).reshape(-1, 33)[:, 1:]

    def replace(self, name: str, places: Ints | slice | int, values: Any) -> None:
        """Write one value, or one for each place, into a column."""
        at = places if self._at is None else self._at[places]
        one = isinstance(values, str | int)
        stored = self._stored(name, [values] if one else values)
        self._columns[name][at] = stored[0] if one else stored

    def _stored(self, name: str, values: Iterable[Any]) -> NDArray[Any]:
        if name in OF_FEW_VALUES:
            values = [self._codes.setdefault(text, len(self._codes)) for text in values]
        if name == "sha256":
            return np.array([_packed(text) for text in values], np.bytes_)
        numeric = name in OF_FEW_VALUES + NUMBERS
        return np.array(list(values), np.int32 if numeric else STRINGS)

    def _rows(self, places: Ints) -> Iterator[LedgerRow]:
        places = places if self._at is None else self._at[places]
        texts, values = [*self._codes], {}
        for name in COLUMNS:
            values[name] = self._columns[name][places].tolist()
            if name in OF_FEW_VALUES:
                values[name] = [texts[code] for code in values[name]]
        values["sha256"] = [unpacked(one) for one in values["sha256"]]
        for place, group in enumerate(values["group"]):
            if group == OWN:
                values["group"][place] = f"{values['source'][place]}/{values['id'][place]}"
        return map(LedgerRow, *values.values())


def _packed(sha256: str) -> bytes:
    """Return 64 digits as 33 bytes, and another text as it is."""
    return b"\1" + bytes.fromhex(sha256) if _DIGITS.fullmatch(sha256) else sha256.encode()


def unpacked(packed: bytes) -> str:
    """Return the sha256 of a value of `contents`."""
    is_digits = packed[:1] == b"\1"  # numpy drops zeros at the end
    return packed[1:].ljust(32, b"\0").hex() if is_digits else packed.decode()


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels and subsets of the accepted rows, in the order of the rows of every array."""

    classes: tuple[str, ...]
    label: NDArray[np.int64]  # (n,), indices of classes, -1 for none
    subset: NDArray[Any]  # (n,), strings: values of `SUBSETS`

    def rows(self, subset: str) -> NDArray[np.int64]:
        """Return the indices of the rows of one subset, ascending."""
        return np.flatnonzero(self.subset == subset).astype(np.int64)


def write_ledger(path: Path, rows: Iterable[LedgerRow]) -> None:
    """Write `rows`, in their order, as csv with the header `COLUMNS`."""
    tables.write_csv(path, COLUMNS, map(operator.attrgetter(*COLUMNS), rows))


def read_ledger(path: Path) -> Ledger:
    """Read what `write_ledger` wrote; anything else is a UserError."""
    rows = Ledger(_row(fields, where) for where, fields in tables.read_rows(path, COLUMNS, AGAIN))
    files = np.strings.add(np.strings.add(rows.texts("source"), "\0"), rows.texts("member"))
    if (first_of_equal(files) != np.arange(len(rows))).any():
        raise UserError(f"{path}: expected one row per file, got two of one; {AGAIN}")
    classes = _classes(rows)
    if not len(classes) == len(dict(classes)) == len({label for _, label in classes}):
        raise UserError(f"{path}: expected one index for each label, got several; {AGAIN}")
    return rows


def _row(fields: Sequence[str], where: str) -> LedgerRow:
    """Convert a line; refuse one with values that cannot go together."""
    try:
        values = [convert(text) for convert, text in zip(_CONVERT, fields, strict=True)]
    except (ValueError, OverflowError):
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


def _classes(rows: Ledger) -> list[tuple[int, str]]:
    """Return index and label of the classes, each pair once, in order."""
    return sorted((row.index, row.label) for row in rows.distinct("index") if row.label)


def labels(rows: Sequence[LedgerRow]) -> Labels:
    """Turn the accepted rows into arrays."""
    accepted = columns(rows).accepted()
    return Labels(
        classes=tuple(dict(_classes(accepted)).values()),
        label=accepted.numbers("index").astype(np.int64),
        subset=accepted.texts("subset"),
    )


def columns(rows: Sequence[LedgerRow]) -> Ledger:
    """Return the rows in columns."""
    return rows if isinstance(rows, Ledger) else Ledger(rows)


def fingerprint(rows: Iterable[LedgerRow]) -> str:
    """Identify the images of an array, in order, by a sha256 in hex of source, member and content.

    Labels and subsets play no part, so that a new split leaves features valid.
    """
    digest = hashlib.sha256()
    for row in rows:
        if row.accepted:
            digest.update(f"{row.source}\0{row.member}\0{row.sha256}\n".encode())
    return digest.hexdigest()


def dealt(label: Ints, group: NDArray[Any], folds: int) -> Ints:
    """Return the fold of each image: the groups of a class are dealt in turn, in random order."""
    _, first, of_image = np.unique(group, return_index=True, return_inverse=True)
    order = np.lexsort((np.random.default_rng(0).permutation(len(first)), label[first]))
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % folds
    return fold[of_image]


def summary(rows: Sequence[LedgerRow], classes: Sequence[str]) -> dict[str, object]:
    """Count files found, accepted, rejected by reason, copies, and the subsets by class."""
    rows = columns(rows)
    accepted, rejected = rows.accepted(), rows.where(~rows.is_accepted())
    content, group = map(first_of_equal, (accepted.contents(), accepted.texts("group")))
    contents, groups = len(np.unique(content)), len(np.unique(group))
    labelled = ~accepted.equal("label", "")
    of_class: dict[str, Counter[str]] = {name: Counter() for name in classes}
    for row, count in accepted.distinct("subset").items():
        if row.label in of_class:
            of_class[row.label][row.subset] += count
    label, subset = accepted.numbers("label"), accepted.numbers("subset")
    return {
        "found": len(rows),
        "accepted": len(accepted),
        "rejected": len(rejected),
        "rejected_by_reason": Counter(row.reason for row in rejected),
        "duplicates": len(accepted) - contents,
        "near_duplicates": contents - groups,
        "duplicates_with_other_label": _several(group[labelled], label[labelled]),
        "duplicates_across_subsets": _several(group, subset),
        "subsets": of_class,
        "unlabelled": int(accepted.equal("subset", "unlabelled").sum()),
    }


def _several(group: Ints, value: NDArray[np.int32]) -> int:
    """Return how many groups have several values."""
    order = np.lexsort((value, group))
    group, value = group[order], value[order]
    same = group[1:] == group[:-1]
    return len(np.unique(group[1:][same & (value[1:] != value[:-1])]))
