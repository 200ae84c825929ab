"""Shards of an output, worked off by threads of this process or by the workers of a Dask cluster.

The work is a picklable object that is called with the rows of one shard, writes them, and tells
what that took. It gives the same bytes whoever calls it. On a cluster every worker needs the
project's folder under the same path, and the same packages.
"""

import contextlib
import functools
import importlib
import pickle
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import processors

PATIENCE_S = 30  # for a scheduler to answer, and for its first worker
_loading = threading.Lock()
T = TypeVar("T")
R = TypeVar("R")

RETRIES = 2  # of a shard whose worker met a fault; one whose worker died is always given to another


@dataclass
class Done:
    """What one shard took.

    Attributes:
        rows: of the shard.
        seconds: by phase ("read", "compute", "write"), summed over threads.
        computed, found: rows that were computed, and rows that were there already.
        digests: uint8 (rows, 32), where the work makes them.
    """

    rows: range
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    computed: int = 0
    found: int = 0
    digests: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 32), np.uint8))

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the block's duration to a phase."""
        started = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - started


# What is done to a shard, given its rows and a function told how many more images are done.
Work = Callable[[range, Callable[[int], None]], Done]


def run(
    work: Work,
    shards: Sequence[range],
    *,
    threads: int,
    cluster: str | None,
    advance: Callable[[int], None],
) -> Iterator[Done]:
    """Do `work` on every shard, and yield each as it ends, in any order.

    Args:
        threads: of this process, each with a shard of its own.
        cluster: address of a Dask scheduler, whose workers do it instead.

    Raises:
        UserError: what the work raised, or no cluster to work on.
    """
    if cluster is not None:
        yield from _on_cluster(work, shards, cluster, advance)
        return
    stopped = threading.Event()

    def advance_unless_stopped(images: int) -> None:
        if stopped.is_set():
            raise CancelledError
        advance(images)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for future in as_completed(
                [pool.submit(work, rows, advance_unless_stopped) for rows in shards]
            ):
                yield future.result()
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)


def tag(cluster: str | None) -> str:
    """For the temporary name of the output: a worker that lives on may write into it later."""
    return "" if cluster is None else uuid.uuid4().hex


def ask(work: Work, name: str, cluster: str | None) -> int:
    """A number that the work knows by that name, from a worker of the cluster if there is one."""
    if cluster is None:
        return int(getattr(work, name))
    with _client(cluster) as client:
        answer = client.submit(_answer, pickle.dumps(work), name, retries=RETRIES, pure=False)
        with _worker_faults(cluster):
            return int(_checked(answer.result()))


def timed(items: Iterable[T], done: Done, phase: str) -> Iterator[T]:
    """The same items; the time until each of them comes counts for a phase."""
    iterator = iter(items)
    while True:
        with done.timed(phase):
            item = next(iterator, None)
        if item is None:
            return
        yield item


def where_the_time_went(done: Sequence[Done]) -> str:
    """One line: seconds by phase, the longest named, and rows found in the row cache."""
    phases = ("read", "compute", "write")
    seconds = {name: sum(shard.seconds[name] for shard in done) for name in phases}
    told = ", ".join(f"{name} {seconds[name]:.1f} s" for name in phases)
    found, computed = (
        sum(getattr(shard, name) for shard in done) for name in ("found", "computed")
    )
    slowest = max(phases, key=lambda name: seconds[name])
    return (
        f"{told}, summed over threads: {slowest} takes longest; "
        f"{computed:,} computed, {found:,} known before"
    )


def _on_cluster(
    work: Work, shards: Sequence[range], address: str, advance: Callable[[int], None]
) -> Iterator[Done]:
    with _client(address) as client:
        pickled = pickle.dumps(work)
        futures = client.map(_task, [pickled] * len(shards), shards, retries=RETRIES, pure=False)
        try:
            with _worker_faults(address):
                distributed = importlib.import_module("distributed")
                for future in distributed.as_completed(futures, loop=client.loop):
                    done = _checked(future.result())
                    advance(done.computed + done.found)
                    yield done
        finally:
            client.cancel(futures)


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    """A connection to a scheduler that has a worker."""
    try:
        distributed = importlib.import_module("distributed")
    except ModuleNotFoundError:
        raise UserError(
            f"cluster {address}: expected the package distributed, got no such package; run "
            "`pip install 'stages[dask]'`, or work without a cluster"
        ) from None
    try:
        client = distributed.Client(address, timeout=PATIENCE_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(
            f"cluster {address}: expected a Dask scheduler that answers within {PATIENCE_S} s, got "
            f"{' '.join(str(error).split())!r}; start one with `dask scheduler`, or work without"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE_S)
        except TimeoutError:
            raise UserError(
                f"cluster {address}: expected a worker within {PATIENCE_S} s, got none; start one "
                f"with `dask worker {address}`"
            ) from None
        yield client


@contextlib.contextmanager
def _worker_faults(address: str) -> Iterator[None]:
    killed = importlib.import_module("distributed").KilledWorker
    try:
        yield
    except (killed, CancelledError, OSError, TimeoutError) as error:
        raise UserError(
            f"cluster {address}: expected workers and a scheduler that live until the work is "
            f"done, got {type(error).__name__}: {' '.join(str(error).split())}; see their logs "
            "(often too little memory) and run again"
        ) from None


def _task(pickled: bytes, rows: range) -> Done | UserError:
    """Runs in a worker; a fault in the input is not worth a retry."""
    try:
        done: Done = _unpickled(pickled)(rows, lambda images: None)
    except UserError as error:
        return error
    return done


def _answer(pickled: bytes, name: str) -> int | UserError:
    """Runs in a worker."""
    try:
        answer: int = getattr(_unpickled(pickled), name)
    except UserError as error:
        return error
    return answer


def _checked(result: R | UserError) -> R:
    if isinstance(result, UserError):
        raise result
    return result


def _unpickled(pickled: bytes) -> Any:
    """The work of this worker process, which keeps what it has loaded for one run.

    Pickles of two runs differ (by the time of their start), so none meets an earlier one's inputs.
    """
    with _loading:
        return _loaded(pickled)


@functools.lru_cache(maxsize=1)
def _loaded(pickled: bytes) -> Any:
    return pickle.loads(pickled)  # noqa: S301  Dask itself sends pickles; its ports must be trusted


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `function(item)` for each item, in order, with one thread a processor.

    At most four results a thread are ahead of the consumer, so memory does not grow with `items`.
    """
    workers = processors()
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
