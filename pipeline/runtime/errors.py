"""What a person is told when a stage cannot go on."""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MEMORY = (errno.ENOMEM,)
TOO_MANY = (errno.EMFILE, errno.ENFILE)
NO_PLACE = (errno.EROFS, errno.EACCES, errno.EPERM)


class UserError(Exception):
    """A fault in the input, the parameters or the machine, told as one sentence.

    The message has the form *where: expected X, got Y; what to do*.
    """


def of_the_machine(error: Exception, path: object) -> bool:
    """Whether memory, disk or permissions failed while `path` was read, not what it holds.

    Who reads a file that may be damaged in any way lets these errors pass: removing the file, which
    is the remedy for damage, would be none. An `OSError` without a name is given that of `path`.
    """
    if isinstance(error, OSError) and error.errno in (errno.EIO, *MEMORY, *TOO_MANY, *NO_PLACE):
        error.filename = error.filename or str(path)
        return True
    return isinstance(error, MemoryError)
