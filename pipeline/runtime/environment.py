"""What a user may set in the environment: nothing of it changes a result.

| variable | what |
|---|---|
| `STAGES_ROW_CACHE_GIB` | most disk space of the row cache `data/.rows/`, in GiB; 0 turns it off |
| `STAGES_MEMORY_GIB` | most memory for features or activations that training keeps, in GiB |
| `STAGES_DISK_GIB` | most disk space of the activations of `fine_tune.cache_frozen`, in GiB |
| `STAGES_CLUSTER` | address of a Dask scheduler whose workers do the work of `resize`, `extract` |
"""

import difflib
import math
import os
import sys

from pipeline.runtime.errors import UserError

ROW_CACHE = "STAGES_ROW_CACHE_GIB"
CLUSTER = "STAGES_CLUSTER"
OPTION = "--cluster"
MEMORY = "STAGES_MEMORY_GIB"
DISK = "STAGES_DISK_GIB"
GIBIBYTES = {ROW_CACHE: 16.0, MEMORY: 0.5, DISK: 50.0}  # unless the variable says otherwise
KNOWN = (*GIBIBYTES, CLUSTER)


def row_cache_bytes() -> int:
    """The row cache's budget."""
    return _bytes(ROW_CACHE)


def memory_bytes() -> int:
    """What training may keep in memory, beside a fixed buffer."""
    return _bytes(MEMORY)


def disk_bytes() -> int:
    """What cached activations may take on disk."""
    return _bytes(DISK)


def _bytes(variable: str) -> int:
    """A budget.

    Raises:
        UserError: not a number, or below 0.
    """
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


def cluster() -> str | None:
    """The address of a Dask scheduler, such as tcp://host:8786; None to work in this process.

    `--cluster ADDRESS` is taken off the command line; without it, the variable counts.

    Raises:
        UserError: no address behind `--cluster`, or an unknown `STAGES_*` variable.
    """
    check()
    if OPTION not in sys.argv:
        return os.environ.get(CLUSTER) or None
    at = sys.argv.index(OPTION)
    if at + 1 == len(sys.argv):
        raise UserError(
            f"{OPTION}: expected the address of a Dask scheduler behind it, got nothing; give one, "
            "such as tcp://host:8786"
        )
    address = sys.argv[at + 1]
    del sys.argv[at : at + 2]
    return address


def check() -> None:
    """Refuse a `STAGES_*` variable that nothing reads, as a slip of the pen would be."""
    for name in sorted(os.environ):
        if name.startswith("STAGES_") and name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0)
            raise UserError(
                f"{name}: expected one of {', '.join(KNOWN)}, got an unknown variable; "
                f"did you mean {near[0]}? Rename or unset it"
            )
    for variable in GIBIBYTES:
        _bytes(variable)
