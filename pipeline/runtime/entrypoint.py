"""Entry point of stages and commands: errors and exit codes.

A `UserError`, a full or faulty disk, a lack of memory and an operation that a GPU cannot repeat bit
for bit become one sentence on stderr and status 1, Ctrl-C becomes status 130. Anything else is a
fault of this program and keeps its traceback.
"""

import contextlib
import errno
import functools
import os
import re
import resource
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.runtime.errors import FULL, MEMORY, NO_PLACE, TOO_MANY, UserError

NO_MEMORY = re.compile(r"\bOOM\b|\bout of memory\b", re.IGNORECASE)
NO_KERNEL = re.compile(  # the words of TensorFlow's kernels
    r"deterministic GPU implementation of (.+?) (?:is )?not (?:currently )?available", re.IGNORECASE
)
MOST_SHOWN = 200  # characters of a library's message
KEPT = "nothing half-written was kept"
STORAGE = {  # by errno: what was expected, and the remedy
    **dict.fromkeys(FULL, ("room on the disk", f"free some space and run again, {KEPT}")),
    errno.EFBIG: ("room on the disk", f"raise the limit (`ulimit -f`), {KEPT}"),
    **dict.fromkeys(TOO_MANY, ("to open one more file", "raise the limit (`ulimit -n`)")),
    **dict.fromkeys(NO_PLACE, ("a place to read or write", "check permissions")),
    errno.EIO: (
        "a disk that reads and writes",
        f"{KEPT}, see the system's log for what the disk says",
    ),
}


def command(main: Callable[..., None]) -> Callable[..., int]:
    """Wrap `main`: return an exit status, and print one sentence where the input is at fault."""

    @functools.wraps(main)
    def run(*arguments: Any) -> int:
        _silence_h5py()
        try:
            main(*arguments)
        except UserError as error:
            _print(str(error))
            return 1
        except KeyboardInterrupt:
            _print(f"interrupted; {KEPT}")
            return 130
        except Exception as error:  # printed here, as HDF5 may crash once `error` is forgotten
            sentence = _sentence(error)
            if sentence is None:
                raise
            _print(sentence)
            return 1
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
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        if peak := re.search(r"VmHWM:\s*(\d+) kB", status):
            return int(peak[1]) * 1024
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib if sys.platform == "darwin" else kib * 1024  # macOS counts bytes


def _print(sentences: str) -> None:
    for sentence in sentences.splitlines():
        # A name or path could hold commands for a terminal.
        plain = (repr(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in sentence)
        print(f"error: {''.join(plain)}", file=sys.stderr)


def _sentence(error: Exception) -> str | None:
    """Return what memory, disk or GPU lack; None for a fault of this program."""
    number = error.errno if isinstance(error, OSError) else None
    words = "" if isinstance(error, OSError) else str(error)  # they may be a file's name
    # TensorFlow's and JAX' errors share no class, but the words.
    if isinstance(error, MemoryError) or number in MEMORY or NO_MEMORY.search(words):
        got = textwrap.shorten(str(error) or "none left", MOST_SHOWN, placeholder="...")
        return (
            f"{Path(sys.argv[0]).stem}: expected more memory, got {got!r}; end other programs, or "
            "lower STAGES_MEMORY_GIB or a batch_size in params.yaml"
        )
    if operation := NO_KERNEL.search(words):
        return (
            f"{Path(sys.argv[0]).stem}: expected operations with deterministic kernels, got "
            f"{operation[1]!r}, for which TensorFlow has none on a GPU; use compute.backend: jax "
            "(docs/gpu.md), or the processor (CUDA_VISIBLE_DEVICES=-1)"
        )
    if not isinstance(error, OSError) or number not in STORAGE:
        return None
    expected, remedy = STORAGE[number]
    got = os.strerror(number)  # HDF5's own text is a paragraph
    return f"{error.filename or 'the output'}: expected {expected}, got {got!r}; {remedy}"


@functools.cache
def _silence_h5py() -> None:
    """Keep h5py from printing a traceback for each part of a file that it could not write.

    It does so when the parts are garbage-collected, in addition to the error that it raises.
    """
    exception_hook, unraisable_hook = sys.excepthook, sys.unraisablehook

    def from_h5py(trace: TracebackType | None) -> bool:
        return trace is not None and trace.tb_frame.f_code.co_filename.startswith("h5py/")

    sys.excepthook = lambda kind, error, trace: (
        from_h5py(trace) or exception_hook(kind, error, trace)
    )
    sys.unraisablehook = lambda args: from_h5py(args.exc_traceback) or unraisable_hook(args)
