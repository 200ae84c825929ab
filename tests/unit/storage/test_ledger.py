"""The ledger comes back as it was written, and its fingerprint identifies its images."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.runtime.errors import UserError
from pipeline.storage import ledger
from pipeline.storage.ledger import LedgerRow

HEADER = "id,source,member,label,index,subset,sha256,width,height,mode,group,reason,fix"
GOOD = "b,train,b.jpg,cat,0,train,sha,90,160,RGB,b,,"


def row(
    member: str, label: str = "", index: int = -1, subset: str = "unlabelled", reason: str = ""
) -> LedgerRow:
    name, source = member.partition(".")[0], "train" if label else "test"
    sha256 = f"sha of {member}"
    return LedgerRow(
        name, source, member, label, index, subset, sha256, 90, 160, "RGB", name, reason
    )


REJECTED = row("2.jpg", reason="bad CRC")
ROWS = [
    row("dogs/1.jpg", "dog", 0, "train"),
    row("cats/1.jpg", "cat", 1, "valid"),
    row("dogs/2.jpg", "dog", 0, "test"),
    row("cats/2.jpg", "cat", 1, "train"),
    row("1.jpg"),
    REJECTED,
    row("10.jpg"),
]


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the ledger lies; relative, as errors quote it."""
    monkeypatch.chdir(tmp_path)
    return Path("split.csv")


ODD = ['a,"b"', "ä 猫", " lead", "#x", "=1+1", "'", "\u2028"]


def test_a_ledger_comes_back_as_it_was_written(path: Path) -> None:
    odd = [replace(REJECTED, id=name, member=f"{name}.jpg", reason=name) for name in ODD]
    for rows in ([], ROWS + odd):
        ledger.write_ledger(path, iter(rows))
        assert ledger.read_ledger(path) == rows
    line = "dogs/1,train,dogs/1.jpg,dog,0,train,sha of dogs/1.jpg,90,160,RGB,dogs/1,,"
    assert path.read_bytes().startswith(f"{HEADER}\n{line}\n".encode())


def line(**changes: object) -> str:
    fields = dict(zip(HEADER.split(","), GOOD.split(","), strict=True)) | {"member": "a.jpg"}
    return ",".join(str(field) for field in (fields | changes).values())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("id,label\n1,cat\n", f"split.csv: expected the columns {HEADER}, got 'id,label'"),
        (f"{HEADER}\n{GOOD}\na,b\n", "split.csv line 3: expected 13 fields, got 'a,b'"),
        (f"{HEADER}\n{line(index='zero')}\n", "line 2: expected integers as index, width and"),
        (f"{HEADER}\n{line(subset='trein')}\n", "split.csv line 2: expected an accepted row with"),
        (f"{HEADER}\n{line(index=-1)}\n", "line 2: expected an index of 0 or more with a label"),
        (f"{HEADER}\n{GOOD}\n{GOOD}\n", "split.csv: expected one row per file, got two of one"),
        (f"{HEADER}\n{GOOD}\n{line(index=1)}\n", "split.csv: expected one index for each label"),
        (f"{HEADER}\n{GOOD}\n{line(label='dog')}\n", "split.csv: expected one index for each"),
    ],
)
def test_a_damaged_ledger_is_refused(path: Path, text: str, sentence: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(sentence)) as refused:
        ledger.read_ledger(path)
    assert str(refused.value).endswith("; run `dvc repro split` again")


def test_labels_are_those_of_accepted_rows_in_their_order() -> None:
    labels = ledger.labels(ROWS)
    assert labels.label.dtype == np.int64
    assert labels.label.tolist() == [0, 1, 0, 1, -1, -1]
    assert labels.subset.tolist() == ["train", "valid", "test", "train", *["unlabelled"] * 2]
    rows = {subset: labels.rows(subset).tolist() for subset in ledger.SUBSETS}
    assert rows == {"train": [0, 3], "valid": [1], "test": [2], "unlabelled": [4, 5]}


def test_classes_are_in_the_order_of_their_index() -> None:
    assert ledger.labels(ROWS).classes == ledger.labels(ROWS[::-1]).classes == ("dog", "cat")
    many = [row(f"{i}.jpg", f"class {-i}", i, "train") for i in reversed(range(12))]
    assert ledger.labels(many).classes == tuple(f"class {-i}" for i in range(12))


CHANGED_IMAGES = {
    "content": [replace(ROWS[0], sha256="other"), *ROWS[1:]],
    "member": [replace(ROWS[0], member="dogs/3.jpg"), *ROWS[1:]],
    "source": [replace(ROWS[0], source="test"), *ROWS[1:]],
    "order": [ROWS[1], ROWS[0], *ROWS[2:]],
    "one more": [*ROWS, row("11.jpg")],
    "one rejected": [*ROWS[:-1], replace(ROWS[-1], reason="truncated image")],
}
CHANGED_SPLIT = {
    "subset": [replace(row, subset="train") for row in ROWS],
    "label": [replace(row, label="bird", index=7) for row in ROWS],
    "group and id": [replace(row, group="", id="x") for row in ROWS],
    "no rejected row": [row for row in ROWS if row.accepted],
}


@pytest.mark.parametrize("change", [*CHANGED_IMAGES, *CHANGED_SPLIT])
def test_the_fingerprint_changes_with_the_images_and_not_with_the_split(change: str) -> None:
    fingerprint = ledger.fingerprint(iter(ROWS))
    assert len(bytes.fromhex(fingerprint)) == 32
    other = ledger.fingerprint((CHANGED_IMAGES | CHANGED_SPLIT)[change])
    assert (other == fingerprint) is (change in CHANGED_SPLIT)


def test_some_rows_share_the_columns_of_all_of_them() -> None:
    digits = f"{7:063x}0"
    own = replace(ROWS[0], group=f"train/{ROWS[0].id}", sha256=digits[::-1])
    rows = ledger.Ledger([own, replace(ROWS[1], sha256=digits), *ROWS[2:]])
    some = rows.take(np.array([1, 0, 5]))
    assert list(some) == [rows[1], own, REJECTED]
    assert some.accepted() == [rows[1], own]
    assert some.texts("group").tolist() == [row.group for row in some]
    assert some.texts("sha256").tolist() == [digits, digits[::-1], REJECTED.sha256]
    assert rows[-2:] == [REJECTED, ROWS[-1]]
    some.replace("subset", np.array([0, 1]), "test")
    assert [row.subset for row in rows[:2]] == ["test", "test"]
