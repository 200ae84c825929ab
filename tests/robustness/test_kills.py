"""A stage that is killed at any moment leaves what the next run continues from."""

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from album import Album, counts
from torture import inject, strays

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


def require_continuation(stage: list[str], sites: list[int], rows: int) -> None:
    """Kill a stage at these sites; the next run computes the rest, to the bytes of a fresh run."""
    *killed, last, fresh = run(stage, [*map(kill, sites), WHOLE, FRESH])
    assert {(result["status"], result["output"]) for result in killed} == {(KILLED, "")}
    (computed, kept), from_nothing = counted([last, fresh])
    assert kept > 0
    assert computed + kept == rows
    assert from_nothing == (rows, 0)
    assert last["output"] == fresh["output"] != ""
    assert strays(Path()) == []


def test_killed_at_any_moment_the_next_run_ends_with_the_same_bytes(album: Album) -> None:
    """8 kills of `resize`, each while it works on its first few shards of 2 rows."""
    for label in ("cat", "dog"):
        album.add(label, 12)
    album.split()
    sites = np.random.default_rng(0).integers(1, 90, 8).tolist()
    require_continuation(["resize"], sites, len(album.hashes()))


@pytest.mark.slow
def test_killed_while_the_output_is_replaced_nothing_is_computed_again(
    album: Album,
) -> None:
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
def test_extract_continues_where_it_was_killed(album: Album) -> None:
    album.change({"backbones.convnet.pooling": "avg"})
    album.split()
    album.resize()
    assert inject(["fetch_weights", "convnet"], [WHOLE], Path())[0]["status"] == 0
    require_continuation(["extract", "convnet"], [50, 80, 100], 2 * len(album.hashes()))
