"""Faults that a user can fix, hints to fix them, and system errors that are not a file's damage."""

import difflib
import errno
from collections.abc import Iterable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MEMORY = (errno.ENOMEM,)
TOO_MANY = (errno.EMFILE, errno.ENFILE)
NO_PLACE = (errno.EROFS, errno.EACCES, errno.EPERM)


class UserError(Exception):
    """A fault in the input, the parameters or the machine, which the user can fix.

    The message is one sentence, *where: expected X, got Y; what to do*.
    """


class Unreadable(Exception):  # noqa: N818  a result about one file, not an error of the run
    """A file that gives no image; the message is a short reason, the same in every run."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return a hint at the known name that is like `name` in any case; `otherwise` if none is."""
    by_letters = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), by_letters, n=1)
    return f"did you mean {by_letters[near[0]]!r}?" if near else otherwise


def nearest(name: str, known: Iterable[str]) -> str:
    """List the three known names that are most like `name`."""
    return ", ".join(difflib.get_close_matches(name, [*known], n=3, cutoff=0))


def of_the_machine(error: Exception, path: object) -> bool:
    """Return whether memory, disk or permissions failed while `path` was read.

    Readers that treat any exception as damage have to raise these again, as removing the file would
    not help. An `OSError` without a file name gets that of `path`.
    """
    if isinstance(error, OSError) and error.errno in (errno.EIO, *MEMORY, *TOO_MANY, *NO_PLACE):
        error.filename = error.filename or str(path)
        return True
    return isinstance(error, MemoryError)
