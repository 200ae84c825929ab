"""The one progress bar: rate and time left on a terminal, one quiet line elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Bar:
    """What long work reports to: `update(k)` once `k` more items are done."""

    def __init__(self, what: str, total: int) -> None:
        self.done = 0
        self._quiet = not sys.stderr.isatty()
        self._tqdm = tqdm(
            total=total, desc=what, unit="img", disable=self._quiet, dynamic_ncols=True
        )
        self._what, self._started = what, time.perf_counter()

    def update(self, items: int = 1) -> None:
        self.done += items
        self._tqdm.update(items)

    def close(self) -> None:
        self._tqdm.close()
        if self._quiet:
            seconds = time.perf_counter() - self._started
            rate = self.done / max(seconds, 1e-9)
            print(f"{self._what}: {self.done:,} img in {seconds:.1f} s ({rate:,.0f} img/s)")


@contextmanager
def progress(what: str, total: int) -> Iterator[Bar]:
    """Show how far `what` is; where nobody watches (CI, a log), print one line at its end."""
    bar = Bar(what, total)
    yield bar
    bar.close()
