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
    """Read the JSON object that `stage` wrote.

    Raises:
        UserError: nothing is there, or no JSON object.
    """
    try:
        content = json.loads(require(path, stage).read_bytes())
    except ValueError as error:  # also of bytes that are not UTF-8
        raise _damaged(path, "a JSON object", str(error), stage) from None
    except RecursionError:
        raise _damaged(path, "a JSON object", "lists nested too deeply", stage) from None
    if not isinstance(content, dict):
        raise _damaged(path, "a JSON object", type(content).__name__, stage)
    return content


def write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Write a csv."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)


def read_lines(path: Path, stage: str) -> Iterator[list[str]]:
    """Yield the header and the lines of the csv that `stage` wrote, each with as many fields.

    Raises:
        UserError: nothing is there, no csv in UTF-8, or a line with more or fewer fields.
    """
    try:
        with require(path, stage).open(encoding="utf-8", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            yield header
            for line in lines:
                if len(line) != len(header):
                    where, got = f"{path} line {lines.line_num}", ",".join(line)
                    raise _damaged(where, f"{len(header)} fields", got, stage)
                yield line
    except (csv.Error, UnicodeDecodeError) as error:
        raise _damaged(path, "a csv in UTF-8", str(error), stage) from None


def read_csv(path: Path, stage: str) -> list[dict[str, str]]:
    """Read the lines of the csv that `stage` wrote, each by the names in the header."""
    header, *lines = read_lines(path, stage)
    return [dict(zip(header, line, strict=True)) for line in lines]


def read_numbers(path: Path, stage: str) -> dict[str, list[float]]:
    """Read the columns of a csv of numbers, by the names in its header.

    Raises:
        UserError: also for a field that is not a number.
    """
    header, *lines = read_lines(path, stage)
    try:
        return {name: [float(line[i]) for line in lines] for i, name in enumerate(header)}
    except ValueError as error:
        raise _damaged(path, "numbers", str(error), stage) from None


def _damaged(where: object, expected: str, got: str, stage: str) -> UserError:
    got = got if len(got) <= 200 else f"{got[:200]}..."
    return UserError(f"{where}: expected {expected}, got {got!r}; run `dvc repro {stage}` again")
