"""Readable arrays made of others: side by side, one view per row, in memory; shuffled rows."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import paths
from pipeline.runtime import atomic_files
from pipeline.storage.arrays import Readable, StoredArray


class View(Readable):
    """An array that a function reads, otherwise like `base`, with its fingerprint."""

    def __init__(
        self,
        base: Readable,
        take: Callable[[NDArray[np.int64]], NDArray[Any]],
        shape: tuple[int, ...] | None = None,
    ) -> None:
        self.shape = base.shape if shape is None else shape
        self.dtype, self.chunk, self.fingerprint = base.dtype, base.chunk, base.fingerprint
        self._take = take

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._take(rows)


def open_features(backbones: Iterable[str], fingerprint: str) -> Readable:
    """Open the features of all backbones side by side, (n, views, d_1 + ... + d_k)."""
    parts = [
        StoredArray(atomic_files.require(paths.features(name), f"extract@{name}"), fingerprint)
        for name in backbones
    ]
    ends = np.cumsum([0, *(part.shape[-1] for part in parts)]).tolist()
    shape = (*parts[0].shape[:-1], ends[-1])

    def take(rows: NDArray[np.int64]) -> NDArray[Any]:
        taken = np.empty((len(rows), *shape[1:]), dtype=parts[0].dtype)
        for part, start, end in zip(parts, ends, ends[1:], strict=False):
            taken[..., start:end] = part.take(rows)  # so that the rows are not in memory twice
        return taken

    view = View(parts[0], take, shape)
    view.chunk = max(part.chunk for part in parts)
    return view if len(parts) > 1 else parts[0]


def one_of_each(arrays: Sequence[Readable], choice: NDArray[np.int64]) -> Readable:
    """Take row i from `arrays[choice[i]]`, such as its activations in a drawn view."""

    def take(rows: NDArray[np.int64]) -> NDArray[Any]:
        taken = np.empty((len(rows), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
        for number, array in enumerate(arrays):
            of_array = choice[rows] == number
            taken[of_array] = array.take(rows[of_array])
        return taken

    return View(arrays[0], take)


def in_memory_if_small(array: Readable, rows: NDArray[np.int64], budget_bytes: int) -> Readable:
    """Read the listed rows into memory if they fit the budget; only these can be taken then."""
    if array.row_bytes() * len(rows) > budget_bytes:
        return array
    values = array.take(rows)
    return View(array, lambda taken: values[np.searchsorted(rows, taken)])


def in_file_if_large(
    parts: Iterable[NDArray[np.float32]], shape: tuple[int, int], budget_bytes: int
) -> NDArray[np.float32]:
    """Return the parts, one below the other; beyond the budget mapped to a file without a name.

    The file is in the current folder, and its disk space is free again as soon as the array is.
    """
    if 4 * shape[0] * shape[1] <= budget_bytes:
        values, start = np.empty(shape, np.float32), 0
        for part in parts:
            values[start : start + len(part)] = part
            start += len(part)
        return values
    with tempfile.TemporaryFile(dir=".") as file:
        for part in parts:
            file.write(np.ascontiguousarray(part, np.float32).data)
        file.flush()
        return np.asarray(np.memmap(file, np.float32, "r+", shape=shape))


def shuffled(
    array: Readable,
    rows: NDArray[np.int64],
    size: int,
    rng: np.random.Generator,
    buffer_bytes: int,
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Yield the listed rows in random order, `size` at a time, as (row numbers, values).

    If all rows fit into `buffer_bytes`, the order is a uniform permutation, the same for any array.
    Otherwise chunks are drawn in random order and read once each until the buffer is full, and the
    rows in the buffer are shuffled. Chunks rather than shards: in the ledger's order a shard holds
    images of one class. Every batch but the last is full.
    """
    if array.row_bytes() * len(rows) <= buffer_bytes:
        groups = [rows]
    else:
        per_buffer = max(1, buffer_bytes // (array.row_bytes() * array.chunk))
        chunks = rng.permutation(np.unique(rows // array.chunk))
        groups = [
            rows[np.isin(rows // array.chunk, chunks[first : first + per_buffer])]
            for first in range(0, len(chunks), per_buffer)
        ]
    batch = rows[:0], np.empty((0, *array.shape[1:]), dtype=array.dtype)
    for group in groups:
        values = array.take(group)
        order = rng.permutation(len(group))
        while len(order):
            part, order = np.split(order, [size - len(batch[0])])
            batch = (
                np.concatenate([batch[0], group[part]]),
                np.concatenate([batch[1], values[part]]),
            )
            if len(batch[0]) == size:
                yield batch
                batch = batch[0][:0], batch[1][:0]
        del values  # before the next buffer is filled
    if len(batch[0]):
        yield batch
