"""Run work on the shards of an array, in threads of this process or in workers of a Dask cluster.

The work is called with the rows of one shard, writes them, the same bytes wherever it runs, and
returns what that took. On a cluster it is pickled, and every worker needs the project's folder at
the same path, and the same packages.
"""

import contextlib
import importlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
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


@dataclass
class Done:
    """Result of one shard; `digests` is uint8 (rows, 32), or empty if the work computes none."""

    rows: range
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # by phase
    computed: int = 0
    found: int = 0  # in the row cache
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

    `threads` shards at a time, or the workers of the Dask scheduler at the address `cluster`.
    """
    if cluster is not None:
        with contextlib.closing(_on_cluster(cluster, work, _work_on, shards)) as results:
            for done in results:
                advance(done.computed + done.found)
                yield done
        return
    stopped = threading.Event()

    def advance_unless_stopped(images: int) -> None:
        if stopped.is_set():
            raise CancelledError
        advance(images)

    with ThreadPoolExecutor(threads) as pool:
        try:
            futures = [pool.submit(work, rows, advance_unless_stopped) for rows in shards]
            for future in as_completed(futures):
                yield future.result()
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)


def ask(work: Work, name: str, cluster: str | None) -> int:
    """Return a numeric attribute of the work, computed by a worker if there is a cluster."""
    if cluster is None:
        return int(getattr(work, name))
    (answer,) = _on_cluster(cluster, work, getattr, [name])
    return int(answer)


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
    seconds = {phase: sum(shard.seconds[phase] for shard in done) for phase in phases}
    return (
        f"{', '.join(f'{phase} {seconds[phase]:.1f} s' for phase in phases)}, "
        f"summed over threads: {max(phases, key=seconds.__getitem__)} takes longest; "
        f"{sum(shard.computed for shard in done):,} computed, "
        f"{sum(shard.found for shard in done):,} known before"
    )


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


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield the same items; a thread makes the next one meanwhile."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, iterator, None)
        while (item := waiting.result()) is not None:
            waiting = pool.submit(next, iterator, None)
            yield item


def parts_in_order(
    work: Callable[[range], R], parts: Sequence[range], cluster: str | None
) -> Iterator[R]:
    """Yield `work(part)` for each part, in order, from threads or the workers of `cluster`."""
    if cluster is None:
        yield from in_order(work, parts)
        return
    arrived: dict[int, R] = {}
    with contextlib.closing(_on_cluster(cluster, work, _numbered, [*enumerate(parts)])) as results:
        wanted = 0
        for number, result in results:
            arrived[number] = result
            while wanted in arrived:
                yield arrived.pop(wanted)
                wanted += 1


def _on_cluster(
    address: str, work: Any, function: Callable[[Any, T], R], arguments: Sequence[T]
) -> Generator[R]:
    """Yield `function(work, argument)` of each argument from the workers, in any order.

    The calls in one worker share one object and the files that it has opened.
    """
    with _connect(address) as client:
        distributed = importlib.import_module("distributed")
        futures = []
        try:
            shared = client.scatter(work, broadcast=True, hash=False)
            repeated = [[one] * len(arguments) for one in (shared, function)]
            futures = client.map(_task, *repeated, arguments, retries=RETRIES, pure=False)
            for future in distributed.as_completed(futures, loop=client.loop):
                result = future.result()
                future.release()  # or the workers keep it to the end
                if isinstance(result, UserError):
                    raise result
                yield result
        except (distributed.KilledWorker, CancelledError, OSError, TimeoutError) as error:
            raise UserError(
                f"cluster {address}: expected workers and a scheduler that live until the work is "
                f"done, got {type(error).__name__}: {_one_line(error)}; see their logs (often too "
                "little memory) and run again"
            ) from None
        finally:
            client.cancel(futures)


def _connect(address: str) -> Any:
    """Return a client of a scheduler that has a worker."""
    try:
        distributed = importlib.import_module("distributed")
        client = distributed.Client(address, timeout=PATIENCE_S, set_as_default=False)
        client.wait_for_workers(1, timeout=PATIENCE_S)
    except ModuleNotFoundError:
        raise UserError(
            f"cluster {address}: expected the package distributed, got no such package; run "
            "`pip install 'pipeline[dask]'`, or unset STAGES_CLUSTER"
        ) from None
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(
            f"cluster {address}: expected a Dask scheduler with a worker within {PATIENCE_S} s, "
            f"got {_one_line(error)!r}; start `dask scheduler` and `dask worker {address}`, or "
            "unset STAGES_CLUSTER"
        ) from None
    return client


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _task(work: Any, function: Callable[[Any, T], R], argument: T) -> R | UserError:
    """Return a `UserError` in place of raising it: Dask would try again."""
    try:
        return function(work, argument)
    except UserError as error:
        return error


def _numbered(work: Callable[[range], R], part: tuple[int, range]) -> tuple[int, R]:
    return part[0], work(part[1])


def _work_on(work: Work, rows: range) -> Done:
    return work(rows, lambda images: None)
