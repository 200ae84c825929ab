"""Markdown tables of medians."""

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float]) -> str:
    """The median, and behind it the range if there are several: `141 (138..143)`."""
    if len(values) == 1:
        return number(values[0])
    return f"{number(statistics.median(values))} ({number(min(values))}..{number(max(values))})"


def ratio(values: Sequence[float], reference: Sequence[float]) -> str:
    """The median of the ratios within each round, or a dash where the reference has no rounds."""
    if not values or len(values) != len(reference):
        return "-"
    return f"{number(statistics.median(a / b for a, b in zip(values, reference, strict=True)))} x"


def number(value: float) -> str:
    """With three digits, or all of those before the point."""
    if value == 0:
        return "0"
    digits = max(0, 2 - _exponent(value))
    return f"{value:,.{digits}f}"


def counted(count: int, what: str) -> str:
    """`1 round`, `5 rounds`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; every row has as many cells as the header."""
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"expected {len(header)} cells, got {list(row)}")
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _exponent(value: float) -> int:
    return int(f"{value:.2e}".partition("e")[2])
