"""JSON and csv files have the same bytes for the same content, and damaged ones are refused."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.runtime.errors import UserError
from pipeline.storage import tables

PATH = Path("metrics/table")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PATH.parent.mkdir()


def test_json_is_sorted_and_indented_and_ends_its_last_line() -> None:
    tables.write_json(PATH, {"b": 1, "a": {"d": 0.5, "c": [1, 2]}, "é": None})
    assert PATH.read_bytes() == (
        b'{\n  "a": {\n    "c": [\n      1,\n      2\n    ],\n    "d": 0.5\n  },\n'
        b'  "b": 1,\n  "\\u00e9": null\n}\n'
    )
    assert tables.read_json(PATH, "audit") == {"b": 1, "a": {"d": 0.5, "c": [1, 2]}, "é": None}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_numbers_that_are_not_finite_and_keeps_the_previous_file(
    value: float,
) -> None:
    tables.write_json(PATH, {"loss": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        tables.write_json(PATH, {"loss": value})
    assert tables.read_json(PATH, "audit") == {"loss": 1}


def test_a_class_never_has_the_column_of_something_else() -> None:
    classes = ["cat", "error", "class error", "id"]
    assert tables.class_columns(["file", "error"], classes) == [
        *("cat", "class error", "class class error", "id")
    ]


def test_a_csv_comes_back_and_appears_at_once() -> None:
    tables.write_csv(PATH, ["x", "y"], [[1, 0.5], ["a,b", None]])
    assert PATH.read_bytes() == b'x,y\n1,0.5\n"a,b",\n'
    with pytest.raises(ZeroDivisionError):
        tables.write_csv(PATH, ["x"], ([1 // (2 - n)] for n in range(9)))
    assert tables.read_csv(PATH, "audit") == [{"x": "1", "y": "0.5"}, {"x": "a,b", "y": ""}]
    assert list(tables.read_rows(PATH, ["x", "y"], "do so")) == [
        ("metrics/table line 2", ["1", "0.5"]),
        ("metrics/table line 3", ["a,b", ""]),
    ]
    tables.write_csv(PATH, ["epoch", "loss"], [[0, 0.5], [1, 0.25]])
    assert tables.read_numbers(PATH, "audit") == {"epoch": [0, 1], "loss": [0.5, 0.25]}


DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
Reader = Callable[[Path, str], object]


@pytest.mark.parametrize(
    ("read", "content", "sentence"),
    [
        *(
            (tables.read_json, content, "metrics/table: expected a JSON object, got ")
            for content in (b"{", b"\xff", b"[1]", DEEP)
        ),
        (tables.read_csv, b"x,y\n1\n", "metrics/table line 2: expected 2 fields, got '1'"),
        (tables.read_csv, b'x,y\n1,"2\n3,4\n', "metrics/table line 3: expected a csv, got "),
        (tables.read_csv, b"x,y\n1,\xff\n", "metrics/table: expected a csv in UTF-8, got "),
        (tables.read_csv, b"x\n" + b"1," * 500, f"expected 1 fields, got '{'1,' * 100}...'"),
        (tables.read_numbers, b"x,y\n1,one\n", "metrics/table: expected numbers, got "),
        (
            lambda path, stage: tables.read_rows(
                path, ["x", "y"], f"run `dvc repro {stage}` again"
            ),
            b"x,z\n1,2\n",
            "metrics/table: expected the columns x,y, got 'x,z'; run",
        ),
    ],
)
def test_a_damaged_file_is_refused(read: Reader, content: bytes, sentence: str) -> None:
    PATH.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(sentence)) as refused:
        read(PATH, "audit")
    assert str(refused.value).endswith("; run `dvc repro audit` again")


@pytest.mark.parametrize("read", [tables.read_json, tables.read_csv, tables.read_numbers])
def test_a_missing_file_is_reported_with_the_stage_that_writes_it(read: Reader) -> None:
    with pytest.raises(UserError, match=r"run `dvc repro audit` first$"):
        read(PATH, "audit")
