"""The one progress bar: rate and time left on a terminal, one quiet line elsewhere."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T", bound=Sized)


class Bar:
    """What long work reports to: `update(k)` once `k` more items are done, from any thread.

    `note` is shown at the end, such as where the time went.
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
        """The same batches, each counted once the next is asked for."""
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
    """Show how far `what` is; where nobody watches (CI, a log), print one line at its end."""
    bar = Bar(what, total)
    yield bar
    bar.close()
