"""Each shard is done once, in threads or on a cluster, and a fault stops all of them soon."""

import importlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

import numpy as np
import pytest
from local_cluster import local_cluster
from project import ROOT

from pipeline.runtime import parallel
from pipeline.runtime.errors import UserError

PARTS = [range(at, min(at + 4, 30)) for at in range(0, 30, 4)]

Advance = Callable[[int], None]


class Counting:
    """Work without a clock: the digest of a row is its number; even rows are cached."""

    seven = 7

    def __call__(self, rows: range, advance: Advance) -> parallel.Done:
        done = parallel.Done(rows)
        done.found = sum(row % 2 == 0 for row in rows)
        done.computed = len(rows) - done.found
        done.seconds["compute"] += len(rows)
        done.digests = np.repeat(np.array(rows, np.uint8)[:, None], 32, axis=1)
        for _ in rows:
            advance(1)
        return done


class Refusing:
    """Work that refuses the shard that begins with row 8."""

    @property
    def no_answer(self) -> int:
        raise UserError("resize.size: expected another size")

    def __call__(self, rows: range, advance: Advance) -> parallel.Done:
        if rows.start == 8:
            raise UserError("cat.8.jpg: expected the bytes that `split` judged")
        return Counting()(rows, advance)


class Failing:
    """Work that raises three times; then it goes well."""

    failed: ClassVar[list[int]] = []

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, rows: range, advance: Advance) -> parallel.Done:
        if len(self.failed) < 3:
            self.failed.append(rows.start)
            raise self.error
        return Counting()(rows, advance)


def run(
    work: parallel.Work, parts: list[range] = PARTS, threads: int = 2, cluster: str | None = None
) -> tuple[list[tuple[Any, ...]], int]:
    """Return the results in the order of rows, and how many images were reported."""
    lock, images = threading.Lock(), 0

    def advance(more: int) -> None:
        nonlocal images
        with lock:
            images += more

    done = parallel.run(work, parts, threads=threads, cluster=cluster, advance=advance)
    results = [(*vars(shard).values(),) for shard in sorted(done, key=lambda one: one.rows.start)]
    return [(*fields, digests.tolist()) for *fields, digests in results], images


