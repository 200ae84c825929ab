"""Activations of frozen layers, kept under ROOT/NAME/VIEW.zarr from one run to the next.

NAME tells all that they depend on but view and images. Only those of one name are kept: they may be
larger than the images. A view is kept as soon as it is whole, so a killed run loses one at most.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.runtime.progress import progress
from pipeline.storage import arrays
from pipeline.storage.arrays import Readable

GIB = 2**30


class Numbered(Readable):
    """An array (k, ...) of some rows of n, read by their numbers in all of them."""

    def __init__(self, stored: Readable, rows: NDArray[np.int64], count: int) -> None:
        self._stored, self._rows = stored, rows
        self.shape, self.dtype = (count, *stored.shape[1:]), stored.dtype
        self.chunk, self.fingerprint = stored.chunk, stored.fingerprint

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._stored.take(np.searchsorted(self._rows, rows))

    def batches(
        self, size: int, rows: NDArray[np.int64] | None = None
    ) -> Iterator[NDArray[np.float32]]:
        places = None if rows is None else np.searchsorted(self._rows, rows)
        return self._stored.batches(size, places)


def cached(
    root: Path,
    name: str,
    wanted: Sequence[NDArray[np.int64]],
    compute: Callable[[int, NDArray[np.int64]], Iterable[NDArray[np.float32]]],
    width: int,
    fingerprint: str,
    budget_bytes: int,
) -> list[Readable]:
    """Open the activations of each view, and compute and write those that lack.

    Args:
        wanted: of each view the rows, ascending, whose activations are needed.
        compute: given a view and rows, gives their activations, (any number, width) float32.
        width: of the activations of a row.
        fingerprint: of the ledger rows that all rows belong to.
        budget_bytes: the most that all may take on disk.

    Returns:
        For each view an array (n, width); of the rows that were not wanted nothing can be taken.

    Raises:
        UserError: they would take more than the budget, or than the disk has left.
    """
    folder = root / name
    count = int(max(rows[-1] for rows in wanted)) + 1
    marks = [hashlib.sha256(fingerprint.encode() + rows.tobytes()).hexdigest() for rows in wanted]
    found = [_opened(folder / f"{view}.zarr", mark) for view, mark in enumerate(marks)]
    lacking = [view for view, stored in enumerate(found) if stored is None]
    if lacking:
        _require_room(root, wanted, lacking, width, budget_bytes)
        for old in root.iterdir():
            if old != folder:
                shutil.rmtree(old)
        folder.mkdir(exist_ok=True)
    with progress("frozen layers", sum(len(wanted[view]) for view in lacking)) as bar:
        for view in lacking:
            with atomic_files.replacing(folder / f"{view}.zarr") as partial:
                blocks = bar.over(compute(view, wanted[view]))
                shape = (len(wanted[view]), width)
                mark = marks[view]
                arrays.write(partial, blocks, shape=shape, dtype=np.float32, fingerprint=mark)
            found[view] = arrays.Rows(folder / f"{view}.zarr", marks[view])
    return [
        Numbered(stored, rows, count)
        for stored, rows in zip(found, wanted, strict=True)
        if stored is not None
    ]


def _opened(path: Path, mark: str) -> arrays.Rows | None:
    try:
        return arrays.Rows(path, mark)
    except UserError:  # not there, damaged, or of other rows: computed anew
        return None


def _require_room(
    root: Path,
    wanted: Sequence[NDArray[np.int64]],
    lacking: Sequence[int],
    width: int,
    budget_bytes: int,
) -> None:
    root.mkdir(parents=True, exist_ok=True)
    every, new = (
        4 * width * sum(len(wanted[view]) for view in views)
        for views in (range(len(wanted)), lacking)
    )
    old = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    free = shutil.disk_usage(root).free + old - (every - new)
    print(f"{root}: the output of the frozen layers takes up to {every / GIB:.3g} GiB")
    if every > budget_bytes or new > free:
        limit = "STAGES_DISK_GIB" if every > budget_bytes else "the disk"
        most = budget_bytes if every > budget_bytes else free
        raise UserError(
            f"{root}: expected at most the {most / GIB:.3g} GiB that {limit} leaves, got "
            f"{every / GIB:.3g} GiB for {len(wanted[0])} images in {len(wanted)} views; make room, "
            "take fewer views (extract.views) or a later layer (fine_tune.unfreeze_from), or set "
            "fine_tune.cache_frozen: false"
        )
