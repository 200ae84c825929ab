"""Csv files edited badly by hand: the label fixes, and the ledger."""

from collections.abc import Callable
from typing import Any

from bad_inputs import table

FIXES_INTRO = (
    "In place of `data/label_fixes.csv`, with images from `cat.0.jpg` to `dog.9.jpg`. An accepted "
    "file has these effects."
)
LEDGERS_INTRO = (
    "In place of `data/split.csv`, edited after `split` wrote it, for a `resize` started by hand. "
    "Of an accepted file, this many rows are images."
)
HEAD = "member,label,source\n"


def lines(*more: str, head: str = HEAD) -> Callable[[Any], bytes]:
    return lambda _: (head + "".join(f"{line}\n" for line in more)).encode()


def encoded(change: Callable[[bytes], bytes]) -> Callable[[Any], bytes]:
    return lambda _: change(lines("cat.1.jpg,dog,x")(None))


FIELDS = "expected member, label and source, got"
LABEL = "data/label_fixes.csv: cat.1.jpg: expected as label 'exclude' or one of cat, dog, got"
FIXES = table(
    {
        "refused: data/label_fixes.csv: expected the columns member,label,source, got ... ; "
        "correct it": {
            "an empty file": lambda _: b"",
            "no header": lines("cat.1.jpg,dog,x", head=""),
            "another header": lines(head="file,class,why\n"),
            "columns in another order": lines(head="label,member,source\n"),
        },
        "refused: data/label_fixes.csv line 2: expected 3 fields, got ... ; correct it": {
            "two fields": lines("cat.1.jpg,dog"),
            "four fields": lines("cat.1.jpg,dog,x,y"),
            "semicolons between fields": lines("cat.1.jpg;dog;x"),
        },
        "refused: data/label_fixes.csv line 2: expected a csv, got ... ; correct it": {
            "a quote that does not end": lines('"cat.1.jpg,dog,x'),
            "a field of 200,000 letters": lines(f"cat.1.jpg,dog,{'x' * 200_000}"),
        },
        f"refused: data/label_fixes.csv line 2: {FIELDS} ... ; correct it": {
            "a line without a file": lines(",dog,x"),
            "a line without a label": lines("cat.1.jpg,,x"),
            "a NUL byte in a name": lines("cat\0.1.jpg,dog,x"),
        },
        "refused: data/label_fixes.csv line 3: expected 3 fields, got ''; correct it": {
            "an empty line between others": lines("cat.1.jpg,dog,x", "", "cat.2.jpg,dog,x")
        },
        f"refused: {LABEL} ... ; correct that line": {
            "an unknown class": lines("cat.1.jpg,bird,x"),
            "a class in capitals": lines("cat.1.jpg,DOG,x"),
            "a space behind a comma": lines("cat.1.jpg, dog,x"),
        },
        "refused: data/label_fixes.csv: cat.1.jpg: expected one line about it, got two; remove "
        "one": {
            "two lines about a file": lines("cat.1.jpg,dog,x", "cat.1.jpg,exclude,y"),
            "a line twice": lines("cat.1.jpg,dog,x", "cat.1.jpg,dog,x"),
        },
        "refused: data/label_fixes.csv: expected a csv in UTF-8, got ... position 34: ": {
            "an umlaut in Latin-1": lambda _: HEAD.encode() + b"cat.1.jpg,dog,\xfc\n"
        },
        "refused: data/label_fixes.csv: expected a csv in UTF-8, got ... position 0: ": {
            "UTF-16": lambda _: HEAD.encode("utf-16")
        },
        "accepted: 0 excluded, 1 in_test, 0 relabelled, 0 unmatched": {
            "a line without a source": lines("cat.1.jpg,exclude,"),
            "UTF-8 with a byte order mark": encoded(lambda text: b"\xef\xbb\xbf" + text),
            "line ends of Windows": encoded(lambda text: text.replace(b"\n", b"\r\n")),
            "line ends of old Macs": encoded(lambda text: text.replace(b"\n", b"\r")),
        },
        "accepted: 0 excluded, 0 in_test, 0 relabelled, 1 unmatched": {
            "an unknown file": lines("cat.99.jpg,dog,x"),
            "a quote inside a field": lines('cat".1.jpg,dog,x'),
            "a file outside of the data": lines("../../cat.1.jpg,dog,x"),
        },
    }
)


def edited(number: int, column: int, value: str) -> Callable[[str], bytes]:
    """Return a change of one field of the ledger; its first row is 1."""

    def make(text: str) -> bytes:
        rows = [line.split(",") for line in text.splitlines()]
        rows[number][column] = value
        return "".join(",".join(row) + "\n" for row in rows).encode()

    return make


