"""Sums by which a reader notices that a bit of a stored file has flipped, before it uses any of it.

- JSON: a key `crc32`, of all other keys with their values.
- csv: a last column `crc32`, of the line's other fields and the header.

Other files are sealed (see `files`), and arrays have checksums of their own. A file without a sum
was written by somebody else, and is read as it is.
"""

import csv
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError

NAME = "crc32"  # of the key and of the column


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write JSON as `files.write_json` does, with its sum."""
    as_read = json.loads(json.dumps(content))
    atomic_files.write_json(path, {**content, NAME: _of_json(as_read)})


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """What `write_json` wrote, without the sum.

    Raises:
        UserError: nothing is there, no JSON object, or content that does not fit its sum.
    """
    try:
        found = json.loads(atomic_files.require(path, stage).read_bytes())
    except ValueError as error:  # also of bytes that are no UTF-8
        raise _damaged(path, "a JSON object", str(error), stage) from None
    except RecursionError:
        raise _damaged(path, "a JSON object", "lists in lists, too deep", stage) from None
    if not isinstance(found, dict):
        raise _damaged(path, "a JSON object", type(found).__name__, stage)
    known = found.pop(NAME, None)
    if known is not None and known != _of_json(found):
        raise _damaged(path, f"content that fits its {NAME}", "other content", stage)
    return found


def write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Write a csv with `\\n` line ends, each line with its sum, whole or not at all."""
    start = _of_line(header, 0)
    with (
        atomic_files.replacing(path) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, NAME])
        for line in lines:
            fields = ["" if field is None else str(field) for field in line]
            writer.writerow([*fields, _hex(_of_line(fields, start))])


def read_csv(path: Path, stage: str) -> Iterator[list[str]]:
    """The header and the lines of a csv, without the sums, each line checked before it comes.

    Raises:
        UserError: nothing is there, no csv in UTF-8, or a line that does not fit its sum.
    """
    try:
        with atomic_files.require(path, stage).open(encoding="utf-8", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            if header[-1:] != [NAME]:
                yield header
                yield from lines
                return
            yield header[:-1]
            start = _of_line(header[:-1], 0)
            for line in lines:
                if line[-1:] != [_hex(_of_line(line[:-1], start))]:
                    where, got = f"{path} line {lines.line_num}", ",".join(line)
                    raise _damaged(where, f"fields that fit their {NAME}", got, stage)
                yield line[:-1]
    except (csv.Error, UnicodeDecodeError) as error:
        raise _damaged(path, "a csv in UTF-8", str(error), stage) from None


def _of_json(content: Mapping[str, object]) -> str:
    return _hex(zlib.crc32(json.dumps(content, sort_keys=True).encode()))


def _of_line(fields: Iterable[str], start: int) -> int:
    return zlib.crc32("\0".join(fields).encode(), start)


def _hex(number: int) -> str:
    return f"{number:08x}"


def _damaged(where: object, expected: str, got: str, stage: str) -> UserError:
    return UserError(f"{where}: expected {expected}, got {got!r}; run `dvc repro {stage}` again")
