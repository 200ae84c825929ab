"""Curves and intervals as git keeps them; an older version of the project may have written them."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.runtime.errors import UserError

Intervals = Mapping[str, tuple[float, float]]
Both = tuple[Intervals, Intervals]


def columns(path: Path, names: Sequence[str], numbers: bool) -> dict[str, list[float] | list[str]]:
    """The columns of those names of a csv; empty if there is no such file, or no line in it.

    Raises:
        UserError: a column is missing, or what should be numbers is not.
    """
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    found: dict[str, list[float] | list[str]] = {}
    for name in names if lines else ():
        try:
            texts = [line[name] for line in lines]
            found[name] = [float(text) for text in texts] if numbers else texts
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{path}: expected {'numbers' if numbers else 'names'} in the columns "
                f"{', '.join(names)}, got something else; restore it by git"
            ) from None
    return found


def intervals(path: Path) -> Intervals:
    """The interval of each figure in `metrics/evaluate.json`, by its key with dots; empty without.

    Raises:
        UserError: it is no JSON.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(
            f"{path}: expected JSON, got something else; restore it by git, or run `dvc repro`"
        ) from None
    found: dict[str, tuple[float, float]] = {}
    waiting = [("", content)]
    while waiting:
        prefix, section = waiting.pop()
        if isinstance(section, dict):
            waiting += [(f"{prefix}.{key}" if prefix else key, one) for key, one in section.items()]
        elif isinstance(section, list) and len(section) == 2:
            found[prefix] = (float(section[0]), float(section[1]))
    return found
