"""Renew the table of parameters in docs/parameters.md from the schema.

python tests/parameter_table.py
"""

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic.fields import FieldInfo

from pipeline.schema import Params, Section, sections

PAGE = Path(__file__).parents[1] / "docs" / "parameters.md"
BEGIN, END = "<!-- parameters: begin -->\n", "<!-- parameters: end -->\n"
WORDS = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`"}
LIMITS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}
LARGEST = 2**31  # of counts and seeds; not worth a word


def page() -> str:
    """Return docs/parameters.md with the table that the schema gives."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


def table() -> str:
    """Return all keys as Markdown, one table per section or kind of section."""
    lines = [""]
    for name, field in Params.model_fields.items():
        lines += [f"### `{name}`: {field.description}", ""]
        kinds = sections(field.annotation)
        for kind in kinds:
            lines += [kind.__doc__ or "", ""] if len(kinds) > 1 else []
            lines += ["| key | values | meaning |", "|---|---|---|"]
            lines += [*_rows(kind, f"{name}.NAME" if name == "backbones" else name), ""]
    return "\n".join(lines) + "\n"


def _rows(section: type[Section], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        nested = sections(field.annotation)
        values = "keys below" if nested else _values(field.annotation, field.metadata)
        values += "" if field.is_required() else "; optional"
        yield f"| `{prefix}.{name}` | {values} | {field.description} |"
        for kind in nested:
            yield from _rows(kind, f"{prefix}.{name}")


def _values(annotation: Any, metadata: list[Any]) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _values(parts[0], [*parts[1:], *metadata])
    if origin in (Union, types.UnionType):
        return " or ".join(_values(part, metadata) for part in parts if part is not type(None))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if origin is list:
        return f"list: {_values(parts[0], [])}"
    limits = [
        text.format(f"{limit:g}")
        for name, text in LIMITS.items()
        for part in metadata
        for one in (part.metadata if isinstance(part, FieldInfo) else [part])
        if (limit := getattr(one, name, LARGEST)) != LARGEST
    ]
    return " ".join([WORDS[annotation], *limits])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
