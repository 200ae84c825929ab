"""What a person is told when a stage cannot go on: one sentence, exit code 1, no traceback."""

import errno
import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """A fault in the input, the parameters or the machine, told as one sentence.

    The message has the form *where: expected X, got Y; what to do*.
    """


def reports_errors(main: Callable[[], None]) -> Callable[[], int]:
    """Wrap a script's `main`: a `UserError` or a full disk becomes one line on stderr, status 1.

    Ctrl-C gives status 130. Anything else is a fault of this program and keeps its traceback.
    """

    @functools.wraps(main)
    def run() -> int:
        try:
            main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("error: interrupted; nothing half-written was kept", file=sys.stderr)
            return 130
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise
            print(f"error: {_storage_sentence(error)}", file=sys.stderr)
            return 1
        return 0

    return run


def _storage_sentence(error: OSError) -> str:
    where = str(error.filename or "the output")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space and run again, nothing half-written was kept"
        return f"{where}: expected room on the disk, got {error.strerror!r}; {remedy}"
    return f"{where}: expected a place to read or write, got {error.strerror!r}; check permissions"
