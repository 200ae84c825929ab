"""Environment variables that a user may set (docs/scaling.md); none of them changes a result."""

import functools
import math
import os

from pipeline.runtime.errors import UserError, did_you_mean

ROW_CACHE, MEMORY, DISK = "STAGES_ROW_CACHE_GIB", "STAGES_MEMORY_GIB", "STAGES_DISK_GIB"
CLUSTER = "STAGES_CLUSTER"
GIBIBYTES = {ROW_CACHE: 16.0, MEMORY: 0.5, DISK: 50.0}  # defaults
KNOWN = (*GIBIBYTES, CLUSTER)


def cluster() -> str | None:
    """Return the address of a Dask scheduler, such as tcp://host:8786; None for no cluster."""
    return os.environ.get(CLUSTER) or None


def check() -> None:
    """Raise a `UserError` for an unknown `STAGES_*` variable, or a budget that is no number."""
    for name in sorted(os.environ):
        if name.startswith("STAGES_") and name not in KNOWN:
            hint = did_you_mean(name, KNOWN, "unset it")
            raise UserError(
                f"{name}: expected one of {', '.join(KNOWN)}, got an unknown variable; {hint}"
            )
    for variable in GIBIBYTES:
        _bytes(variable)


def _bytes(variable: str) -> int:
    text = os.environ.get(variable, "")
    try:
        gibibytes = float(text) if text else GIBIBYTES[variable]
    except ValueError:
        gibibytes = math.nan
    if not 0 <= gibibytes * 2**30 < math.inf:
        raise UserError(
            f"{variable}: expected a number of GiB, 0 or more, got {text!r}; change or unset it"
        )
    return int(gibibytes * 2**30)


# Budgets: of the row cache, of what training keeps in memory, of cached activations on disk.
row_cache_bytes = functools.partial(_bytes, ROW_CACHE)
memory_bytes = functools.partial(_bytes, MEMORY)
disk_bytes = functools.partial(_bytes, DISK)
