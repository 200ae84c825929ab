"""Readable arrays made of others: side by side, one view per row, in memory, renumbered, shuffled.

All views of an array have its fingerprint and, unless said otherwise, its row numbers.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import paths
from pipeline.runtime import atomic_files
from pipeline.storage.arrays import Readable, StoredArray


class ArrayView(Readable):
    """An array read through another one."""

    def __init__(self, base: Readable, shape: tuple[int, ...] | None = None) -> None:
        self.shape = base.shape if shape is None else shape
        self.dtype, self.chunk, self.fingerprint = base.dtype, base.chunk, base.fingerprint


class SideBySide(ArrayView):
    """Arrays of the same rows, joined along their last axis."""

    def __init__(self, parts: Sequence[Readable]) -> None:
        width = sum(part.shape[-1] for part in parts)
        super().__init__(parts[0], (*parts[0].shape[:-1], width))
        self._parts = parts
        self.dtype = np.result_type(*(part.dtype for part in parts))
        self.chunk = max(part.chunk for part in parts)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        taken = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        start = 0
        for part in self._parts:  # one at a time, so that the rows are not in memory twice
            taken[..., start : start + part.shape[-1]] = part.take(rows)
            start += part.shape[-1]
        return taken

    def batches(self, size: int, rows: NDArray[np.int64] | None = None) -> Iterator[NDArray[Any]]:
        for blocks in zip(*(part.batches(size, rows) for part in self._parts), strict=True):
            yield np.concatenate(blocks, axis=-1)


def open_features(backbones: Iterable[str], fingerprint: str) -> Readable:
    """Open the features of all backbones side by side, (n, views, d_1 + ... + d_k)."""
    parts = [
        StoredArray(atomic_files.require(paths.features(name), f"extract@{name}"), fingerprint)
        for name in backbones
    ]
    return parts[0] if len(parts) == 1 else SideBySide(parts)


class OneOfEach(ArrayView):
    """For each row the value in one of several arrays, such as its activations in a drawn view."""

    def __init__(self, arrays: Sequence[Readable], choice: NDArray[np.int64]) -> None:
        """Take row i from `arrays[choice[i]]`; `choice` has shape (n,)."""
        super().__init__(arrays[0])
        self._arrays, self._choice = arrays, choice

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        taken = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        for number, array in enumerate(self._arrays):
            of_array = self._choice[rows] == number
            taken[of_array] = array.take(rows[of_array])
        return taken


class InMemory(ArrayView):
    """Some rows of an array, read once; only these can be taken, by their numbers in the array."""

    def __init__(self, base: Readable, rows: NDArray[np.int64]) -> None:
        super().__init__(base)
        self._rows, self._values = rows, base.take(rows)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        values: NDArray[Any] = self._values[np.searchsorted(self._rows, rows)]
        return values


def in_memory_if_small(array: Readable, rows: NDArray[np.int64], budget_bytes: int) -> Readable:
    """Read the listed rows into memory if they fit the budget; return the array otherwise."""
    return InMemory(array, rows) if array.row_bytes() * len(rows) <= budget_bytes else array


class Renumbered(ArrayView):
    """An array that stores only some of n rows, read by the numbers that they have among all n."""

    def __init__(self, base: Readable, rows: NDArray[np.int64], count: int) -> None:
        super().__init__(base, (count, *base.shape[1:]))
        self._base, self._rows = base, rows

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._base.take(np.searchsorted(self._rows, rows))

    def batches(self, size: int, rows: NDArray[np.int64] | None = None) -> Iterator[NDArray[Any]]:
        return self._base.batches(size, None if rows is None else np.searchsorted(self._rows, rows))


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
        at = 0
        while at < len(order):
            part = order[at : at + size - len(batch[0])]
            at += len(part)
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
