"""Each shard is done once, in threads or on a cluster, and a fault stops all of them soon."""

import importlib
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn, TypeVar

import numpy as np
import pytest
from local_cluster import NEEDED, local_cluster

from pipeline.runtime import parallel
from pipeline.runtime.errors import UserError

PARTS = [range(at, min(at + 4, 30)) for at in range(0, 30, 4)]

Advance = Callable[[int], None]
Test = TypeVar("Test", bound=Callable[..., None])


def on_a_cluster(test: Test) -> Test:
    """Mark a test that needs the package distributed."""
    for mark in NEEDED:
        test = mark(test)
    return test


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


def as_tuple(done: parallel.Done) -> tuple[Any, ...]:
    return done.rows, dict(done.seconds), done.computed, done.found, done.digests.tolist()


def run(
    work: parallel.Work, parts: list[range] = PARTS, threads: int = 2, cluster: str | None = None
) -> tuple[list[parallel.Done], int]:
    """Return the results in the order of rows, and how many images were reported."""
    lock, images = threading.Lock(), 0

    def advance(more: int) -> None:
        nonlocal images
        with lock:
            images += more

    done = list(parallel.run(work, parts, threads=threads, cluster=cluster, advance=advance))
    return sorted(done, key=lambda shard: shard.rows.start), images


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_shard_is_done_once(threads: int) -> None:
    done, images = run(Counting(), threads=threads)
    assert [shard.rows for shard in done] == PARTS
    assert images == 30
    assert [shard.computed for shard in done] == [2] * 7 + [1]
    assert [shard.found for shard in done] == [2] * 7 + [1]
    assert np.concatenate([shard.digests for shard in done])[:, 0].tolist() == list(range(30))


def test_as_many_shards_run_at_once_as_there_are_threads() -> None:
    both = threading.Barrier(2)  # passes only with two at once

    def work(rows: range, advance: Advance) -> parallel.Done:
        both.wait(timeout=60)
        return parallel.Done(rows)

    assert len(run(work, PARTS[:6], threads=2)[0]) == 6


def test_no_shards_are_no_work() -> None:
    assert run(Counting(), []) == ([], 0)


def stopped_by(fault: Callable[[], None]) -> tuple[list[int], BaseException]:
    """Let one thread work until it is stopped, and the other one meet a fault.

    Return the first rows of the shards that were started, and what `run` raised.
    """
    begun: list[int] = []
    at_work = threading.Event()

    def work(rows: range, advance: Advance) -> parallel.Done:
        begun.append(rows.start)
        if rows.start == 4:
            at_work.wait()
            fault()
        at_work.set()
        for _ in range(10**8):
            advance(0)
        raise AssertionError("expected to be stopped")

    with pytest.raises(BaseException) as raised:  # noqa: PT011  the caller checks it
        run(work)
    return sorted(begun), raised.value


def test_a_fault_in_the_input_stops_the_other_shards_and_is_raised() -> None:
    def fault() -> NoReturn:
        raise UserError("cat.4.jpg: expected an image")

    begun, raised = stopped_by(fault)
    assert isinstance(raised, UserError)
    assert str(raised) == "cat.4.jpg: expected an image"
    # The thread that met the fault may have started one more.
    assert begun in ([0, 4], [0, 4, 8])


