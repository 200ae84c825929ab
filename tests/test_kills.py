"""A stage that is killed at any moment leaves behind what the next run goes on from."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from album import FEATURES, LEDGER, RESIZED, ROWS, WEIGHTS, Album, counts
from numpy.typing import DTypeLike

from pipeline.backbones import build
from pipeline.storage import arrays
from pipeline.storage.row_cache import RowCache

ROOT = Path(__file__).parent.parent
KILLED = -signal.SIGKILL
RESIZE = ("resize", str(LEDGER), str(RESIZED))
EXTRACT = ("extract", "convnet", str(RESIZED), str(WEIGHTS), str(FEATURES))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it forks")


class Run(NamedTuple):
    status: int
    changes: int
    output: str  # a hash of all its files; "" where there are none


def run(command: tuple[str, ...], runs: Iterable[object]) -> tuple[list[Run], str]:
    """What came of each of the runs that `killing.py` made, and what they printed."""
    ended = subprocess.run(
        [
            *(sys.executable, ROOT / "tests" / "killing.py", command[0], "2"),
            *(",".join(map(str, runs)), *command[1:]),
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",  # such files would be counted
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    *printed, last = ended.stdout.splitlines(keepends=True)
    return [Run(*told) for told in json.loads(last)], "".join(printed)


def kept(keys: list[bytes], dtype: DTypeLike, shape: tuple[int, ...]) -> int:
    """How many rows of these keys, of all kinds together, the row cache holds."""
    copied = ROWS.with_name("copied rows")  # so that nothing but the next run follows a kill
    shutil.copytree(ROWS, copied)
    count = 0
    for kind in copied.iterdir():
        cache = RowCache(copied, kind.name, keys, 2**30)
        count += int(cache.get(keys, np.empty((len(keys), *shape), dtype)).sum())
    shutil.rmtree(copied)
    return count


def strays() -> list[Path]:
    return [*Path("data").rglob(".partial-*")]


def test_killed_at_any_moment_the_next_run_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """20 kills of `resize`, each while it works on its first few shards of 2 rows."""
    monkeypatch.chdir(tmp_path)
    album = Album(monkeypatch, capsys, each=60)
    album.split()
    moments = np.random.default_rng(0).integers(1, 70, 20)
    assert run(RESIZE, moments)[0] == [Run(KILLED, -1, "")] * 20
    keys = list(map(bytes.fromhex, album.hashes()))
    known = kept(keys, np.uint8, (48, 48, 3))
    assert 0 < known < len(keys) == 122
    (last, fresh), printed = run(RESIZE, ["whole", "fresh"])
    assert counts(printed) == [(len(keys) - known, known), (len(keys), 0)]
    assert last.output == fresh.output != ""
    assert strays() == []


def test_killed_while_the_output_is_replaced_nothing_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    album = Album(monkeypatch, capsys)
    album.split()
    (fresh, _, whole), _ = run(RESIZE, ["fresh", "whole", "whole"])
    last_steps = range(whole.changes - 42, whole.changes + 1, 5)
    told, printed = run(RESIZE, [run for step in last_steps for run in (step, "whole")])
    assert [again.status for again in told[1::2]] == [0] * 9
    killed = [again.status for again in told[::2]].count(KILLED)
    assert killed >= 7  # threads that make a folder at once make a change or two more or less
    assert {again.output for again in told[1::2]} == {fresh.output}
    assert set(counts(printed)) == {(0, 18)}
    assert strays() == []


@pytest.mark.slow
def test_extract_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    album = Album(monkeypatch, capsys)
    album.split()
    album.resize()
    WEIGHTS.parent.mkdir()
    build.network("convnet", None, False, None).save_weights(WEIGHTS)
    assert run(EXTRACT, [30, 60, 75])[0] == [Run(KILLED, -1, "")] * 3
    keys = [digest.tobytes() for digest in arrays.Rows(RESIZED).digests]
    known = kept(keys, np.float32, (128,))
    assert 0 < known < 2 * len(keys) == 36
    (last, fresh), printed = run(EXTRACT, ["whole", "fresh"])
    assert counts(printed) == [(36 - known, known), (36, 0)]
    assert last.output == fresh.output != ""
    assert strays() == []
