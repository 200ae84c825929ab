"""A disk that takes no more in the middle of `resize` or `extract`: one sentence, nothing lost."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # as `engine.start` would

import builtins
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from album import FEATURES, LEDGER, RESIZED, ROWS, WEIGHTS, Album, computed, contents, known

COMMANDS: dict[str, list[object]] = {
    "resize": [LEDGER, RESIZED],
    "extract": ["convnet", RESIZED, WEIGHTS, FEATURES],
}
FAULTS = {
    errno.ENOSPC: (
        "expected room on the disk, got 'No space left on device'; free some space and run again, "
        "nothing half-written was kept"
    ),
    errno.EROFS: (
        "expected a place to read or write, got 'Read-only file system'; check permissions"
    ),
}


def failing(number: int, at: int, below: str) -> Callable[..., Any]:
    """`open`, but from the `at`-th file on that is made below a folder it raises an errno."""
    opened, made = builtins.open, [0]

    def fail(file: Any, mode: str = "r", *words: Any, **named: Any) -> Any:
        if below in str(file) and ("w" in mode or "x" in mode):
            made[0] += 1
            if made[0] >= at:
                raise OSError(number, os.strerror(number), str(file))
        return opened(file, mode, *words, **named)

    return fail


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("stage", COMMANDS)
def test_a_disk_that_takes_no_fourth_file_is_one_sentence_and_the_next_run_goes_on(
    stage: str, number: int, album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two write the array's description and its sum, the third is its first shard."""
    album.split()
    album.fetch_weights()
    album.resize()
    album.extract()
    before = contents(Path(str(COMMANDS[stage][-1])))
    album.change({"resize": {"size": 32}} if stage == "resize" else {"extract": {"layer": "conv3"}})
    with monkeypatch.context() as changed:
        fail = failing(number, 4, ".partial-")
        changed.setattr("builtins.open", fail)
        changed.setattr("io.open", fail)
        told = album.fails(stage, *COMMANDS[stage])
    out = Path(str(COMMANDS[stage][-1]))
    assert told.startswith("error: ")
    assert told.endswith(f": {FAULTS[number]}\n")
    assert told.count("\n") == 1
    assert contents(out) == before
    assert list(Path("data").rglob(".partial-*")) == []
    printed = album.run(stage, *COMMANDS[stage])
    assert known(printed) > 0  # rows that were computed before the fault
    assert contents(out) != before
    assert contents(out) == album.fresh(stage, Path("data/fresh.zarr"))


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("stage", COMMANDS)
def test_a_disk_that_takes_no_cached_row_fails_no_run(
    stage: str, number: int, album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    album.split()
    album.fetch_weights()
    album.resize()
    monkeypatch.setattr("builtins.open", failing(number, 2, str(ROWS)))
    printed = album.run(stage, *COMMANDS[stage])
    assert computed(printed) + known(printed) == 18 * (2 if stage == "extract" else 1)
    assert contents(Path(str(COMMANDS[stage][-1]))) == album.fresh(stage, Path("data/fresh.zarr"))
