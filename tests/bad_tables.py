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
    bad_fix(
        "no byte",
        "an empty file",
        lambda: b"",
        (
            "refused: data/label_fixes.csv: expected the header member,label,source, got ''; "
            "put it into the first line"
        ),
    ),
    bad_fix(
        "no header",
        "a line in place of the header",
        lines("cat.1.jpg,dog,x", head=""),
        (
            "refused: data/label_fixes.csv: expected the header member,label,source, got "
            "'cat.1.jpg,dog,x'; put it into the first line"
        ),
    ),
    bad_fix(
        "another header",
        "a header of other words",
        lines(head="file,class,why\n"),
        (
            "refused: data/label_fixes.csv: expected the header member,label,source, got "
            "'file,class,why'; put it into the first line"
        ),
    ),
    bad_fix(
        "columns changed",
        "a header in another order",
        lines(head="label,member,source\n"),
        (
            "refused: data/label_fixes.csv: expected the header member,label,source, got "
            "'label,member,source'; put it into the first line"
        ),
    ),
    bad_fix(
        "a field less",
        "a line of two fields",
        lines("cat.1.jpg,dog"),
        (
            "refused: data/label_fixes.csv line 2: expected member, label and source, got "
            "'cat.1.jpg,dog'; correct it"
        ),
    ),
    bad_fix(
        "a field more",
        "a line of four fields",
        lines("cat.1.jpg,dog,x,y"),
        (
            "refused: data/label_fixes.csv line 2: expected member, label and source, got "
            "'cat.1.jpg,dog,x,y'; correct it"
        ),
    ),
    bad_fix(
        "semicolons",
        "fields parted by semicolons",
        lines("cat.1.jpg;dog;x"),
        (
            "refused: data/label_fixes.csv line 2: expected member, label and source, got "
            "'cat.1.jpg;dog;x'; correct it"
        ),
    ),
    bad_fix(
        "an empty line",
        "an empty line between others",
        lines("cat.1.jpg,dog,x", "", "cat.2.jpg,dog,x"),
        (
            "refused: data/label_fixes.csv line 3: expected member, label and source, got "
            "''; correct it"
        ),
    ),
    bad_fix(
        "no name",
        "a line without a file",
        lines(",dog,x"),
        (
            "refused: data/label_fixes.csv line 2: expected member, label and source, got "
            "',dog,x'; correct it"
        ),
    ),
    bad_fix(
        "no label",
        "a line without a label",
        lines("cat.1.jpg,,x"),
        (
            "refused: data/label_fixes.csv line 2: expected member, label and source, got "
            "'cat.1.jpg,,x'; correct it"
        ),
    ),
    bad_fix(
        "no source",
        "a line without a source",
        lines("cat.1.jpg,exclude,"),
        "accepted: 0 excluded, 1 in_test, 0 relabelled, 0 unmatched",
    ),
    bad_fix(
        "an unknown file",
        "a file that is not there",
        lines("cat.99.jpg,dog,x"),
        "accepted: 0 excluded, 0 in_test, 0 relabelled, 1 unmatched",
    ),
    bad_fix(
        "an unknown class",
        "a class that is not there",
        lines("cat.1.jpg,bird,x"),
        (
            "refused: data/label_fixes.csv: cat.1.jpg: expected as label 'exclude' or one of "
            "cat, dog, got 'bird'; correct that line"
        ),
    ),
    bad_fix(
        "a class in capitals",
        "a class in other letters",
        lines("cat.1.jpg,DOG,x"),
        (
            "refused: data/label_fixes.csv: cat.1.jpg: expected as label 'exclude' or one of "
            "cat, dog, got 'DOG'; correct that line"
        ),
    ),
    bad_fix(
        "two lines about a file",
        "a file on two lines",
        lines("cat.1.jpg,dog,x", "cat.1.jpg,exclude,y"),
        (
            "refused: data/label_fixes.csv: cat.1.jpg: expected one line about it, got two; "
            "remove one"
        ),
    ),
    bad_fix(
        "a line twice",
        "the same line twice",
        lines("cat.1.jpg,dog,x", "cat.1.jpg,dog,x"),
        (
            "refused: data/label_fixes.csv: cat.1.jpg: expected one line about it, got two; "
            "remove one"
        ),
    ),
    bad_fix(
        "an open quote",
        "a quote that does not end",
        lines('"cat.1.jpg,dog,x'),
        (
            "refused: data/label_fixes.csv line 2: expected member, label and source, got "
            "'cat.1.jpg,dog,x\\n'; correct it"
        ),
    ),
    bad_fix(
        "a quote inside",
        "a quote in the middle of a field",
        lines('cat".1.jpg,dog,x'),
        "accepted: 0 excluded, 0 in_test, 0 relabelled, 1 unmatched",
    ),
    bad_fix(
        "NUL",
        "a NUL byte in a name",
        lines("cat\0.1.jpg,dog,x"),
        (
            "refused: data/label_fixes.csv line 2: expected member, label and source, got "
            "'cat\\x00.1.jpg,dog,x'; correct it"
        ),
    ),
    bad_fix(
        "byte order mark",
        "UTF-8 as Windows marks it",
        lambda: b"\xef\xbb\xbf" + lines("cat.1.jpg,dog,x")(),
        "accepted: 0 excluded, 1 in_test, 0 relabelled, 0 unmatched",
    ),
    bad_fix(
        "CR LF",
        "lines that end as in Windows",
        lambda: lines("cat.1.jpg,dog,x")().replace(b"\n", b"\r\n"),
        "accepted: 0 excluded, 1 in_test, 0 relabelled, 0 unmatched",
    ),
    bad_fix(
        "CR alone",
        "lines that end as on old Macs",
        lambda: lines("cat.1.jpg,dog,x")().replace(b"\n", b"\r"),
        "accepted: 0 excluded, 1 in_test, 0 relabelled, 0 unmatched",
    ),
    bad_fix(
        "Latin-1",
        "an umlaut in Latin-1",
        lambda: HEAD.encode() + b"cat.1.jpg,dog,\xfc\n",
        (
            "refused: data/label_fixes.csv: expected a csv in UTF-8, got a byte that is none "
            "at 34; save it so"
        ),
    ),
    bad_fix(
        "UTF-16",
        "a file in UTF-16",
        lambda: HEAD.encode("utf-16"),
        (
            "refused: data/label_fixes.csv: expected a csv in UTF-8, got a byte that is none "
            "at 0; save it so"
        ),
    ),
    bad_fix(
        "a huge field",
        "a field of 200,000 letters",
        lines(f"cat.1.jpg,dog,{'x' * 200_000}"),
        (
            "refused: data/label_fixes.csv line 2: expected member, label and source, got "
            "'field larger than field limit (131072)'; correct it"
        ),
    ),
    bad_fix(
        "a path outside",
        "a file outside of the data",
        lines("../../cat.1.jpg,dog,x"),
        "accepted: 0 excluded, 0 in_test, 0 relabelled, 1 unmatched",
    ),
    bad_fix(
        "spaces",
        "a space behind a comma",
        lines("cat.1.jpg, dog,x"),
        (
            "refused: data/label_fixes.csv: cat.1.jpg: expected as label 'exclude' or one of "
            "cat, dog, got ' dog'; correct that line"
        ),
    ),
]


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


