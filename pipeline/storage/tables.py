"""JSON and csv files that stages write: the same bytes for the same content, read with checks.

JSON has sorted keys, two spaces and no NaN; csv has a header and `\\n` line ends. Both are UTF-8
and appear atomically.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.runtime.atomic_files import replacing, require, write_text
from pipeline.runtime.errors import UserError


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON object."""
    write_text(path, json.dumps(content, sort_keys=True, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """Read the JSON object that `stage` wrote; anything else, or nothing, is a UserError."""
    try:
        content = json.loads(require(path, stage).read_bytes())
        if isinstance(content, dict):
            return content
        got = type(content).__name__
    except (ValueError, RecursionError) as error:  # also of bytes that are not UTF-8
        got = str(error)
    raise unexpected(path, "a JSON object", got, _rerun(stage))


def write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Write a csv."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)


def class_columns(others: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return a header for a column per class: its name, after "class " where it is another's."""
    columns: list[str] = []
    for name in classes:
        while name in (*others, *columns):
            name = f"class {name}"
        columns.append(name)
    return columns


def read_rows(path: Path, columns: Sequence[str], remedy: str) -> Iterator[tuple[str, list[str]]]:
    """Return the lines of a csv with these columns, each as (file and line number, fields).

    Anything else is a UserError that ends with `remedy`, such as "run `dvc repro split` again".
    """
    lines = _lines(path, remedy)
    _, header = next(lines)
    if header != list(columns):
        raise unexpected(path, f"the columns {','.join(columns)}", ",".join(header), remedy)
    return lines


def read_csv(path: Path, stage: str) -> list[dict[str, str]]:
    """Read the lines of the csv that `stage` wrote, each by the names in the header."""
    (_, header), *lines = _lines(require(path, stage), _rerun(stage))
    return [dict(zip(header, fields, strict=True)) for _, fields in lines]


def read_numbers(path: Path, stage: str) -> dict[str, list[float]]:
    """Read the columns of a csv of numbers, by the names in its header."""
    (_, header), *lines = _lines(require(path, stage), _rerun(stage))
    try:
        return {name: [float(line[i]) for _, line in lines] for i, name in enumerate(header)}
    except ValueError as error:
        raise unexpected(path, "numbers", str(error), _rerun(stage)) from None


def _lines(path: Path, remedy: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the header and the lines, each as (file and line number, fields)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            yield f"{path} line 1", header
            for fields in lines:
                where = f"{path} line {lines.line_num}"
                if len(fields) != len(header):
                    raise unexpected(where, f"{len(header)} fields", ",".join(fields), remedy)
                yield where, fields
    except csv.Error as error:
        where = f"{path} line {lines.line_num}"
        raise unexpected(where, "a csv", str(error), remedy) from None
    except UnicodeDecodeError as error:
        raise unexpected(path, "a csv in UTF-8", str(error), remedy) from None


def unexpected(where: object, expected: str, got: str, remedy: str) -> UserError:
    """Return the error that quotes what was read, cut short: an open quote spans many lines."""
    got = got if len(got) <= 200 else f"{got[:200]}..."
    return UserError(f"{where}: expected {expected}, got {got!r}; {remedy}")


def _rerun(stage: str) -> str:
    return f"run `dvc repro {stage}` again"
