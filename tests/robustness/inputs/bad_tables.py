"""Csv files edited badly by hand: the label fixes, and the ledger."""

from collections.abc import Callable

from bad_inputs import table

FIXES_INTRO = (
    "In place of `data/label_fixes.csv`, with images from `cat.0.jpg` to `dog.9.jpg`. An accepted "
    "file has these effects."
)
LEDGERS_INTRO = (
    "In place of `data/split.csv`, edited after `split` wrote it, for a `resize` started by hand. "
    "Of an accepted file, this many rows are images."
)
HEAD = b"member,label,source\n"
GOOD = HEAD + b"cat.1.jpg,dog,x\n"
FIELDS = "expected member, label and source, got"
LABEL = "data/label_fixes.csv: cat.1.jpg: expected as label 'exclude' or one of cat, dog, got"
FIXES = table(
    {
        "refused: data/label_fixes.csv: expected the columns member,label,source, got ... ; "
        "correct it": {
            "an empty file": b"",
            "no header": b"cat.1.jpg,dog,x\n",
            "columns in another order": b"label,member,source\n",
        },
        "refused: data/label_fixes.csv line 2: expected 3 fields, got ... ; correct it": {
            "two fields": HEAD + b"cat.1.jpg,dog\n",
            "four fields": HEAD + b"cat.1.jpg,dog,x,y\n",
            "semicolons between fields": HEAD + b"cat.1.jpg;dog;x\n",
        },
        "refused: data/label_fixes.csv line 2: expected a csv, got ... ; correct it": {
            "a quote that does not end": HEAD + b'"cat.1.jpg,dog,x\n',
            "a field of 200,000 letters": HEAD + b"cat.1.jpg,dog," + b"x" * 200_000,
        },
        f"refused: data/label_fixes.csv line 2: {FIELDS} ... ; correct it": {
            "a line without a label": HEAD + b"cat.1.jpg,,x\n",
            "a NUL byte in a name": HEAD + b"cat\0.1.jpg,dog,x\n",
        },
        "refused: data/label_fixes.csv line 3: expected 3 fields, got ''; correct it": {
            "an empty line between others": GOOD + b"\ncat.2.jpg,dog,x\n"
        },
        f"refused: {LABEL} ... ; correct that line": {
            "an unknown class": HEAD + b"cat.1.jpg,bird,x\n",
            "a class in capitals": HEAD + b"cat.1.jpg,DOG,x\n",
            "a space behind a comma": HEAD + b"cat.1.jpg, dog,x\n",
        },
        "refused: data/label_fixes.csv: cat.1.jpg: expected one line about it, got two; remove "
        "one": {"two lines about a file": GOOD + b"cat.1.jpg,exclude,y\n"},
        "refused: data/label_fixes.csv: expected a csv in UTF-8, got ... position 34: ": {
            "an umlaut in Latin-1": HEAD + b"cat.1.jpg,dog,\xfc\n"
        },
        "refused: data/label_fixes.csv: expected a csv in UTF-8, got ... position 0: ": {
            "UTF-16": HEAD.decode().encode("utf-16")
        },
        "accepted: 0 excluded, 1 in_test, 0 relabelled, 0 unmatched": {
            "a line without a source": HEAD + b"cat.1.jpg,exclude,\n",
            "UTF-8 with a byte order mark": b"\xef\xbb\xbf" + GOOD,
            "line ends of Windows": GOOD.replace(b"\n", b"\r\n"),
        },
        "accepted: 0 excluded, 0 in_test, 0 relabelled, 1 unmatched": {
            "an unknown file": HEAD + b"cat.99.jpg,dog,x\n",
            "a file outside of the data": HEAD + b"../../cat.1.jpg,dog,x\n",
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


AGAIN = "run `dvc repro split` again"
OTHER_BYTES = "expected the bytes that `split` judged, got others or none; run `dvc repro`"
COLUMNS = "id,source,member,label,index,subset,sha256,width,height,mode,group,reason,fix"
LEDGERS = table(
    {
        f"refused: data/split.csv: expected the columns {COLUMNS}, got ... {AGAIN}": {
            "an empty file": b"",
            "a renamed column": lambda text: text.replace("sha256", "hash", 1).encode(),
        },
        f"refused: data/split.csv: expected accepted images, ... got none; {AGAIN}": {
            "only the header": lambda text: text.splitlines(keepends=True)[0].encode()
        },
        f"refused: data/split.csv line 12: expected 13 fields ... {AGAIN}": {
            "half a file": lambda text: text[: text.index("dog.0,train") + 30].encode()
        },
        f"refused: data/split.csv line 24: expected 13 fields ... {AGAIN}": {
            "an empty line at the end": lambda text: text.encode() + b"\n"
        },
        f"refused: data/split.csv line 2: expected integers ... {AGAIN}": {
            "a word as index": edited(1, 4, "one")
        },
        f"refused: data/split.csv line 2: expected an index ... {AGAIN}": {
            "an index of -7": edited(1, 4, "-7")
        },
        f"refused: data/split.csv: expected one index ... {AGAIN}": {
            "the index of another class": edited(1, 4, "1")
        },
        "refused: data/split.csv line 2: expected ... a subset (train, valid, test, unlabelled)"
        f" ... {AGAIN}": {
            "an unknown subset": edited(1, 5, "holdout"),
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
        "accepted: 21 images": {"a reason in an accepted row": edited(1, 11, "ugly")},
        "accepted: 22 images": {
            "rows in another order": reordered,
            "a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
            "line ends of Windows": lambda text: text.replace("\n", "\r\n").encode(),
            "another subset, edited by hand": edited(1, 5, "train"),
        },
    }
)
