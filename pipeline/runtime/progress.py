"""Progress bar on a terminal; one line at the end elsewhere."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T", bound=Sized)


class Bar:
    """Progress of long work: call `update(k)` after `k` more items, from any thread.

    `note` is printed at the end.
    """

    def __init__(self, what: str, total: int) -> None:
        self.done = 0
        self.note = ""
        self._quiet = not sys.stderr.isatty()
        self._tqdm = tqdm(
            total=total, desc=what, unit="img", disable=self._quiet, dynamic_ncols=True
        )
        self._lock = threading.Lock()
        self._what, self._started = what, time.perf_counter()

    def update(self, items: int = 1) -> None:
        with self._lock:
            self.done += items
            self._tqdm.update(items)

    def over(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the same batches; count each when the next one is requested."""
        for batch in batches:
            yield batch
            self.update(len(batch))

    def close(self) -> None:
        self._tqdm.close()
        if self._quiet:
            seconds = time.perf_counter() - self._started
            rate = self.done / max(seconds, 1e-9)
            print(f"{self._what}: {self.done:,} img in {seconds:.1f} s ({rate:,.0f} img/s)")
        if self.note:
            print(f"{self._what}: {self.note}")


@contextmanager
def progress(what: str, total: int) -> Iterator[Bar]:
    """Show the progress of `what`; print a line at its end if stderr is not a terminal."""
    bar = Bar(what, total)
    yield bar
    bar.close()
