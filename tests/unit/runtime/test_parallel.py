"""Shards are worked off once each, here or on a cluster, and a fault stops all of them soon."""

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
    """Marks of a test that needs the package distributed."""
    for mark in NEEDED:
        test = mark(test)
    return test


class Counting:
    """Work that needs no clock: each row's digest is its number; even rows were there already."""

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
    """Work that finds a fault in its input in the shard that begins with row 8."""

    @property
    def no_answer(self) -> int:
        raise UserError("resize.size: expected another size")

    def __call__(self, rows: range, advance: Advance) -> parallel.Done:
        if rows.start == 8:
            raise UserError("cat.8.jpg: expected the bytes that `split` judged")
        return Counting()(rows, advance)


def told(found: parallel.Done) -> tuple[Any, ...]:
    """What a `Done` says, to be compared."""
    return found.rows, dict(found.seconds), found.computed, found.found, found.digests.tolist()


def run(
    work: parallel.Work, parts: list[range] = PARTS, threads: int = 2, cluster: str | None = None
) -> tuple[list[parallel.Done], int]:
    """What came of it, in the order of rows, and how many images were reported."""
    lock, images = threading.Lock(), 0

    def advance(more: int) -> None:
        nonlocal images
        with lock:
            images += more

    done = list(parallel.run(work, parts, threads=threads, cluster=cluster, advance=advance))
    return sorted(done, key=lambda shard: shard.rows.start), images


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_shard_is_worked_off_once(threads: int) -> None:
    done, images = run(Counting(), threads=threads)
    assert [shard.rows for shard in done] == PARTS
    assert images == 30
    assert [shard.computed for shard in done] == [2] * 7 + [1]
    assert [shard.found for shard in done] == [2] * 7 + [1]
    assert np.concatenate([shard.digests for shard in done])[:, 0].tolist() == list(range(30))


def test_as_many_shards_are_in_work_at_once_as_there_are_threads() -> None:
    both = threading.Barrier(2)  # passes only with two at once

    def work(rows: range, advance: Advance) -> parallel.Done:
        both.wait(timeout=60)
        return parallel.Done(rows)

    assert len(run(work, PARTS[:6], threads=2)[0]) == 6


def test_no_shards_are_no_work() -> None:
    assert run(Counting(), []) == ([], 0)


def stopped_by(fault: Callable[[], None]) -> tuple[list[int], BaseException]:
    """Two threads: one works until it is stopped, the other meets a fault.

    Gives back the first rows of the shards that were begun, and what came out of `run`.
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

    with pytest.raises(BaseException) as raised:  # noqa: PT011  its kind is what is asked
        run(work)
    return sorted(begun), raised.value


def test_a_fault_in_the_input_stops_the_other_shards_and_is_raised() -> None:
    def fault() -> NoReturn:
        raise UserError("cat.4.jpg: expected an image")

    begun, raised = stopped_by(fault)
    assert isinstance(raised, UserError)
    assert str(raised) == "cat.4.jpg: expected an image"
    # The thread that met the fault may have begun one more before it was told to stop.
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


def test_a_caller_that_asks_for_no_more_stops_all_shards() -> None:
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
    """The seconds that `shards` reads."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_the_time_until_an_item_comes_counts_for_its_phase(clock: list[float]) -> None:
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


def test_nothing_to_read_is_nothing(clock: list[float]) -> None:
    done = parallel.Done(range(0))
    assert list(parallel.timed([], done, "read")) == []
    assert done.seconds == {"read": 0.0}


def test_one_line_tells_where_the_time_went() -> None:
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


def test_a_question_is_answered_here() -> None:
    assert parallel.ask(Counting(), "seven", None) == 7


def refusal(address: str) -> str:
    """The sentence of `run` and of `ask`."""
    sentences = []
    for call in (
        lambda: run(Counting(), cluster=address),
        lambda: parallel.ask(Counting(), "seven", address),
    ):
        with pytest.raises(UserError) as raised:
            call()
        sentences.append(str(raised.value))
    assert sentences[0] == sentences[1]
    return sentences[0]


def test_a_cluster_needs_the_package_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    assert refusal("tcp://host:8786") == (
        "cluster tcp://host:8786: expected the package distributed, got no such package; "
        "run `pip install 'stages[dask]'`, or work without a cluster"
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with one worker."""
    with local_cluster() as address:
        yield address


@on_a_cluster
def test_a_cluster_gives_what_this_process_gives(cluster: str) -> None:
    here, images_here = run(Counting())
    there, images_there = run(Counting(), cluster=cluster)
    assert list(map(told, there)) == list(map(told, here))
    assert images_there == images_here == 30


@on_a_cluster
def test_a_question_is_answered_by_a_worker(cluster: str) -> None:
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
    assert list(map(told, run(Failing(), cluster=cluster)[0])) == list(
        map(told, run(Counting())[0])
    )


@on_a_cluster
def test_workers_that_die_are_told() -> None:
    killed = importlib.import_module("distributed").KilledWorker
    worker = SimpleNamespace(address="tcp://host:1234")
    with pytest.raises(UserError) as raised, parallel._worker_faults("tcp://host:8786"):
        raise killed("_task-1", worker, 3)
    assert str(raised.value).startswith(
        "cluster tcp://host:8786: expected workers and a scheduler that live until the work is "
        "done, got KilledWorker: Attempted to run task "
    )
    assert str(raised.value).endswith("; see their logs (often too little memory) and run again")


@on_a_cluster
def test_a_scheduler_that_ends_is_told() -> None:
    with pytest.raises(UserError) as raised, parallel._worker_faults("tcp://host:8786"):
        raise CancelledError("_task-1")
    assert str(raised.value) == (
        "cluster tcp://host:8786: expected workers and a scheduler that live until the work is "
        "done, got CancelledError: _task-1; see their logs (often too little memory) and run again"
    )


@on_a_cluster
def test_no_scheduler_at_the_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PATIENCE_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    assert refusal(address) == (
        f"cluster {address}: expected a Dask scheduler that answers within 1 s, got "
        f"'Timed out trying to connect to {address} after 1 s'; "
        "start one with `dask scheduler`, or work without"
    )


@on_a_cluster
def test_an_address_that_is_none_is_told() -> None:
    assert re.fullmatch(
        r"cluster gopher://host:70: expected a Dask scheduler that answers within 30 s, got "
        r"\"unknown address scheme 'gopher' .*\"; start one with `dask scheduler`, or work without",
        refusal("gopher://host:70"),
    )


@on_a_cluster
def test_a_scheduler_without_workers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PATIENCE_S", 1)
    with local_cluster(workers=0) as address:
        assert refusal(address) == (
            f"cluster {address}: expected a worker within 1 s, got none; "
            f"start one with `dask worker {address}`"
        )