def reordered(text: str) -> bytes:
    head, *rows = text.splitlines(keepends=True)
    return "".join([head, *reversed(rows)]).encode()


def without_last_column(text: str) -> bytes:
    return "".join(line.rpartition(",")[0] + "\n" for line in text.splitlines()).encode()


AGAIN = "run `dvc repro split` again"
OTHER_BYTES = "expected the bytes that `split` judged, got others or none; run `dvc repro`"
COLUMNS = "id,source,member,label,index,subset,sha256,width,height,mode,group,reason,fix"
LEDGERS = table(
    {
        f"refused: data/split.csv: expected the columns {COLUMNS}, got ... {AGAIN}": {
            "an empty file": lambda text: b"",
            "a renamed column": lambda text: text.replace("sha256", "hash", 1).encode(),
            "no last column": without_last_column,
            "no header": lambda text: text.partition("\n")[2].encode(),
        },
        f"refused: data/split.csv: expected accepted images, ... got none; {AGAIN}": {
            "only the header": lambda text: text.splitlines(keepends=True)[0].encode()
        },
        f"refused: data/split.csv line 23: expected 13 fields ... {AGAIN}": {
            "a row without its last field": lambda text: text.rstrip().rpartition(",")[0].encode()
        },
        f"refused: data/split.csv line 12: expected 13 fields ... {AGAIN}": {
            "half a file": lambda text: text[: text.index("dog.0,train") + 30].encode()
        },
        f"refused: data/split.csv line 24: expected 13 fields ... {AGAIN}": {
            "an empty line at the end": lambda text: text.encode() + b"\n"
        },
        f"refused: data/split.csv line 2: expected integers ... {AGAIN}": {
            "a word as index": edited(1, 4, "one"),
            "more digits than Python reads": edited(1, 4, "9" * 5000),
        },
        f"refused: data/split.csv line 2: expected an index ... {AGAIN}": {
            "an index of 30 digits": edited(1, 4, "9" * 30),
            "an index of -7": edited(1, 4, "-7"),
        },
        f"refused: data/split.csv: expected one index ... {AGAIN}": {
            "the index of another class": edited(1, 4, "1")
        },
        "refused: data/split.csv line 2: expected ... a subset (train, valid, test, unlabelled)"
        f" ... {AGAIN}": {
            "an unknown subset": edited(1, 5, "holdout"),
            "an accepted row without a subset": edited(1, 5, ""),
            "an unlabelled row with a label": edited(1, 5, "unlabelled"),
        },
        f"refused: data/split.csv: expected one row ... {AGAIN}": {
            "a row twice": lambda text: (text + text.splitlines(keepends=True)[-1]).encode()
        },
        f"refused: data/split.csv: expected ... a sha256 ... got 'abc'; {AGAIN}": {
            "half a sha256": edited(1, 6, "abc")
        },
        f"refused: train.zip member cat.0.jpg: {OTHER_BYTES}": {
            "the sha256 of other bytes": edited(1, 6, "0" * 64)
        },
        f"refused: train.zip member cat.99.jpg: {OTHER_BYTES}": {
            "an unknown file": edited(1, 2, "cat.99.jpg")
        },
        f"refused: train.zip member cat\\x00.0.jpg: {OTHER_BYTES}": {
            "a NUL byte in a name": edited(1, 2, "cat\0.0.jpg")
        },
        f"refused: test member cat.0.jpg: {OTHER_BYTES}": {
            "a source that is neither `train` nor `test`": edited(1, 1, "more")
        },
        f"refused: data/split.csv: expected a csv in UTF-8, got ... {AGAIN}": {
            "bytes that are no text": lambda text: text.encode() + b"\xff\xfe\n"
        },
        f"refused: data/split.csv line 23: expected a csv, got ... {AGAIN}": {
            "a quote that does not end": edited(-1, 0, '"2')
        },
        f"refused: data/split.csv line 2: expected a csv, got ... {AGAIN}": {
            "a field of 200,000 letters": edited(1, 0, "a" * 200_000)
        },
        "accepted: 21 images": {"a reason in an accepted row": edited(1, 11, "ugly")},
        "accepted: 22 images": {
            "rows in another order": reordered,
            "a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
            "line ends of Windows": lambda text: text.replace("\n", "\r\n").encode(),
            "another subset, edited by hand": edited(1, 5, "train"),
        },
    }
)
