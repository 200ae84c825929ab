"""Activations of frozen layers, kept under ROOT/KEY/VIEW.zarr from one run to the next.

KEY identifies everything that they depend on but view and images. Only those of one key are kept:
they may be larger than the images. Each view is kept once it is complete, so a killed run loses one
at most.
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
from pipeline.storage.array_views import Renumbered
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
    """Open the activations of each view; compute and write the missing ones.

    Args:
        rows: for each view the rows, ascending, whose activations are needed.
        compute: takes a view and rows, yields blocks of their activations, (k, width) float32.
        width: of the activations of a row.
        fingerprint: of the ledger rows that all rows belong to.
        budget_bytes: the most that all may take on disk.

    Returns:
        For each view an array (n, width); only the listed rows can be taken.

    Raises:
        UserError: they would take more than the budget, or than the disk has left.
    """
    folder = root / key
    count = int(max(listed[-1] for listed in rows)) + 1
    marks = [hashlib.sha256(fingerprint.encode() + one.tobytes()).hexdigest() for one in rows]
    stored = {view: _opened(folder, view, mark) for view, mark in enumerate(marks)}
    missing = [view for view, array in stored.items() if array is None]
    if missing:
        _require_room(root, [len(one) for one in rows], missing, width, budget_bytes)
        for old in root.iterdir():
            if old != folder:
                shutil.rmtree(old)
        folder.mkdir(exist_ok=True)
    with progress("frozen layers", sum(len(rows[view]) for view in missing)) as bar:
        for view in missing:
            with atomic_files.replacing(folder / f"{view}.zarr") as partial:
                blocks = bar.over(compute(view, rows[view]))
                shape, mark = (len(rows[view]), width), marks[view]
                arrays.write(partial, blocks, shape=shape, dtype=np.float32, fingerprint=mark)
    return [
        Renumbered(stored[view] or arrays.StoredArray(folder / f"{view}.zarr", mark), one, count)
        for view, (mark, one) in enumerate(zip(marks, rows, strict=True))
    ]


def _opened(folder: Path, view: int, mark: str) -> arrays.StoredArray | None:
    try:
        return arrays.StoredArray(folder / f"{view}.zarr", mark)
    except UserError:  # absent, damaged, or of other rows: computed again
        return None


def _require_room(
    root: Path, counts: Sequence[int], missing: Sequence[int], width: int, budget_bytes: int
) -> None:
    """Refuse activations that exceed the budget, or the disk once the old ones are removed."""
    root.mkdir(parents=True, exist_ok=True)
    total, new = 4 * width * sum(counts), 4 * width * sum(counts[view] for view in missing)
    old = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    free = shutil.disk_usage(root).free + old - (total - new)
    print(f"{root}: the output of the frozen layers takes up to {total / GIB:.3g} GiB")
    if total > budget_bytes or new > free:
        limit = "STAGES_DISK_GIB" if total > budget_bytes else "the disk"
        most = budget_bytes if total > budget_bytes else free
        raise UserError(
            f"{root}: expected at most the {most / GIB:.3g} GiB that {limit} leaves, got "
            f"{total / GIB:.3g} GiB for {counts[0]} images in {len(counts)} views; make room, "
            "take fewer views (extract.views) or a later layer (unfreeze_from), or set "
            "fine_tune.cache_frozen: false"
        )
