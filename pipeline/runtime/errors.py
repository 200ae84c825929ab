"""Faults that a user can fix, and system errors that are not damage of a file."""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MEMORY = (errno.ENOMEM,)
TOO_MANY = (errno.EMFILE, errno.ENFILE)
NO_PLACE = (errno.EROFS, errno.EACCES, errno.EPERM)


class UserError(Exception):
    """A fault in the input, the parameters or the machine, which the user can fix.

    The message is one sentence, *where: expected X, got Y; what to do*.
    """


def of_the_machine(error: Exception, path: object) -> bool:
    """Return whether memory, disk or permissions failed while `path` was read.

    Readers that treat any exception as damage have to raise these again, as removing the file would
    not help. An `OSError` without a file name gets that of `path`.
    """
    if isinstance(error, OSError) and error.errno in (errno.EIO, *MEMORY, *TOO_MANY, *NO_PLACE):
        error.filename = error.filename or str(path)
        return True
    return isinstance(error, MemoryError)
