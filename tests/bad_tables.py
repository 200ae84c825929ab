"""Csv files edited by hand, and not well: the label fixes, and the ledger."""

from collections.abc import Callable

from bad_inputs import Bad

TOLD_FIXES = (
    "In place of `data/label_fixes.csv`. Ten cats and ten dogs are there, from `cat.0.jpg` to "
    "`dog.9.jpg`. What is accepted is told by what became of its lines."
)
TOLD_LEDGERS = (
    "`split` writes this file and DVC knows its hash; who edits it by hand and starts `resize` "
    "gets this. What is accepted is told by how many of its rows are images."
)
HEAD = "member,label,source\n"


def lines(*more: str, head: str = HEAD) -> Callable[[], bytes]:
    return lambda: (head + "".join(f"{line}\n" for line in more)).encode()


def bad_fix(name: str, what: str, make: Callable[[], bytes], outcome: str) -> Bad:
    return Bad(name, what, lambda good: make(), outcome)


FIXES = [
    bad_fix("no byte", "an empty file", lambda: b"", "?"),
    bad_fix("no header", "a line in place of the header", lines("cat.1.jpg,dog,x", head=""), "?"),
    bad_fix("another header", "a header of other words", lines(head="file,class,why\n"), "?"),
    bad_fix("columns changed", "a header in another order", lines(head="label,member,source\n"),
            "?"),
    bad_fix("a field less", "a line of two fields", lines("cat.1.jpg,dog"), "?"),
    bad_fix("a field more", "a line of four fields", lines("cat.1.jpg,dog,x,y"), "?"),
    bad_fix("semicolons", "fields parted by semicolons", lines("cat.1.jpg;dog;x"), "?"),
    bad_fix("an empty line", "an empty line between others",
            lines("cat.1.jpg,dog,x", "", "cat.2.jpg,dog,x"), "?"),
    bad_fix("no name", "a line without a file", lines(",dog,x"), "?"),
    bad_fix("no label", "a line without a label", lines("cat.1.jpg,,x"), "?"),
    bad_fix("no source", "a line without a source", lines("cat.1.jpg,exclude,"), "?"),
    bad_fix("an unknown file", "a file that is not there", lines("cat.99.jpg,dog,x"), "?"),
    bad_fix("an unknown class", "a class that is not there", lines("cat.1.jpg,bird,x"), "?"),
    bad_fix("a class in capitals", "a class in other letters", lines("cat.1.jpg,DOG,x"), "?"),
    bad_fix("two lines about a file", "a file on two lines",
            lines("cat.1.jpg,dog,x", "cat.1.jpg,exclude,y"), "?"),
    bad_fix("a line twice", "the same line twice", lines("cat.1.jpg,dog,x", "cat.1.jpg,dog,x"),
            "?"),
    bad_fix("an open quote", "a quote that does not end", lines('"cat.1.jpg,dog,x'), "?"),
    bad_fix("a quote inside", "a quote in the middle of a field", lines('cat".1.jpg,dog,x'), "?"),
    bad_fix("NUL", "a NUL byte in a name", lines("cat\0.1.jpg,dog,x"), "?"),
    bad_fix("byte order mark", "UTF-8 as Windows marks it",
            lambda: b"\xef\xbb\xbf" + lines("cat.1.jpg,dog,x")(), "?"),
    bad_fix("CR LF", "lines that end as in Windows",
            lambda: lines("cat.1.jpg,dog,x")().replace(b"\n", b"\r\n"), "?"),
    bad_fix("CR alone", "lines that end as on old Macs",
            lambda: lines("cat.1.jpg,dog,x")().replace(b"\n", b"\r"), "?"),
    bad_fix("Latin-1", "an umlaut in Latin-1", lambda: HEAD.encode() + b"cat.1.jpg,dog,\xfc\n",
            "?"),
    bad_fix("UTF-16", "a file in UTF-16", lambda: HEAD.encode("utf-16"), "?"),
    bad_fix("a huge field", "a field of 200,000 letters", lines(f"cat.1.jpg,dog,{'x' * 200_000}"),
            "?"),
    bad_fix("a path outside", "a file outside of the data", lines("../../cat.1.jpg,dog,x"), "?"),
    bad_fix("spaces", "a space behind a comma", lines("cat.1.jpg, dog,x"), "?"),
]  # fmt: skip


