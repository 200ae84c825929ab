"""Activations of frozen layers, kept under ROOT/KEY/VIEW.zarr from one run to the next.

KEY identifies everything that they depend on but view and images. Only those of one key are kept:
they may be larger than the images.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.runtime.progress import progress
from pipeline.storage import arrays
from pipeline.storage.array_views import View
from pipeline.storage.arrays import Readable

GIB = 2**30


def cached(
    root: Path,
    key: str,
    rows: Sequence[NDArray[np.int64]],
    compute: Callable[[int, NDArray[np.int64]], Iterable[NDArray[np.float32]]],
    width: int,
    fingerprint: str,
    budget_bytes: int,
) -> list[Readable]:
    """Open the activations of each view, (n, width); compute and write the missing ones.

    Args:
        rows: for each view the rows, ascending, whose activations are needed and can be taken.
        compute: takes a view and rows, yields blocks of their activations, (k, width) float32.
        fingerprint: of the ledger rows that all rows belong to.
        budget_bytes: the most that all may take on disk; more is a UserError.
    """
    root.mkdir(parents=True, exist_ok=True)
    files = [root / key / f"{view}.zarr" for view in range(len(rows))]
    marks = [hashlib.sha256(fingerprint.encode() + one.tobytes()).hexdigest() for one in rows]
    missing = [view for view, file in enumerate(files) if not _is_stored(file, marks[view])]
    if missing:
        _require_room(root, rows, width, budget_bytes)
        for old in root.iterdir():
            if old.name != key:
                shutil.rmtree(old)
    with progress("frozen layers", sum(len(rows[view]) for view in missing)) as bar:
        for view in missing:  # each is kept once it is complete, so a killed run loses one at most
            with atomic_files.replacing(files[view]) as partial:
                blocks = bar.over(compute(view, rows[view]))
                shape, mark = (len(rows[view]), width), marks[view]
                arrays.write(partial, blocks, shape=shape, dtype=np.float32, fingerprint=mark)
    return [
        _numbered(arrays.StoredArray(file, mark), one)
        for file, mark, one in zip(files, marks, rows, strict=True)
    ]


def _numbered(stored: Readable, rows: NDArray[np.int64]) -> Readable:
    """Read an array of the listed rows only by their numbers among all rows."""
    return View(stored, lambda taken: stored.take(np.searchsorted(rows, taken)))


def _is_stored(file: Path, mark: str) -> bool:
    try:
        arrays.StoredArray(file, mark)
    except UserError:  # absent, damaged, or of other rows: computed again
        return False
    return True


def _require_room(
    root: Path, rows: Sequence[NDArray[np.int64]], width: int, budget_bytes: int
) -> None:
    total = 4 * width * sum(map(len, rows))
    print(f"{root}: the output of the frozen layers takes up to {total / GIB:.3g} GiB")
    if total > budget_bytes:
        raise UserError(
            f"{root}: expected at most the {budget_bytes / GIB:.3g} GiB that STAGES_DISK_GIB "
            f"leaves, got {total / GIB:.3g} GiB for {len(rows[0])} images in {len(rows)} views; "
            "make room, take fewer views (extract.views) or a later layer (unfreeze_from), or set "
            "fine_tune.cache_frozen: false"
        )
