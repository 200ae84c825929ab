"""A stage that is killed at any moment leaves what the next run continues from."""

import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from album import RESIZED, ROWS, Album, counts
from numpy.typing import DTypeLike
from torture import inject, strays

from pipeline.storage import arrays
from pipeline.storage.row_cache import RowCache

KILLED = -signal.SIGKILL
WHOLE = {"fault": None}
FRESH = {"fault": None, "environment": {"STAGES_ROW_CACHE_GIB": "0"}}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the driver uses /proc")


def kill(site: int) -> dict[str, Any]:
    return {"fault": "KILL", "site": site}


def run(stage: list[str], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return inject(stage, runs, Path.cwd(), SHARD_ROWS="2")


def counted(results: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Return how many rows each run computed, and how many it read from the cache."""
    return counts("".join(result["printed"] for result in results))


def cached(keys: list[bytes], dtype: DTypeLike, shape: tuple[int, ...]) -> int:
    """Return how many rows of these keys, of all kinds, the row cache holds."""
    copied = ROWS.with_name("copied rows")  # reading removes what is damaged
    shutil.copytree(ROWS, copied)
    count = 0
    for kind in copied.iterdir():
        cache = RowCache(copied, kind.name, keys, 2**30)
        count += int(cache.get(keys, np.empty((len(keys), *shape), dtype)).sum())
    shutil.rmtree(copied)
    return count


def test_killed_at_any_moment_the_next_run_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """8 kills of `resize`, each while it works on its first few shards of 2 rows."""
    monkeypatch.chdir(tmp_path)
    album = Album(monkeypatch, capsys, each=20)
    album.split()
    moments = np.random.default_rng(0).integers(1, 90, 8).tolist()
    killed = run(["resize"], [kill(site) for site in moments])
    assert [(result["status"], result["output"]) for result in killed] == [(KILLED, "")] * 8
    keys = list(map(bytes.fromhex, album.hashes()))
    kept = cached(keys, np.uint8, (48, 48, 3))
    assert 0 < kept < len(keys) == 42
    last, fresh = run(["resize"], [WHOLE, FRESH])
    assert counted([last, fresh]) == [(len(keys) - kept, kept), (len(keys), 0)]
    assert last["output"] == fresh["output"] != ""
    assert strays(Path()) == []


@pytest.mark.slow
def test_killed_while_the_output_is_replaced_nothing_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    album = Album(monkeypatch, capsys)
    album.split()
    fresh, _, whole = run(["resize"], [FRESH, WHOLE, WHOLE])
    last_steps = range(whole["sites"] - 60, whole["sites"] + 1, 15)
    results = run(["resize"], [one for step in last_steps for one in (kill(step), WHOLE)])
    assert {result["status"] for result in results[1::2]} == {0}
    killed = [result["status"] for result in results[::2]].count(KILLED)
    assert killed >= 3  # threads that create a folder at once make a change or two more or less
    assert {result["output"] for result in results[1::2]} == {fresh["output"]}
    assert set(counted(results[1::2])) == {(0, 18)}
    assert strays(Path()) == []


@pytest.mark.slow
def test_extract_continues_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    album = Album(monkeypatch, capsys)
    album.change({"backbones.convnet.pooling": "avg"})
    album.split()
    album.resize()
    assert inject(["fetch_weights", "convnet"], [WHOLE], Path())[0]["status"] == 0
    killed = run(["extract", "convnet"], [kill(site) for site in (60, 120, 150)])
    assert [(result["status"], result["output"]) for result in killed] == [(KILLED, "")] * 3
    keys = [row.tobytes() for row in arrays.Rows(RESIZED).digests]
    kept = cached(keys, np.float32, (128,))
    assert 0 < kept < 2 * len(keys) == 36
    last, fresh = run(["extract", "convnet"], [WHOLE, FRESH])
    assert counted([last, fresh]) == [(36 - kept, kept), (36, 0)]
    assert last["output"] == fresh["output"] != ""
    assert strays(Path()) == []
