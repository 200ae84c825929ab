"""How a script runs: what it prints at its end, and how it ends when something is wrong."""

import contextlib
import ctypes
import errno
import functools
import os
import re
import resource
import signal
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from pipeline.runtime import atomic_files, machine
from pipeline.runtime.errors import FULL, MEMORY, NO_PLACE, TOO_MANY, UserError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
M_ARENA_MAX = -8  # glibc's malloc.h
NO_MEMORY = re.compile(r"\bOOM\b|\bout of memory\b", re.IGNORECASE)
MOST_TOLD = 200  # characters of what a library tells
STORAGE = (*FULL, *NO_PLACE, *TOO_MANY, errno.EIO)


def script(main: Callable[[], None]) -> Callable[[], int]:
    """Wrap a script's `main`: a fault in its input becomes one sentence.

    A `UserError`, a full or faulty disk and a lack of memory become one line on stderr and status
    1, Ctrl-C status 130.
    Anything else is a fault of this program and keeps its traceback.
    """

    @functools.wraps(main)
    def run() -> int:
        hooks = sys.excepthook, sys.unraisablehook
        _without_hdf5(*hooks)
        try:
            main()
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


def stage(main: Callable[[], None]) -> Callable[[], int]:
    """Like `script`, for a stage of the DAG: it works alone, and tells its time and memory.

    A second process that runs the same stage in this folder is refused, since each would take the
    other's outputs for its own. On Linux a stage that DVC has started ends when DVC is killed.
    """

    @functools.wraps(main)
    def timed() -> None:
        started = time.perf_counter()
        _end_with_dvc()
        _few_arenas()
        Path("data").mkdir(exist_ok=True)
        with atomic_files.only_writer(Path("data", Path(sys.argv[0]).stem)):
            main()
        if "DVC_STAGE" in os.environ:
            machine.record(os.environ["DVC_STAGE"])
        seconds, mebibytes = time.perf_counter() - started, peak_memory() / 2**20
        print(f"{Path(sys.argv[0]).stem}: done in {seconds:.1f} s, at most {mebibytes:,.0f} MiB")

    return script(timed)


def arguments(usage: str | None, *, count: int) -> list[str]:
    """The command line's arguments, exactly `count`; `usage` is the script's docstring.

    Raises:
        UserError: another number of them.
    """
    given = sys.argv[1:]
    if len(given) != count:
        command = " ".join((usage or "").partition("    python -m")[2].partition("\n\n")[0].split())
        raise UserError(
            f"{Path(sys.argv[0]).stem}: expected {count} arguments, got {len(given)}; call it as "
            f"python -m {command}".replace(" \\", "")
        )
    return given


def backbone_of(text: str) -> str:
    """The backbone that a command line names: by its name, or as DVC_STAGE does, `extract@NAME`."""
    return text.rpartition("@")[2]


def named(path: str, names: Sequence[str]) -> str:
    """A path with the first of the names for `[0]`, and the last one for `[-1]`.

    `dvc.yaml` writes paths so, since a shell would run what a name from `params.yaml` hides.
    """
    return path.replace("[0]", names[0]).replace("[-1]", names[-1])


def one_each(names: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
    """The path of each backbone; a path that is named again, since DVC names two, counts once.

    Raises:
        UserError: another number of them.
    """
    different = list(dict.fromkeys(named(path, names) for path in paths))
    if len(different) != len(names):
        raise UserError(
            f"{Path(sys.argv[0]).stem}: expected a path for each of train_head.backbones "
            f"({', '.join(names)}), got {', '.join(different)}; name them in that order"
        )
    return dict(zip(names, different, strict=True))


@contextlib.contextmanager
def quiet_if_nobody_reads() -> Iterator[None]:
    """End without a traceback where the reader of a pipe has gone, such as `head`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def peak_memory() -> int:
    """The most memory that this process has held at one time, in bytes."""
    with contextlib.suppress(OSError):  # Linux; `ru_maxrss` begins with what the parent held
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # KiB but on macOS


def _plain(sentence: str) -> str:
    """Without control characters: a name or path could hold what commands a terminal."""
    return "".join(
        repr(character)[1:-1] if unicodedata.category(character) == "Cc" else character
        for character in sentence
    )


def _without_hdf5(
    shown: Callable[[type[BaseException], BaseException, TracebackType | None], object],
    unraisable: Callable[["sys.UnraisableHookArgs"], object],
) -> None:
    """Keep h5py from telling, with tracebacks, each part of a file that it could not write.

    It does so beside the error that it raises, when the parts are given back.
    """

    def of_h5py(trace: TracebackType | None) -> bool:
        return trace is not None and trace.tb_frame.f_code.co_filename.startswith("h5py/")

    sys.excepthook = lambda kind, error, trace: of_h5py(trace) or shown(kind, error, trace)
    sys.unraisablehook = lambda told: of_h5py(told.exc_traceback) or unraisable(told)


def _end_with_dvc() -> None:
    """Let the kernel send SIGTERM to this process when `dvc`, which started it, is gone.

    Otherwise it would outlive a killed `dvc repro`. A stage started by hand may outlive its shell.

    Raises:
        UserError: it is gone already, and the process an orphan, adopted by the first process.
    """
    if sys.platform != "linux" or "DVC_STAGE" not in os.environ:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1 and b"dvc" not in Path("/proc/1/cmdline").read_bytes():
        raise UserError(
            "dvc: expected it to wait for this stage, got an end of it; run `dvc repro` again"
        )


def _few_arenas() -> None:
    """Keep glibc from giving every thread a heap of its own, which holds on to what was freed.

    With two, `extract` takes 200 MiB less, and no longer. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 2)


def _is_lack_of_memory(error: Exception) -> bool:
    """Also TensorFlow's, JAX' and PyTorch's, which have no class in common, but the words."""
    if isinstance(error, OSError):  # whose words may be a file's name
        return error.errno in MEMORY
    return isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))


def _memory_sentence(error: Exception) -> str:
    told = getattr(error, "strerror", None) or str(error).strip() or "none left"
    told = _plain(told.splitlines()[0])
    told = told if len(told) <= MOST_TOLD else f"{told[:MOST_TOLD]}..."
    return (
        f"{Path(sys.argv[0]).stem}: expected more memory, got {told!r}; end other programs, or "
        "lower STAGES_MEMORY_GIB or a batch_size in params.yaml"
    )


def _storage_sentence(error: OSError) -> str:
    where = str(error.filename or "the output")
    told = os.strerror(error.errno or 0)  # HDF5's own is a paragraph
    if error.errno in FULL:
        remedy = "free some space and run again, nothing half-written was kept"
        if error.errno == errno.EFBIG:
            remedy = f"raise the limit (`ulimit -f`), {remedy.partition(', ')[2]}"
        return f"{where}: expected room on the disk, got {told!r}; {remedy}"
    if error.errno in TOO_MANY:
        return (
            f"{where}: expected to open one more file, got {told!r}; raise the limit (`ulimit -n`)"
        )
    if error.errno == errno.EIO:
        return (
            f"{where}: expected a disk that reads and writes, got {told!r}; nothing half-written "
            "was kept, see the system's log for what the disk says"
        )
    return f"{where}: expected a place to read or write, got {told!r}; check permissions"
