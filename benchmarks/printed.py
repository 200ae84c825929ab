"""What stages and contenders print about themselves, read back."""

import re

_PASS = re.compile(r"^(.+): ([\d,]+) img in ([\d.]+) s(?: \(([\d,]+) img/s\))?$", re.M)
_COMPUTED = re.compile(r"([\d,]+) computed, [\d,]+ known before$", re.M)
_USAGE = re.compile(r"^(\w+): done in ([\d.]+) s, at most ([\d,]+) MiB$", re.M)


def images_per_second(printed: str) -> float:
    """Of the last pass, from `WHAT: 10,000 img in 71.0 s (141 img/s)`, by its finer figure.

    The seconds are off by 0.05 at most and the rate by 0.5, if it stands there.

    Raises:
        ValueError: no such line.
    """
    images, seconds, rate = _last_pass(printed)
    if rate is not None and (not seconds or 0.5 / max(rate, 1) < 0.05 / seconds):
        return rate
    return images / seconds


def rows_computed(printed: str) -> int:
    """How many rows a stage computed, since the row cache held the others.

    Raises:
        ValueError: it does not say so.
    """
    found = _COMPUTED.search(printed)
    if found is None:
        raise ValueError(f"expected `N computed, M known before`, got {printed[-200:]!r}")
    return int(_number(found[1]))


def passes(printed: str) -> dict[str, float]:
    """Seconds of each pass, by its name."""
    return {name: float(seconds) for name, _, seconds, _ in _PASS.findall(printed)}


def usage(printed: str) -> dict[str, tuple[float, float]]:
    """Seconds and MiB of each stage, from the line that it ends with."""
    return {name: (float(s), _number(mib)) for name, s, mib in _USAGE.findall(printed)}


def _last_pass(printed: str) -> tuple[int, float, float | None]:
    found = _PASS.findall(printed)
    if not found:
        raise ValueError(f"expected a line `WHAT: N img in T s`, got {printed[-200:]!r}")
    _, images, seconds, rate = found[-1]
    return int(_number(images)), float(seconds), _number(rate) if rate else None


def _number(text: str) -> float:
    return float(text.replace(",", ""))
