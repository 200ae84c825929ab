"""Reads and checks what the stages have found, for the report.

`split.json`, `head.json`, `fine_tune.json`, `evaluate.json`, `intervals.json`, `audit.json`,
`audit/*.csv` and `pictures/*.png` of one folder, and `explain.json` of another. A file that lacks
something, or holds something else, is told in one sentence.
"""

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import ValidationError

from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.storage import tables
from pipeline.storage.results_schema import (
    AUDIT_COLUMNS,
    NUMBERS,
    Audit,
    Content,
    Evaluated,
    Explained,
    Findings,
    FineTuned,
    Head,
    Intervals,
    Line,
    Split,
)

T = TypeVar("T", bound=Content)


def read(metrics: Path, explained: Path) -> Findings:
    """Read and check all of it.

    Raises:
        UserError: a file that is not there, or does not hold what it should.
    """
    evaluated = _content(metrics / "evaluate.json", "evaluate", Evaluated)
    intervals = _content(metrics / "intervals.json", "evaluate", Intervals)
    _require_agreement(metrics / "intervals.json", evaluated, intervals)
    return Findings(
        _content(metrics / "split.json", "split", Split),
        _content(metrics / "head.json", "train_head", Head),
        _content(metrics / "fine_tune.json", "fine_tune", FineTuned),
        evaluated,
        intervals,
        _content(metrics / "audit.json", "audit", Audit),
        {name: list(_lines(metrics / "audit" / f"{name}.csv", name)) for name in AUDIT_COLUMNS},
        sorted(atomic_files.require(metrics / "pictures", "evaluate").glob("*.png")),
        _content(explained / "explain.json", "explain", Explained),
    )


def picture(folder: Path, name: str) -> Path:
    """The picture that `explain.json` names.

    Raises:
        UserError: it lies outside of `folder`, or is not there.
    """
    where, path = folder / "explain.json", folder / name
    inside = path.resolve().is_relative_to(folder.resolve())
    if not inside or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise UserError(
            f"{where}: expected the paths of pictures inside {folder}, got {name!r}; "
            "run `dvc repro explain` again"
        )
    if not path.is_file():
        raise UserError(
            f"{where}: expected a picture at {path}, got no such file; "
            "run `dvc repro explain` again"
        )
    return path


def _content(path: Path, stage: str, kind: type[T]) -> T:
    try:
        return kind.model_validate_json(atomic_files.require(path, stage).read_bytes())
    except ValidationError as faults:
        fault = faults.errors()[0]
    key = "".join(f"{part}: " for part in [".".join(map(str, fault["loc"]))] if part)
    if fault["type"] == "json_invalid":
        expected, got = "JSON", fault["msg"].removeprefix("Invalid JSON: ")
    elif fault["type"] == "missing":
        expected, got = "this key", "nothing"
    else:
        expected, got = fault["msg"].removeprefix("Input should be "), _shortened(fault["input"])
    raise UserError(
        f"{path}: {key}expected {expected}, got {got}; run `dvc repro {stage}` again"
    ) from None


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _require_agreement(where: Path, evaluated: Evaluated, intervals: Intervals) -> None:
    """Every figure needs its interval; all models are scored on the same subsets."""
    scored = evaluated.final.keys()
    for model in ("head", "fine_tune", "final"):
        figures, bounds = getattr(evaluated, model), getattr(intervals, model)
        for subset in ("valid", *scored):
            if subset not in figures or subset not in bounds:
                raise UserError(
                    f"{where}: expected intervals of {model} on {subset}, as evaluate.json has "
                    "the final model's figures there, got none; run `dvc repro evaluate` again"
                )
            if not figures[subset].per_class.keys() <= bounds[subset].per_class.keys():
                raise UserError(
                    f"{where}: expected intervals of {model} on {subset} for each class of "
                    "evaluate.json, got fewer; run `dvc repro evaluate` again"
                )


def _lines(path: Path, name: str) -> Iterator[Line]:
    """The lines of an audit's table, in order."""
    header, again = AUDIT_COLUMNS[name], "run `dvc repro audit` again"
    numbers = " and ".join(column for column in header if column in NUMBERS)
    expected = f"{len(header)} fields" + (f" with numbers as {numbers}" if numbers else "")
    lines = tables.read_lines(path, "audit")
    got = next(lines)
    if tuple(got) != header:
        raise UserError(
            f"{path}: expected the columns {','.join(header)}, got {','.join(got)!r}; {again}"
        )
    for number, values in enumerate(lines, start=2):
        line = dict(zip(header, values, strict=False))
        if len(values) != len(header) or not all(map(_number, line.items())):
            raise UserError(
                f"{path} line {number}: expected {expected}, got {','.join(values)!r}; {again}"
            )
        yield line


def _number(field: tuple[str, str]) -> bool:
    """Whether a field is a finite number, or need not be one."""
    try:
        return field[0] not in NUMBERS or math.isfinite(float(field[1]))
    except ValueError:
        return False
