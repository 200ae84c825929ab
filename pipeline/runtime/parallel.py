"""Run work on the shards of an array, in threads of this process or in workers of a Dask cluster.

The work is a picklable object that is called with the rows of one shard, writes them, and returns
what that took. It writes the same bytes wherever it runs. On a cluster, every worker needs the
project's folder at the same path, and the same packages.
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
RETRIES = 2  # of a shard that raises; one whose worker died always goes to another worker

T = TypeVar("T")
R = TypeVar("R")
_loading = threading.Lock()


@dataclass
class Done:
    """Result of one shard.

    Attributes:
        rows: of the shard.
        seconds: by phase ("read", "compute", "write"), summed over threads.
        computed, found: number of rows that were computed, and that the row cache held.
        digests: uint8 (rows, 32); empty if the work computes none.
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


# Takes the rows of a shard and a function to call with the number of images done since.
Work = Callable[[range, Callable[[int], None]], Done]


def run(
    work: Work,
    shards: Sequence[range],
    *,
    threads: int,
    cluster: str | None,
    advance: Callable[[int], None],
) -> Iterator[Done]:
    """Run `work` on every shard; yield the results as they arrive, in any order.

    Args:
        threads: number of shards that this process works on at a time.
        cluster: address of a Dask scheduler to use in place of threads.

    Raises:
        UserError: raised by the work, or the cluster cannot be used.
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
    """Return a tag for the temporary name of an output into which a lost worker may write."""
    return "" if cluster is None else uuid.uuid4().hex


def ask(work: Work, name: str, cluster: str | None) -> int:
    """Return a numeric attribute of the work, computed by a worker if there is a cluster."""
    if cluster is None:
        return int(getattr(work, name))
    with _client(cluster) as client:
        answer = client.submit(_answer, pickle.dumps(work), name, retries=RETRIES, pure=False)
        with _worker_faults(cluster):
            return int(_checked(answer.result()))


def timed(items: Iterable[T], done: Done, phase: str) -> Iterator[T]:
    """Yield the same items; add the time spent waiting for them to a phase."""
    iterator = iter(items)
    while True:
        with done.timed(phase):
            item = next(iterator, None)
        if item is None:
            return
        yield item


def where_the_time_went(done: Sequence[Done]) -> str:
    """Return a line on the seconds by phase and on how many rows came from the row cache."""
    phases = ("read", "compute", "write")
    seconds = {name: sum(shard.seconds[name] for shard in done) for name in phases}
    by_phase = ", ".join(f"{name} {seconds[name]:.1f} s" for name in phases)
    slowest = max(phases, key=lambda name: seconds[name])
    computed, found = sum(shard.computed for shard in done), sum(shard.found for shard in done)
    return (
        f"{by_phase}, summed over threads: {slowest} takes longest; "
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
    """Connect to a scheduler and wait for its first worker."""
    try:
        distributed = importlib.import_module("distributed")
    except ModuleNotFoundError:
        raise UserError(
            f"cluster {address}: expected the package distributed, got no such package; run "
            "`pip install 'pipeline[dask]'`, or unset STAGES_CLUSTER"
        ) from None
    try:
        client = distributed.Client(address, timeout=PATIENCE_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(
            f"cluster {address}: expected a Dask scheduler that answers within {PATIENCE_S} s, got "
            f"{' '.join(str(error).split())!r}; start one with `dask scheduler`, or unset "
            "STAGES_CLUSTER"
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
    """Work on a shard; runs in a worker of the cluster."""
    return _not_raising(lambda: _work(pickled)(rows, lambda images: None))


def _answer(pickled: bytes, name: str) -> int | UserError:
    """Return an attribute of the work; runs in a worker of the cluster."""
    return _not_raising(lambda: getattr(_work(pickled), name))


def _not_raising(call: Callable[[], R]) -> R | UserError:
    """Return a `UserError` in place of raising it: Dask would try again."""
    try:
        return call()
    except UserError as error:
        return error


def _checked(result: R | UserError) -> R:
    if isinstance(result, UserError):
        raise result
    return result


def _work(pickled: bytes) -> Any:
    """Return the work; the shards of a run share one object and the files that it has opened.

    Pickles of two runs differ by the time of their start, so that no run gets an earlier one's.
    """
    with _loading:
        return _loaded(pickled)


@functools.lru_cache(maxsize=1)
def _loaded(pickled: bytes) -> Any:
    return pickle.loads(pickled)  # noqa: S301  Dask itself sends pickles; its ports must be trusted


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `function(item)` for each item, in order, with one thread per processor.

    At most four results per thread wait for the consumer, so memory does not grow with `items`.
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
