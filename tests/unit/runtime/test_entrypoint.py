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


@pytest.fixture(autouse=True)
def _program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stages/train_head.py"])


def status_of(error: BaseException | None) -> int:
    """Return the status of a command that raises."""

    @command
    def fail() -> None:
        if error is not None:
            raise error

    return fail()


@pytest.mark.parametrize(
    ("error", "status", "stderr"),
    [
        (None, 0, ""),
        (UserError("a: expected b, got c; do d"), 1, "error: a: expected b, got c; do d\n"),
        (UserError("one\ntwo\x1b[0m"), 1, "error: one\nerror: two\\x1b[0m\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; nothing half-written was kept\n"),
    ],
)
def test_the_status_and_the_sentence_are_those_of_the_error(
    error: BaseException | None, status: int, stderr: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(error) == status
    assert capsys.readouterr().err == stderr


@pytest.mark.parametrize(
    ("number", "expected", "remedy"),
    [
        (errno.EACCES, "a place to read or write", "check permissions"),
        (errno.EROFS, "a place to read or write", "check permissions"),
        (errno.ENOSPC, "room on the disk", "free some space and run again, nothing half-written"),
        (errno.EFBIG, "room on the disk", "raise the limit (`ulimit -f`), nothing half-written"),
        (errno.EMFILE, "to open one more file", "raise the limit (`ulimit -n`)"),
        (errno.EIO, "a disk that reads and writes", "nothing half-written was kept, see the"),
    ],
)
def test_a_disk_that_fails_is_one_sentence(
    number: int, expected: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(OSError(number, "any words", "data/out")) == 1
    sentence = f"error: data/out: expected {expected}, got {os.strerror(number)!r}; {remedy}"
    assert capsys.readouterr().err.startswith(sentence)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a fault of ours"),
        OSError(errno.ENOENT, "no such file"),
        RuntimeError("a ROOM of memory"),
    ],
)
def test_any_other_error_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        status_of(error)
    assert raised.value is error


@pytest.mark.parametrize(
    ("error", "got"),
    [
        (MemoryError(), "none left'"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory'"),
        (RuntimeError("CUDA out of memory. Tried to allocate\n2 GiB"), "CUDA out of memory. Tried"),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), "RESOURCE_EXHAUSTED"),
        (RuntimeError("OOM " + "x" * 900), "OOM " + "x" * 196 + "...'"),
    ],
)
def test_a_lack_of_memory_is_one_sentence(
    error: Exception, got: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(error) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: train_head: expected more memory, got '{got}")
    assert printed.endswith(f"'; {REMEDY}\n")


def test_numpy_without_memory_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(lambda: (np.empty(2**55), None)[1])() == 1
    printed = capsys.readouterr().err
    assert printed.startswith(
        "error: train_head: expected more memory, got 'Unable to allocate 256"
    )


@pytest.mark.slow
def test_tensorflow_without_memory_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    ops = pytest.importorskip("keras").ops
    assert command(lambda: (ops.zeros((2**25, 2**20)) + 1, None)[1])() == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: train_head: expected more memory, got '")
    assert "Traceback" not in lines


def test_a_file_with_the_name_of_a_lack_of_memory_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "OOM/out of memory.csv"
    assert status_of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)) == 1
    assert capsys.readouterr().err.startswith(f"error: {name}: expected room on the")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count the parent's memory")
def test_the_peak_memory_is_not_that_of_the_parent_process() -> None:
    own = np.ones(2**26)  # 512 MiB
    code = "from pipeline.runtime.entrypoint import peak_memory; print(peak_memory())"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert own.nbytes > 400 * 2**20 > int(ended.stdout) > 2**20