def _edited(number: int, column: int, value: str) -> Callable[[str], bytes]:
    """The ledger with one field of one row changed; its first row is 1."""

    def make(text: str) -> bytes:
        rows = [line.split(",") for line in text.splitlines()]
        rows[number][column] = value
        return "".join(",".join(row) + "\n" for row in rows).encode()

    return make


def _moved(text: str) -> bytes:
    head, *rows = text.splitlines(keepends=True)
    return "".join([head, *reversed(rows)]).encode()


LEDGERS = [
    Bad("no byte", "an empty file", lambda text: b"", "?"),
    Bad("header alone", "no row", lambda text: text.splitlines(keepends=True)[0].encode(), "?"),
    Bad("another header", "a column renamed",
        lambda text: text.replace("sha256", "hash", 1).encode(), "?"),
    Bad("no fix", "the last column taken away",
        lambda text: "".join(line.rpartition(",")[0] + "\n" for line in text.splitlines()).encode(),
        "?"),
    Bad("no header", "the header taken away",
        lambda text: text.partition("\n")[2].encode(), "?"),
    Bad("a field less", "a row cut off", lambda text: text.rstrip().rpartition(",")[0].encode(),
        "?"),
    Bad("half", "half a file", lambda text: text[: len(text) // 2].encode(), "?"),
    Bad("a word for an index", "a word as a class' number", _edited(1, 4, "one"), "?"),
    Bad("a huge index", "a class' number of 30 digits", _edited(1, 4, "9" * 30), "?"),
    Bad("an index of 5,000 digits", "more digits than Python reads", _edited(1, 4, "9" * 5000),
        "?"),
    Bad("an index below", "a class' number of -7", _edited(1, 4, "-7"), "?"),
    Bad("another index", "a class' number that is another one's", _edited(1, 4, "1"), "?"),
    Bad("an unknown subset", "a subset that there is not", _edited(1, 5, "holdout"), "?"),
    Bad("no subset", "an accepted row without a subset", _edited(1, 5, ""), "?"),
    Bad("unlabelled with a label", "a labelled image among those to predict",
        _edited(1, 5, "unlabelled"), "?"),
    Bad("an unknown source", "a source that is neither `train` nor `test`",
        _edited(1, 1, "more"), "?"),
    Bad("an unknown member", "a file that is not there", _edited(1, 2, "cat.99.jpg"), "?"),
    Bad("half a hash", "a sha256 cut off", _edited(1, 6, "abc"), "?"),
    Bad("another hash", "a sha256 of other bytes", _edited(1, 6, "0" * 64), "?"),
    Bad("a rejected row taken back", "a reason in an accepted row", _edited(1, 11, "ugly"), "?"),
    Bad("order", "rows in another order", _moved, "?"),
    Bad("a row twice", "the last row once more",
        lambda text: (text + text.splitlines(keepends=True)[-1]).encode(), "?"),
    Bad("NUL", "a NUL byte in a name", _edited(1, 2, "cat\0.0.jpg"), "?"),
    Bad("an open quote", "a quote that does not end", _edited(1, 0, '"cat.0'), "?"),
    Bad("not UTF-8", "bytes that are no text", lambda text: text.encode() + b"\xff\xfe\n", "?"),
    Bad("a huge field", "a field of 200,000 letters", _edited(1, 0, "a" * 200_000), "?"),
    Bad("byte order mark", "UTF-8 as Windows marks it",
        lambda text: b"\xef\xbb\xbf" + text.encode(), "?"),
    Bad("CR LF", "lines that end as in Windows",
        lambda text: text.replace("\n", "\r\n").encode(), "?"),
    Bad("an empty line", "an empty line at the end", lambda text: text.encode() + b"\n", "?"),
]  # fmt: skip