WITH_SUMS = ("another subset, of the same sum",)
LEDGERS = [
    Bad(
        "another subset, of the same sum",
        "an image moved to another subset by hand",
        _edited(1, 5, "train"),
        (
            "refused: data/split.csv line 2: expected fields that fit their crc32, got "
            "'cat.0,train,cat.0.jpg,cat,0,train,SHA256,64,48,RGB,train/cat.0,,,SUM'; "
            "run `dvc repro split` again"
        ),
    ),
    Bad(
        "no byte",
        "an empty file",
        lambda text: b"",
        (
            "refused: data/split.csv: expected the columns "
            "id,source,member,label,index,subset,sha256,width,height,mode,group,reason,fix, "
            "got ''; run `dvc repro split` again"
        ),
    ),
    Bad(
        "header alone",
        "no row",
        lambda text: text.splitlines(keepends=True)[0].encode(),
        ("refused: data/split.csv: expected rows of images, got none; run `dvc repro split` again"),
    ),
    Bad(
        "another header",
        "a column renamed",
        lambda text: text.replace("sha256", "hash", 1).encode(),
        (
            "refused: data/split.csv: expected the columns "
            "id,source,member,label,index,subset,sha256,width,height,mode,group,reason,fix, "
            "got "
            "'id,source,member,label,index,subset,hash,width,height,mode,group,reason,fix'; "
            "run `dvc repro split` again"
        ),
    ),
    Bad(
        "no fix",
        "the last column taken away",
        lambda text: "".join(line.rpartition(",")[0] + "\n" for line in text.splitlines()).encode(),
        (
            "refused: data/split.csv: expected the columns "
            "id,source,member,label,index,subset,sha256,width,height,mode,group,reason,fix, "
            "got "
            "'id,source,member,label,index,subset,sha256,width,height,mode,group,reason'; "
            "run `dvc repro split` again"
        ),
    ),
    Bad(
        "no header",
        "the header taken away",
        lambda text: text.partition("\n")[2].encode(),
        (
            "refused: data/split.csv: expected the columns "
            "id,source,member,label,index,subset,sha256,width,height,mode,group,reason,fix, "
            "got 'cat.0,train,cat.0.jpg,cat,0,valid,SHA256,64,48,RGB,train/cat.0,,'; run "
            "`dvc repro split` again"
        ),
    ),
    Bad(
        "a field less",
        "a row cut off",
        lambda text: text.rstrip().rpartition(",")[0].encode(),
        (
            "refused: data/split.csv line 23: expected 13 fields with integers as index, "
            "width and height, got '2,test,2.jpg,,-1,unlabelled,SHA256,64,48,RGB,test/2,'; "
            "run `dvc repro split` again"
        ),
    ),
    Bad(
        "half",
        "half a file",
        lambda text: text[: text.index("dog.0,train") + 30].encode(),
        (
            "refused: data/split.csv line 12: expected 13 fields with integers as index, "
            "width and height, got 'dog.0,train,dog.0.jpg,dog,1,tr'; run `dvc repro split` "
            "again"
        ),
    ),
    Bad(
        "a word for an index",
        "a word as a class' number",
        _edited(1, 4, "one"),
        (
            "refused: data/split.csv line 2: expected 13 fields with integers as index, "
            "width and height, got "
            "'cat.0,train,cat.0.jpg,cat,one,valid,SHA256,64,48,RGB,train/cat.0,,'; run `dvc "
            "repro split` again"
        ),
    ),
    Bad(
        "a huge index",
        "a class' number of 30 digits",
        _edited(1, 4, "9" * 30),
        (
            "refused: data/split.csv line 2: expected an index from 0 on for a label, and -1 "
            "for none, got 999999999999999999999999999999 for 'cat'; run `dvc repro split` "
            "again"
        ),
    ),
    Bad(
        "an index of 5,000 digits",
        "more digits than Python reads",
        _edited(1, 4, "9" * 5000),
        (
            "refused: data/split.csv line 2: expected 13 fields with integers as index, "
            "width and height, got "
            f"'cat.0,train,cat.0.jpg,cat,{'9' * 174}...'; run `dvc repro split` again"
        ),
    ),
    Bad(
        "an index below",
        "a class' number of -7",
        _edited(1, 4, "-7"),
        (
            "refused: data/split.csv line 2: expected an index from 0 on for a label, and -1 "
            "for none, got -7 for 'cat'; run `dvc repro split` again"
        ),
    ),
    Bad(
        "another index",
        "a class' number that is another one's",
        _edited(1, 4, "1"),
        (
            "refused: data/split.csv: expected one index for each label, got several; run "
            "`dvc repro split` again"
        ),
    ),
    Bad(
        "an unknown subset",
        "a subset that there is not",
        _edited(1, 5, "holdout"),
        (
            "refused: data/split.csv line 2: expected of an accepted row a subset (train, "
            "valid, test, unlabelled), and a label but for the last, got 'holdout' and "
            "'cat'; run `dvc repro split` again"
        ),
    ),
    Bad(
        "no subset",
        "an accepted row without a subset",
        _edited(1, 5, ""),
        (
            "refused: data/split.csv line 2: expected of an accepted row a subset (train, "
            "valid, test, unlabelled), and a label but for the last, got '' and 'cat'; run "
            "`dvc repro split` again"
        ),
    ),
    Bad(
        "unlabelled with a label",
        "a labelled image among those to predict",
        _edited(1, 5, "unlabelled"),
        (
            "refused: data/split.csv line 2: expected of an accepted row a subset (train, "
            "valid, test, unlabelled), and a label but for the last, got 'unlabelled' and "
            "'cat'; run `dvc repro split` again"
        ),
    ),
    Bad(
        "an unknown source",
        "a source that is neither `train` nor `test`",
        _edited(1, 1, "more"),
        (
            "refused: test member cat.0.jpg: expected the bytes that `split` judged, got "
            "others or none; run `dvc repro` to judge what is there now"
        ),
    ),
    Bad(
        "an unknown member",
        "a file that is not there",
        _edited(1, 2, "cat.99.jpg"),
        (
            "refused: train.zip member cat.99.jpg: expected the bytes that `split` judged, "
            "got others or none; run `dvc repro` to judge what is there now"
        ),
    ),
    Bad(
        "half a hash",
        "a sha256 cut off",
        _edited(1, 6, "abc"),
        (
            "refused: data/split.csv: expected a sha256 of 64 digits for each image, got "
            "'abc'; run `dvc repro split` again"
        ),
    ),
    Bad(
        "another hash",
        "a sha256 of other bytes",
        _edited(1, 6, "0" * 64),
        (
            "refused: train.zip member cat.0.jpg: expected the bytes that `split` judged, "
            "got others or none; run `dvc repro` to judge what is there now"
        ),
    ),
    Bad(
        "a rejected row taken back",
        "a reason in an accepted row",
        _edited(1, 11, "ugly"),
        "accepted: 21 images",
    ),
    Bad("order", "rows in another order", _moved, "accepted: 22 images"),
    Bad(
        "a row twice",
        "the last row once more",
        lambda text: (text + text.splitlines(keepends=True)[-1]).encode(),
        (
            "refused: data/split.csv: expected one row a file, got two of one; run `dvc "
            "repro split` again"
        ),
    ),
    Bad(
        "NUL",
        "a NUL byte in a name",
        _edited(1, 2, "cat\0.0.jpg"),
        (
            "refused: train.zip member cat\\x00.0.jpg: expected the bytes that `split` judged, "
            "got others or none; run `dvc repro` to judge what is there now"
        ),
    ),
    Bad(
        "an open quote",
        "a quote that does not end",
        _edited(-1, 0, '"2'),
        (
            "refused: data/split.csv: expected a csv in UTF-8, got 'unexpected end of data'; "
            "run `dvc repro split` again"
        ),
    ),
    Bad(
        "not UTF-8",
        "bytes that are no text",
        lambda text: text.encode() + b"\xff\xfe\n",
        (
            "refused: data/split.csv: expected a csv in UTF-8, got \"'utf-8' codec can't "
            'decode byte 0xff in position 2758: invalid start byte"; run `dvc repro split` '
            "again"
        ),
    ),
    Bad(
        "a huge field",
        "a field of 200,000 letters",
        _edited(1, 0, "a" * 200_000),
        (
            "refused: data/split.csv: expected a csv in UTF-8, got 'field larger than field "
            "limit (131072)'; run `dvc repro split` again"
        ),
    ),
    Bad(
        "byte order mark",
        "UTF-8 as Windows marks it",
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        (
            "refused: data/split.csv: expected the columns "
            "id,source,member,label,index,subset,sha256,width,height,mode,group,reason,fix, "
            "got "
            "'\\ufeff"
            "id,source,member,label,index,subset,sha256,width,height,mode,group,reason,fix'; "
            "run `dvc repro split` again"
        ),
    ),
    Bad(
        "CR LF",
        "lines that end as in Windows",
        lambda text: text.replace("\n", "\r\n").encode(),
        "accepted: 22 images",
    ),
    Bad(
        "an empty line",
        "an empty line at the end",
        lambda text: text.encode() + b"\n",
        (
            "refused: data/split.csv line 24: expected 13 fields with integers as index, "
            "width and height, got ''; run `dvc repro split` again"
        ),
    ),
]
