"""What a user may set in the environment: nothing of it changes a result.

| variable | what |
|---|---|
| `STAGES_ROW_CACHE_GIB` | most disk space of the row cache `data/.rows/`, in GiB; 0 turns it off |
| `STAGES_CLUSTER` | address of a Dask scheduler whose workers do the work of `resize`, `extract` |
"""

import difflib
import math
import os
import sys

from stages.errors import UserError

ROW_CACHE = "STAGES_ROW_CACHE_GIB"
CLUSTER = "STAGES_CLUSTER"
OPTION = "--cluster"
ROW_CACHE_GIB = 16.0  # unless the variable says otherwise


def row_cache_bytes() -> int:
    """The row cache's budget.

    Raises:
        UserError: not a number, or below 0.
    """
    text = os.environ.get(ROW_CACHE, "")
    try:
        gibibytes = float(text) if text else ROW_CACHE_GIB
    except ValueError:
        gibibytes = math.nan
    if not 0 <= gibibytes * 2**30 < math.inf:
        raise UserError(
            f"{ROW_CACHE}: expected a number of GiB, 0 or more, got {text!r}; change or unset it"
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
        if name.startswith("STAGES_") and name not in (ROW_CACHE, CLUSTER):
            near = difflib.get_close_matches(name, (ROW_CACHE, CLUSTER), n=1, cutoff=0)
            raise UserError(
                f"{name}: expected one of {ROW_CACHE}, {CLUSTER}, got an unknown variable; "
                f"did you mean {near[0]}? Rename or unset it"
            )
    row_cache_bytes()