def test_ctrl_c_stops_all_shards() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.main_thread().ident
    assert main is not None
    try:
        begun, raised = stopped_by(lambda: signal.pthread_kill(main, signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(raised, KeyboardInterrupt)
    assert begun == [0, 4]


def test_a_caller_that_stops_early_stops_all_shards() -> None:
    begun = []
    first_ended = threading.Event()

    def work(rows: range, advance: Advance) -> parallel.Done:
        begun.append(rows.start)
        while rows.start > 0:
            advance(0)
        first_ended.set()
        return parallel.Done(rows)

    running = parallel.run(work, PARTS, threads=2, cluster=None, advance=lambda images: None)
    assert isinstance(running, Iterator)
    assert next(running).rows == PARTS[0]
    running.close()  # type: ignore[attr-defined]
    assert first_ended.is_set()
    assert sorted(begun) in ([0, 4], [0, 4, 8])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that `parallel` reads."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_the_time_spent_waiting_for_an_item_counts_for_its_phase(clock: list[float]) -> None:
    def reading() -> Iterator[str]:
        for item in "abc":
            clock[0] += 2
            yield item
        clock[0] += 0.5

    done = parallel.Done(range(3))
    found = []
    for item in parallel.timed(reading(), done, "read"):
        with done.timed("compute"):
            clock[0] += 10
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
    assert parallel.where_the_time_went([]) == (
        "read 0.0 s, compute 0.0 s, write 0.0 s, summed over threads: read takes longest; "
        "0 computed, 0 known before"
    )


def test_an_attribute_is_computed_here() -> None:
    assert parallel.ask(Counting(), "seven", None) == 7


def refusal(address: str) -> str:
    """Return the sentence of `run` and of `ask`."""
    sentences = set()
    for call in (
        lambda: run(Counting(), cluster=address),
        lambda: parallel.ask(Counting(), "seven", address),
    ):
        with pytest.raises(UserError, match=f"^cluster {re.escape(address)}: expected ") as raised:
            call()
        sentences.add(str(raised.value))
    (sentence,) = sentences
    return sentence


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


@on_a_cluster
def test_a_cluster_gives_what_this_process_gives(cluster: str) -> None:
    here, images_here = run(Counting())
    there, images_there = run(Counting(), cluster=cluster)
    assert list(map(as_tuple, there)) == list(map(as_tuple, here))
    assert images_there == images_here == 30


@on_a_cluster
def test_an_attribute_is_computed_by_a_worker(cluster: str) -> None:
    assert parallel.ask(Counting(), "seven", cluster) == 7


@on_a_cluster
def test_a_fault_in_the_input_comes_through_from_a_worker(cluster: str) -> None:
    with pytest.raises(UserError) as raised:
        run(Refusing(), cluster=cluster)
    assert str(raised.value) == "cat.8.jpg: expected the bytes that `split` judged"
    with pytest.raises(UserError) as raised:
        parallel.ask(Refusing(), "no_answer", cluster)
    assert str(raised.value) == "resize.size: expected another size"


class Failing:
    """Work with a fault of its own, three times over; then it goes well."""

    failed: ClassVar[list[int]] = []

    def __call__(self, rows: range, advance: Advance) -> parallel.Done:
        if len(self.failed) < 3:
            self.failed.append(rows.start)
            raise RuntimeError("out of luck")
        return Counting()(rows, advance)


@on_a_cluster
def test_a_shard_is_tried_three_times_before_its_fault_comes_through(cluster: str) -> None:
    Failing.failed.clear()
    with pytest.raises(RuntimeError, match=r"^out of luck$"):
        run(Failing(), PARTS[:1], cluster=cluster)
    assert Failing.failed == [0, 0, 0]
    assert list(map(as_tuple, run(Failing(), cluster=cluster)[0])) == list(
        map(as_tuple, run(Counting())[0])
    )


@on_a_cluster
def test_the_end_of_workers_or_of_the_scheduler_is_one_sentence() -> None:
    killed = importlib.import_module("distributed").KilledWorker
    worker = SimpleNamespace(address="tcp://host:1234")
    for error in (killed("_task-1", worker, 3), CancelledError("_task-1")):
        with pytest.raises(UserError) as raised, parallel._worker_faults("tcp://host:8786"):
            raise error
        assert f"until the work is done, got {type(error).__name__}: " in str(raised.value)
        assert str(raised.value).endswith(
            "; see their logs (often too little memory) and run again"
        )


@on_a_cluster
def test_an_address_without_a_scheduler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PATIENCE_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    assert "a Dask scheduler that answers within 1 s, got 'Timed out" in refusal(address)
    assert "unknown address scheme 'gopher'" in refusal("gopher://host:70")


@on_a_cluster
def test_a_scheduler_without_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PATIENCE_S", 1)
    with local_cluster(workers=0) as address:
        assert f"got none; start one with `dask worker {address}`" in refusal(address)


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
