"""A disk that takes no more in the middle of `resize` or `extract`: one sentence, nothing lost."""

import builtins
import errno
import os
from collections.abc import Callable
from typing import Any

import pytest
from album import FEATURES, RESIZED, ROWS, Album, computed, contents, known
from torture import strays

OUT = {"resize": RESIZED, "extract": FEATURES}
WORDS = {"resize": ["resize"], "extract": ["extract", "convnet"]}
REMEDY = {errno.ENOSPC: "; free some space and run again, ", errno.EROFS: "; check permissions"}


@pytest.fixture
def resized(album: Album) -> Album:
    """The project after `resize`."""
    album.split()
    album.resize()
    return album


def failing_open(number: int, at: int, below: str) -> Callable[..., Any]:
    """Return an `open` that raises an errno from the `at`-th new file in a folder on."""
    opened, created = builtins.open, [0]

    def fail(file: Any, mode: str = "r", *words: Any, **named: Any) -> Any:
        if below in str(file) and ("w" in mode or "x" in mode):
            created[0] += 1
            if created[0] >= at:
                raise OSError(number, os.strerror(number), str(file))
        return opened(file, mode, *words, **named)

    return fail


@pytest.mark.parametrize(("stage", "number"), [("resize", errno.ENOSPC), ("extract", errno.EROFS)])
def test_a_disk_that_takes_no_fourth_file_is_one_sentence_and_the_next_run_continues(
    stage: str, number: int, resized: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two files are the metadata of the array, the third is its first shard."""
    if stage == "extract":
        resized.fetch_weights()
        resized.extract()
    before = contents(OUT[stage])
    resized.change(
        {"resize.size": 32} if stage == "resize" else {"backbones.convnet.layer": "conv3"}
    )
    with monkeypatch.context() as changed:
        fail = failing_open(number, 4, ".partial-")
        changed.setattr("builtins.open", fail)
        changed.setattr("io.open", fail)
        refusal = resized.fails(*WORDS[stage])
    assert refusal.startswith("error: ")
    assert REMEDY[number] in refusal
    assert refusal.count("\n") == 1
    assert contents(OUT[stage]) == before
    assert strays(RESIZED.parent.parent) == []
    printed = resized.run(*WORDS[stage])
    assert known(printed) > 0  # rows that were computed before the fault
    assert contents(OUT[stage]) != before
    assert contents(OUT[stage]) == resized.fresh(stage)


@pytest.mark.parametrize("stage", ["resize", pytest.param("extract", marks=pytest.mark.slow)])
def test_a_disk_that_takes_no_cached_row_stops_no_run(
    stage: str, resized: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stage == "extract":
        resized.fetch_weights()
    monkeypatch.setattr("builtins.open", failing_open(errno.ENOSPC, 2, str(ROWS)))
    printed = resized.run(*WORDS[stage])
    assert computed(printed) + known(printed) == 18 * (2 if stage == "extract" else 1)
    assert contents(OUT[stage]) == resized.fresh(stage)
