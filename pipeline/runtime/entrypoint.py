"""Entry point of stages and commands: errors and exit codes.

A `UserError`, a full or faulty disk and a lack of memory become one sentence on stderr and status
1, Ctrl-C becomes status 130. Anything else is a fault of this program and keeps its traceback.
"""

import contextlib
import errno
import functools
import os
import re
import resource
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.runtime.errors import FULL, MEMORY, NO_PLACE, TOO_MANY, UserError

NO_MEMORY = re.compile(r"\bOOM\b|\bout of memory\b", re.IGNORECASE)
MOST_SHOWN = 200  # characters of a library's message
STORAGE = (*FULL, *NO_PLACE, *TOO_MANY, errno.EIO)


def command(main: Callable[..., None]) -> Callable[..., int]:
    """Wrap `main`: return an exit status, and print one sentence where the input is at fault."""

    @functools.wraps(main)
    def run(*arguments: Any) -> int:
        hooks = sys.excepthook, sys.unraisablehook
        _silence_h5py(*hooks)
        try:
            main(*arguments)
        except UserError as error:
            for sentence in str(error).splitlines():
                print(f"error: {_plain(sentence)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("error: interrupted; nothing half-written was kept", file=sys.stderr)
            return 130
        except Exception as error:
            if _is_lack_of_memory(error):
                print(f"error: {_memory_sentence(error)}", file=sys.stderr)
                return 1
            if not isinstance(error, OSError) or error.errno not in STORAGE:
                raise
            print(f"error: {_storage_sentence(error)}", file=sys.stderr)
            hooks = sys.excepthook, sys.unraisablehook  # kept: HDF5 goes on until the process ends
            return 1
        finally:
            sys.excepthook, sys.unraisablehook = hooks
        return 0

    return run


@contextlib.contextmanager
def quiet_if_nobody_reads() -> Iterator[None]:
    """End without a traceback when the reader of a pipe, such as `head`, is gone."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def peak_memory() -> int:
    """Return the most memory that this process has held at one time, in bytes."""
    with contextlib.suppress(OSError):  # Linux; `ru_maxrss` begins with what the parent held
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # KiB except on macOS


def _plain(sentence: str) -> str:
    """Escape control characters: a name or path could hold commands for a terminal."""
    return "".join(
        repr(character)[1:-1] if unicodedata.category(character) == "Cc" else character
        for character in sentence
    )


def _silence_h5py(
    exception_hook: Callable[[type[BaseException], BaseException, TracebackType | None], object],
    unraisable_hook: Callable[["sys.UnraisableHookArgs"], object],
) -> None:
    """Keep h5py from printing a traceback for each part of a file that it could not write.

    It does so when the parts are garbage-collected, in addition to the error that it raises.
    """

    def from_h5py(trace: TracebackType | None) -> bool:
        return trace is not None and trace.tb_frame.f_code.co_filename.startswith("h5py/")

    sys.excepthook = lambda kind, error, trace: (
        from_h5py(trace) or exception_hook(kind, error, trace)
    )
    sys.unraisablehook = lambda args: from_h5py(args.exc_traceback) or unraisable_hook(args)


def _is_lack_of_memory(error: Exception) -> bool:
    """Recognize also TensorFlow's and JAX' errors, which share no class, but the words."""
    if isinstance(error, OSError):  # its words may be a file's name
        return error.errno in MEMORY
    return isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))


def _memory_sentence(error: Exception) -> str:
    got = getattr(error, "strerror", None) or str(error).strip() or "none left"
    got = _plain(got.splitlines()[0])
    got = got if len(got) <= MOST_SHOWN else f"{got[:MOST_SHOWN]}..."
    return (
        f"{Path(sys.argv[0]).stem}: expected more memory, got {got!r}; end other programs, or "
        "lower STAGES_MEMORY_GIB or a batch_size in params.yaml"
    )


def _storage_sentence(error: OSError) -> str:
    where = str(error.filename or "the output")
    got = os.strerror(error.errno or 0)  # HDF5's own text is a paragraph
    if error.errno in FULL:
        remedy = "free some space and run again, nothing half-written was kept"
        if error.errno == errno.EFBIG:
            remedy = f"raise the limit (`ulimit -f`), {remedy.partition(', ')[2]}"
        return f"{where}: expected room on the disk, got {got!r}; {remedy}"
    if error.errno in TOO_MANY:
        return (
            f"{where}: expected to open one more file, got {got!r}; raise the limit (`ulimit -n`)"
        )
    if error.errno == errno.EIO:
        return (
            f"{where}: expected a disk that reads and writes, got {got!r}; nothing half-written "
            "was kept, see the system's log for what the disk says"
        )
    return f"{where}: expected a place to read or write, got {got!r}; check permissions"