EXPECTED = [
    (rows, {"compute": len(rows)}, len(rows) // 2, len(rows) // 2, [[row] * 32 for row in rows])
    for rows in PARTS
]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_shard_is_done_once(threads: int) -> None:
    assert run(Counting(), threads=threads) == (EXPECTED, 30)
    assert run(Counting(), [], threads=threads) == ([], 0)


def refuse() -> NoReturn:
    raise UserError("cat.4.jpg: expected an image")


def press_ctrl_c() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def begun_before(fault: Callable[[], None], expected: type[BaseException]) -> list[int]:
    """Return the first rows of the shards that were begun when a shard met the fault."""
    begun: list[int] = []
    at_work = threading.Event()  # needs two shards at once

    def work(rows: range, advance: Advance) -> parallel.Done:
        begun.append(rows.start)
        if rows.start == 4:
            at_work.wait()
            fault()
        at_work.set()
        while True:
            advance(0)

    with pytest.raises(expected):
        run(work)
    return sorted(begun)


def test_a_fault_stops_the_other_shards() -> None:
    # The thread that met the fault may have started one more.
    assert begun_before(refuse, UserError) in ([0, 4], [0, 4, 8])


def test_ctrl_c_stops_the_other_shards() -> None:
    """In a process of its own, as the signal concerns all libraries that are loaded."""
    folders = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    script = (
        f"import signal, sys; sys.path[:0] = {folders}; import test_parallel as test; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "print(test.begun_before(test.press_ctrl_c, KeyboardInterrupt))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("[0, 4]\n", "[0, 4, 8]\n")


def test_the_time_spent_waiting_for_an_item_counts_for_its_phase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def reading() -> Iterator[str]:
        for item in "abc":
            now[0] += 2
            yield item
        now[0] += 0.5

    done = parallel.Done(range(3))
    found = []
    for item in parallel.timed(reading(), done, "read"):
        with done.timed("compute"):
            now[0] += 10
        found.append(item)
    assert found == ["a", "b", "c"]
    assert done.seconds == {"read": 6.5, "compute": 30.0}


def test_a_line_has_the_seconds_of_each_phase_and_the_rows() -> None:
    one, two = parallel.Done(range(4)), parallel.Done(range(4, 8))
    one.seconds |= {"read": 1.25, "compute": 2.0}
    two.seconds |= {"compute": 0.5, "write": 0.125}
    one.computed, two.computed, two.found = 1000, 234, 5_000_000
    assert parallel.where_the_time_went([one, two]) == (
        "read 1.2 s, compute 2.5 s, write 0.1 s, summed over threads: compute takes longest; "
        "1,234 computed, 5,000,000 known before"
    )


def test_results_come_in_order_and_few_are_computed_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "processors", lambda: 2)
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = parallel.in_order(lambda number: number * number, items())
    assert next(results) == 0
    assert len(taken) == 8
    assert list(results) == [number * number for number in range(1, 100)]


def refusal(address: str) -> str:
    with pytest.raises(UserError, match=f"^cluster {re.escape(address)}: expected ") as raised:
        run(Counting(), cluster=address)
    return str(raised.value)


def test_a_cluster_needs_the_package_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    assert "run `pip install 'pipeline[dask]'`" in refusal("tcp://host:8786")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with one worker."""
    with local_cluster() as address:
        yield address


class TestOnACluster:
    pytestmark = pytest.mark.xdist_group("cluster")

    def test_workers_give_what_this_process_gives(self, cluster: str) -> None:
        assert run(Counting(), cluster=cluster) == (EXPECTED, 30)
        for address in (None, cluster):
            assert parallel.ask(Counting(), "seven", address) == 7

    def test_parts_come_in_order_from_either(self, cluster: str) -> None:
        for address in (None, cluster):
            assert list(parallel.parts_in_order(len, PARTS, address)) == [*map(len, PARTS)]

    def test_a_fault_in_the_input_comes_through_from_a_worker(self, cluster: str) -> None:
        with pytest.raises(UserError, match=r"^cat.8.jpg: expected the bytes that `split` judged$"):
            run(Refusing(), cluster=cluster)
        with pytest.raises(UserError, match=r"^resize.size: expected another size$"):
            parallel.ask(Refusing(), "no_answer", cluster)

    @pytest.mark.parametrize("why", ["a fault of its own", "the end of its worker"])
    def test_a_shard_is_tried_three_times_before_its_fault_comes_through(
        self, why: str, cluster: str
    ) -> None:
        worker = SimpleNamespace(address="tcp://host:1234")
        killed = importlib.import_module("distributed").KilledWorker("_task-1", worker, 3)
        work = Failing(RuntimeError("out of luck") if why == "a fault of its own" else killed)
        Failing.failed.clear()
        with pytest.raises((RuntimeError, UserError)) as raised:
            run(work, PARTS[:1], cluster=cluster)
        if why == "a fault of its own":
            assert str(raised.value) == "out of luck"
        else:
            assert "live until the work is done, got KilledWorker: " in str(raised.value)
        assert Failing.failed == [0, 0, 0]
        assert run(work, cluster=cluster) == (EXPECTED, 30)

    def test_a_cluster_without_a_scheduler_or_a_worker_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parallel, "PATIENCE_S", 1)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert "a Dask scheduler with a worker within 1 s, got 'Timed out" in refusal(address)
        assert "unknown address scheme 'gopher'" in refusal("gopher://host:70")
        with local_cluster(workers=0) as address:
            assert f"start `dask scheduler` and `dask worker {address}`" in refusal(address)
