"""Read the results that stages wrote to `metrics/`, for the report and comparisons.

Every fault is one sentence that names the file and the stage to run again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.runtime.links import leads_out
from pipeline.storage import tables

AUDIT_COLUMNS = {
    "labels": ("member", "source", "subset", "label", "suggested", "margin", "likely"),
    "outliers": ("member", "source", "subset", "label", "isolation"),
    "light": ("member", "source", "subset", "fault", "mean", "spread", "sharpness"),
    "copies": ("member", "source", "subset", "group", "label"),
    "alike": (
        *("member", "source", "subset", "label"),
        *("other", "other_source", "other_subset", "other_label", "likeness"),
    ),
}
NUMBERS = ("margin", "isolation", "mean", "spread", "sharpness", "likeness")

# (low, high) of a metric by its dotted key, or None if its images do not give an interval
Bounds = Mapping[str, tuple[float, float] | None]


def read(metrics: Path, explained: Path) -> dict[str, Any]:
    """Read all results; `explained` is the folder of `explain.json`.

    The lines of the audit's tables are by the names in `AUDIT_COLUMNS`.
    """
    return {
        "split": tables.read_json(metrics / "split.json", "split"),
        "head": tables.read_json(metrics / "head.json", "train_head"),
        "fine_tuned": tables.read_json(metrics / "fine_tune.json", "fine_tune"),
        "evaluated": tables.read_json(metrics / "evaluate.json", "evaluate"),
        "intervals": tables.read_json(metrics / "intervals.json", "evaluate"),
        "audit": tables.read_json(metrics / "audit.json", "audit"),
        "tables": {
            name: list(_lines(metrics / "audit" / f"{name}.csv", name)) for name in AUDIT_COLUMNS
        },
        "plots": sorted(atomic_files.require(metrics / "pictures", "evaluate").glob("*.png")),
        "explained": tables.read_json(explained / "explain.json", "explain"),
    }


def pictures(folder: Path, explained: Mapping[str, Any]) -> dict[str, Path]:
    """Return the path of each picture that `explain.json` names; each has to be in `folder`."""
    shown = [image for gallery in explained["galleries"] for image in gallery["images"]]
    activations = explained["activations"] or {"picture": None, "layers": []}
    layers = [*activations["layers"], *explained["filters"]]
    names = [name for image in shown for name in (image["picture"], image["heatmap"])]
    names += [activations["picture"], *(layer["picture"] for layer in layers)]
    return {name: _inside(folder, name) for name in names if name is not None}


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    outside = Path(name).is_absolute() or ".." in Path(name).parts or leads_out(path, folder)
    if outside or not path.is_file():
        raise UserError(
            f"{folder / 'explain.json'}: expected the path of a picture in {folder}, got {name!r}; "
            "run `dvc repro explain` again"
        )
    return path


def _lines(path: Path, name: str) -> Iterator[dict[str, str]]:
    """Yield the lines of an audit's table, by column; numbers are checked, not converted."""
    columns, again = AUDIT_COLUMNS[name], "run `dvc repro audit` again"
    for where, fields in tables.read_rows(atomic_files.require(path, "audit"), columns, again):
        line = dict(zip(columns, fields, strict=True))
        numbers = [column for column in columns if column in NUMBERS]
        try:
            finite = all(math.isfinite(float(line[column])) for column in numbers)
        except ValueError:
            finite = False
        if not finite:
            expected = f"numbers as {' and '.join(numbers)}"
            raise tables.unexpected(where, expected, ",".join(fields), again)
        yield line


def columns(path: Path, names: Sequence[str], numbers: bool) -> dict[str, list[Any]]:
    """Return columns of a csv from git, perhaps written by an older version of the project.

    Empty if there is no such file, or no line in it.
    """
    lines = tables.read_csv(path, "evaluate") if path.exists() else []
    convert = float if numbers else str
    try:
        return {name: [convert(line[name]) for line in lines] for name in (names if lines else ())}
    except (KeyError, ValueError):
        raise UserError(
            f"{path}: expected {'numbers' if numbers else 'names'} in the columns "
            f"{', '.join(names)}, got something else; restore it by git"
        ) from None


def intervals(path: Path) -> Bounds:
    """Return the interval of each metric in an `intervals.json` from git; none if it is missing."""
    waiting = [("", tables.read_json(path, "evaluate"))] if path.exists() else []
    bounds: dict[str, tuple[float, float] | None] = {}
    while waiting:
        prefix, section = waiting.pop()
        for key, value in section.items():
            if isinstance(value, dict):
                waiting.append((f"{prefix}{key}.", value))
            elif isinstance(value, list) and len(value) == 2:
                bounds[prefix + key] = (float(value[0]), float(value[1]))
            elif value is None:
                bounds[prefix + key] = None
    return bounds
