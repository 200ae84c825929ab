"""The ledger comes back as it was written, and its fingerprint tells which images it holds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.runtime.errors import UserError
from pipeline.storage import ledger
from pipeline.storage.ledger import Row

HEADER = "id,source,member,label,index,subset,sha256,width,height,mode,group,reason,fix"


def row(member: str, label: str = "", index: int = -1, subset: str = "unlabelled") -> Row:
    return Row(
        id=member.partition(".")[0],
        source="train" if label else "test",
        member=member,
        label=label,
        index=index,
        subset=subset,
        sha256=f"sha of {member}",
        width=90,
        height=160,
        mode="RGB",
        group=member.partition(".")[0],
        reason="",
    )


REJECTED = replace(row("2.jpg"), sha256="", width=0, height=0, mode="", group="", reason="bad CRC")
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
def ledger_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test's ledger lies; relative, so that sentences can be compared whole."""
    monkeypatch.chdir(tmp_path)
    return Path("split.csv")


def refusal(ledger_at: Path, text: str) -> str:
    ledger_at.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as told:
        ledger.read_ledger(ledger_at)
    return str(told.value)


def test_a_ledger_comes_back_as_it_was_written(ledger_at: Path) -> None:
    ledger.write_ledger(ledger_at, ROWS)
    assert ledger.read_ledger(ledger_at) == ROWS


def test_an_empty_ledger_comes_back_empty(ledger_at: Path) -> None:
    ledger.write_ledger(ledger_at, [])
    assert ledger_at.read_bytes() == f"{HEADER},crc32\n".encode()
    assert ledger.read_ledger(ledger_at) == []


def test_a_row_is_one_line_of_csv_below_the_header(ledger_at: Path) -> None:
    ledger.write_ledger(ledger_at, [ROWS[0]])
    line = "dogs/1,train,dogs/1.jpg,dog,0,train,sha of dogs/1.jpg,90,160,RGB,dogs/1,,"
    assert ledger_at.read_bytes() == f"{HEADER},crc32\n{line},7b2745ac\n".encode()


@pytest.mark.parametrize("name", ['a,"b"', "ä 猫", " lead", "#x", "=1+1", "'", "\u2028"])
def test_odd_names_come_back_as_they_were(ledger_at: Path, name: str) -> None:
    odd = replace(ROWS[0], id=name, member=f"{name}.jpg", label=name)
    ledger.write_ledger(ledger_at, [odd])
    assert ledger.read_ledger(ledger_at) == [odd]


def test_the_same_rows_give_the_same_bytes(ledger_at: Path) -> None:
    ledger.write_ledger(ledger_at, ROWS)
    first = ledger_at.read_bytes()
    ledger.write_ledger(ledger_at, iter(ROWS))
    assert ledger_at.read_bytes() == first
    assert b"\r" not in first


def test_another_header_is_refused(ledger_at: Path) -> None:
    assert refusal(ledger_at, "id,label\n1,cat\n") == (
        f"split.csv: expected the columns {HEADER}, got 'id,label'; run `dvc repro split` again"
    )


def test_an_empty_file_is_refused(ledger_at: Path) -> None:
    assert refusal(ledger_at, "") == (
        f"split.csv: expected the columns {HEADER}, got ''; run `dvc repro split` again"
    )


@pytest.mark.parametrize(
    "line",
    [
        "a,train,a.jpg,cat,0,train,sha,90,160,RGB,a,",
        "a,train,a.jpg,cat,0,train,sha,90,160,RGB,a,,,more",
        "a,train,a.jpg,cat,zero,train,sha,90,160,RGB,a,,",
        "a,train,a.jpg,cat,0,train,sha,90,160.5,RGB,a,,",
        "a,train,a.jpg,cat,0,train,sha,,160,RGB,a,,",
    ],
    ids=["a field less", "a field more", "a word for an index", "half a pixel", "no width"],
)
def test_a_broken_line_is_refused_by_its_number(ledger_at: Path, line: str) -> None:
    good = "b,train,b.jpg,cat,0,train,sha,90,160,RGB,b,,"
    assert refusal(ledger_at, f"{HEADER}\n{good}\n{line}\n") == (
        "split.csv line 3: expected 13 fields with integers as index, width and height, "
        f"got {line!r}; run `dvc repro split` again"
    )


def test_labels_are_of_the_accepted_rows_in_their_order() -> None:
    found = ledger.labels(ROWS)
    assert found.label.dtype == np.int64
    assert found.label.tolist() == [0, 1, 0, 1, -1, -1]
    assert found.subset.tolist() == ["train", "valid", "test", "train", *["unlabelled"] * 2]


def test_classes_stand_in_the_order_of_their_index() -> None:
    assert ledger.labels(ROWS).classes == ("dog", "cat")
    assert ledger.labels(list(reversed(ROWS))).classes == ("dog", "cat")
    many = [row(f"{i}.jpg", f"class {-i}", i, "train") for i in reversed(range(12))]
    assert ledger.labels(many).classes == tuple(f"class {-i}" for i in range(12))


def test_rows_of_a_subset_are_ascending_indices_into_the_store() -> None:
    found = ledger.labels(ROWS)
    assert {subset: found.rows(subset).tolist() for subset in ledger.SUBSETS} == {
        "train": [0, 3],
        "valid": [1],
        "test": [2],
        "unlabelled": [4, 5],
    }
    assert found.rows("train").dtype == np.int64
    assert ledger.labels([]).rows("train").tolist() == []


def test_the_fingerprint_is_a_sha256_that_repeats() -> None:
    found = ledger.fingerprint(ROWS)
    assert len(found) == 64
    assert int(found, 16) >= 0
    assert ledger.fingerprint(iter(ROWS)) == found


@pytest.mark.parametrize(
    "other",
    [
        [replace(ROWS[0], sha256="other"), *ROWS[1:]],
        [replace(ROWS[0], member="dogs/3.jpg"), *ROWS[1:]],
        [replace(ROWS[0], source="test"), *ROWS[1:]],
        [ROWS[1], ROWS[0], *ROWS[2:]],
        ROWS[1:],
        [*ROWS, row("11.jpg")],
        [*ROWS[:-1], replace(ROWS[-1], reason="truncated image")],
    ],
    ids=["content", "member", "source", "order", "one less", "one more", "one rejected"],
)
def test_the_fingerprint_changes_with_the_images(other: list[Row]) -> None:
    assert ledger.fingerprint(other) != ledger.fingerprint(ROWS)


@pytest.mark.parametrize(
    "other",
    [
        [replace(row, subset="train") for row in ROWS],
        [replace(row, label="bird", index=7) for row in ROWS],
        [replace(row, group="", id="x") for row in ROWS],
        [row for row in ROWS if row.accepted],
        [REJECTED, *ROWS, replace(REJECTED, member="notes.txt", reason="no label")],
    ],
    ids=["subset", "label", "group and id", "no rejected row", "more rejected rows"],
)
def test_the_fingerprint_stays_with_a_new_split(other: list[Row]) -> None:
    assert ledger.fingerprint(other) == ledger.fingerprint(ROWS)


def test_a_table_is_written_whole_or_not_at_all(ledger_at: Path) -> None:
    ledger.write_csv(ledger_at, ["x", "y"], [[1, 0.5], ["a,b", ""]])
    assert ledger_at.read_bytes() == b'x,y\n1,0.5\n"a,b",\n'
    with pytest.raises(ZeroDivisionError):
        ledger.write_csv(ledger_at, ["x"], ([1 // (2 - n)] for n in range(9)))
    assert ledger_at.read_bytes() == b'x,y\n1,0.5\n"a,b",\n'
