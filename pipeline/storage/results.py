"""Read and check the results that stages wrote to `metrics/`, for the report and comparisons.

Every fault is one sentence that names the file, the key and the stage to run again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

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
    FineTuned,
    Head,
    Intervals,
    Line,
    Results,
    Split,
)

T = TypeVar("T", bound=Content)
Bounds = Mapping[str, tuple[float, float]]  # (low, high) of a metric, by its dotted key


def read(metrics: Path, explained: Path) -> Results:
    """Read and check all results; `explained` is the folder of `explain.json`.

    Raises:
        UserError: a file is missing or does not hold what it should.
    """
    evaluated = _content(metrics / "evaluate.json", "evaluate", Evaluated)
    intervals = _content(metrics / "intervals.json", "evaluate", Intervals)
    _require_agreement(metrics / "intervals.json", evaluated, intervals)
    return Results(
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
    """Return the path of a picture that `explain.json` names.

    Raises:
        UserError: it lies outside of `folder`, or does not exist.
    """
    path, relative = folder / name, PurePosixPath(name)
    inside = path.resolve().is_relative_to(folder.resolve())
    if not inside or relative.is_absolute() or ".." in relative.parts or not path.is_file():
        raise UserError(
            f"{folder / 'explain.json'}: expected the path of a picture in {folder}, got {name!r}; "
            "run `dvc repro explain` again"
        )
    return path


def _content(path: Path, stage: str, kind: type[T]) -> T:
    try:
        return kind.model_validate_json(atomic_files.require(path, stage).read_bytes())
    except ValidationError as faults:
        fault = faults.errors()[0]
    location = ".".join(map(str, fault["loc"]))
    where = f"{path}: {location}" if location else path
    if fault["type"] == "json_invalid":
        expected, got = "JSON", fault["msg"].removeprefix("Invalid JSON: ")
    elif fault["type"] == "missing":
        expected, got = "this key", "nothing"
    else:
        value = repr(fault["input"])
        expected = fault["msg"].removeprefix("Input should be ")
        got = value if len(value) <= 80 else f"{value[:77]}..."
    raise UserError(f"{where}: expected {expected}, got {got}; run `dvc repro {stage}` again")


def _require_agreement(where: Path, evaluated: Evaluated, intervals: Intervals) -> None:
    """Require an interval for every metric, and the same subsets for all models."""
    for model in ("head", "fine_tune", "final"):
        metrics, bounds = getattr(evaluated, model), getattr(intervals, model)
        for subset in ("valid", *evaluated.final):
            if (
                subset not in metrics
                or subset not in bounds
                or not metrics[subset].per_class.keys() <= bounds[subset].per_class.keys()
            ):
                raise UserError(
                    f"{where}: expected intervals of {model} on {subset} for each class, as "
                    "evaluate.json has the final model's metrics there, got none or fewer; run "
                    "`dvc repro evaluate` again"
                )


def _lines(path: Path, name: str) -> Iterator[Line]:
    """Yield the lines of an audit's table, by column; numbers are checked, not converted."""
    columns, again = AUDIT_COLUMNS[name], "run `dvc repro audit` again"
    for where, fields in tables.read_rows(atomic_files.require(path, "audit"), columns, again):
        line = dict(zip(columns, fields, strict=True))
        numbers = [column for column in columns if column in NUMBERS]
        if not all(_finite(line[column]) for column in numbers):
            expected = f"numbers as {' and '.join(numbers)}"
            raise tables.unexpected(where, expected, ",".join(fields), again)
        yield line


def _finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def columns(path: Path, names: Sequence[str], numbers: bool) -> dict[str, list[Any]]:
    """Return columns of a csv from git, perhaps written by an older version of the project.

    Empty if there is no such file, or no line in it.

    Raises:
        UserError: a column is missing, or holds something else than numbers.
    """
    if not path.exists():
        return {}
    lines = tables.read_csv(path, "evaluate")
    try:
        return {
            name: [float(line[name]) if numbers else line[name] for line in lines]
            for name in (names if lines else ())
        }
    except (KeyError, ValueError):
        raise UserError(
            f"{path}: expected {'numbers' if numbers else 'names'} in the columns "
            f"{', '.join(names)}, got something else; restore it by git"
        ) from None


def intervals(path: Path) -> Bounds:
    """Return the interval of each metric in an `intervals.json` from git; none if it is missing.

    Raises:
        UserError: it is no JSON object.
    """
    waiting: list[tuple[str, Any]] = []
    if path.exists():
        waiting.append(("", tables.read_json(path, "evaluate")))
    bounds: dict[str, tuple[float, float]] = {}
    while waiting:
        prefix, section = waiting.pop()
        if isinstance(section, dict):
            waiting += [(f"{prefix}.{key}" if prefix else key, one) for key, one in section.items()]
        elif isinstance(section, list) and len(section) == 2:
            bounds[prefix] = (float(section[0]), float(section[1]))
    return bounds
