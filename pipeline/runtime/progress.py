"""Progress bar on a terminal; one line at the end elsewhere."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T", bound=Sized)


class Bar:
    """Progress of long work: call `update(k)` after `k` more items, from any thread.

    `note` is printed at the end.
    """

    def __init__(self, bar: "tqdm[Any]") -> None:
        self.done, self.note = 0, ""
        self._bar, self._lock = bar, threading.Lock()

    def update(self, items: int = 1) -> None:
        with self._lock:
            self.done += items
            self._bar.update(items)

    def over(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the same batches; count each when the next one is requested."""
        for batch in batches:
            yield batch
            self.update(len(batch))


@contextmanager
def progress(what: str, total: int) -> Iterator[Bar]:
    """Show the progress of `what`; print a line at its end if stderr is not a terminal."""
    quiet, started = not sys.stderr.isatty(), time.perf_counter()
    shown = tqdm(total=total, desc=what, unit="img", disable=quiet, dynamic_ncols=True)
    bar = Bar(shown)
    yield bar
    shown.close()
    if quiet:
        seconds = time.perf_counter() - started
        rate = bar.done / max(seconds, 1e-9)
        print(f"{what}: {bar.done:,} img in {seconds:.1f} s ({rate:,.0f} img/s)")
    if bar.note:
        print(f"{what}: {bar.note}")
