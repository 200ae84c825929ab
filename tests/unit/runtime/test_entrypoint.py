"""Errors become a sentence and an exit status; a fault of the program keeps its traceback."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from project import ROOT

from pipeline.runtime.entrypoint import command
from pipeline.runtime.errors import UserError

REMEDY = "end other programs, or lower STAGES_MEMORY_GIB or a batch_size in params.yaml"
NOTHING = "nothing half-written was kept"


@pytest.fixture(autouse=True)
def _program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stages/train_head.py"])


@command
def fail(error: BaseException | None) -> None:
    if error is not None:
        raise error


def on_disk(number: int, expected: str, remedy: str) -> tuple[OSError, int, str]:
    """A failing disk, and what is printed; a file's name is no lack of memory."""
    name = "OOM/out of memory.csv"
    sentence = f"error: {name}: expected {expected}, got {os.strerror(number)!r}; {remedy}\n"
    return OSError(number, "any words", name), 1, sentence


def no_memory(error: Exception, got: str) -> tuple[Exception, int, str]:
    return error, 1, f"error: train_head: expected more memory, got '{got}'; {REMEDY}\n"


@pytest.mark.parametrize(
    ("error", "status", "stderr"),
    [
        (None, 0, ""),
        (UserError("a: expected b, got c; do d"), 1, "error: a: expected b, got c; do d\n"),
        (UserError("one\ntwo\x1b[0m"), 1, "error: one\nerror: two\\x1b[0m\n"),
        (KeyboardInterrupt(), 130, f"error: interrupted; {NOTHING}\n"),
        on_disk(errno.EACCES, "a place to read or write", "check permissions"),
        on_disk(errno.EROFS, "a place to read or write", "check permissions"),
        on_disk(errno.ENOSPC, "room on the disk", f"free some space and run again, {NOTHING}"),
        on_disk(errno.EFBIG, "room on the disk", f"raise the limit (`ulimit -f`), {NOTHING}"),
        on_disk(errno.EMFILE, "to open one more file", "raise the limit (`ulimit -n`)"),
        on_disk(
            errno.EIO,
            "a disk that reads and writes",
            f"{NOTHING}, see the system's log for what the disk says",
        ),
        no_memory(MemoryError(), "none left"),
        no_memory(OSError(errno.ENOMEM, "none at all"), f"[Errno {errno.ENOMEM}] none at all"),
        no_memory(RuntimeError("CUDA out of memory.\n2 GiB\x1b"), "CUDA out of memory. 2 GiB\\x1b"),
        (
            RuntimeError(
                "{{function_node f}} A deterministic GPU implementation of "
                "DepthwiseConvBackpropFilter is not currently available. [Op:g]"
            ),
            1,
            "error: train_head: expected operations with deterministic kernels, got "
            "'DepthwiseConvBackpropFilter', for which TensorFlow has none on a GPU; use "
            "compute.backend: jax (docs/gpu.md), or the processor (CUDA_VISIBLE_DEVICES=-1)\n",
        ),
        no_memory(RuntimeError("OOM " + "x " * 900), "OOM " + "x " * 96 + "x..."),
    ],
)
def test_the_status_and_the_sentence_are_those_of_the_error(
    error: BaseException | None, status: int, stderr: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (fail(error), capsys.readouterr().err) == (status, stderr)


@pytest.mark.parametrize(
    "error",
    [ValueError("our fault"), OSError(errno.ENOENT, "no file"), RuntimeError("a ROOM of memory")],
)
def test_any_other_error_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        fail(error)
    assert raised.value is error


@pytest.mark.slow
def test_tensorflow_without_memory_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    ops = pytest.importorskip("keras").ops
    assert command(lambda: (ops.zeros((2**25, 2**20)) + 1, None)[1])() == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: train_head: expected more memory, got '")
    assert "Traceback" not in lines


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count the parent's memory")
def test_the_peak_memory_is_not_that_of_the_parent_process() -> None:
    own = np.ones(2**26)  # 512 MiB
    code = "from pipeline.runtime.entrypoint import peak_memory; print(peak_memory())"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert own.nbytes > 400 * 2**20 > int(ended.stdout) > 2**20
