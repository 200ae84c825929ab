"""Arrays in the store: one row an image, sharded zarr v3, checksummed, the same bytes every time.

A store holds one array of shape (n, ...) whose row i belongs to the i-th accepted row of
`data/split.csv`; its attribute `fingerprint` says so, and opening compares it. A shard is one file
of about `SHARD_BYTES`, the unit of writing; a chunk is the least that can be read alone.
"""

import abc
import functools
import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.errors
from numpy.typing import DTypeLike, NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

from pipeline import paths
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError, of_the_machine

SHARD_BYTES = 32 * 2**20  # DVC hashes files over 2 MiB in threads, and few files fast
CHUNK_BYTES = 2**19
DIGESTS = "sha256.npy"
CODECS = (BytesCodec, Crc32cCodec, ZstdCodec)
DESCRIPTION, SUM = "zarr.json", "crc32"  # zarr's own file, and our attribute in it


def create(
    path: Path,
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    fingerprint: str,
    shard_rows: int | None = None,
) -> list[range]:
    """Create the array at `path`, still without rows.

    Args:
        shape: (n, ...), n at least 1.
        dtype: that the rows are stored as.
        fingerprint: of the ledger rows that the array's rows belong to.
        shard_rows: about how many rows in a shard, if fewer than `SHARD_BYTES` hold.

    Returns:
        The rows of each shard, for `write_shard`.
    """
    chunk, shard = _chunk_and_shard(shape, np.dtype(dtype), shard_rows or shape[0])
    zarr.create_array(
        path,
        shape=shape,
        dtype=np.dtype(dtype),
        chunks=(chunk, *shape[1:]),
        shards=(shard, *shape[1:]),
        compressors=_codecs(np.dtype(dtype)),
        fill_value=0,
        attributes={"fingerprint": fingerprint},
        config={"write_empty_chunks": True},
    )
    described = json.loads((path / DESCRIPTION).read_bytes())
    described["attributes"] = {SUM: _sum(described), **described["attributes"]}
    (path / DESCRIPTION).write_text(json.dumps(described, indent=2), encoding="utf-8")
    return [range(at, min(at + shard, shape[0])) for at in range(0, shape[0], shard)]


def write_shard(path: Path, rows: range, values: NDArray[Any]) -> None:
    """Write all rows of one shard; several threads or processes may each write theirs at once."""
    array = zarr.open_array(path, mode="r+").with_config({"write_empty_chunks": True})
    array[rows.start : rows.stop] = values


def digest(row: NDArray[Any]) -> bytes:
    """The sha256 of a row's values, 32 bytes: rows of one store that are equal have the same."""
    return hashlib.sha256(np.ascontiguousarray(row).data).digest()


def write_digests(path: Path, digests: NDArray[np.uint8]) -> None:
    """Keep each row's `digest` beside the array, uint8 (n, 32), so that rows are known unread.

    They are written as (n + 1, 32): the last one is that of all others.
    """
    last = np.frombuffer(digest(digests), np.uint8)[None]
    np.save(path / DIGESTS, np.concatenate([digests, last]), allow_pickle=False)


def write(
    path: Path,
    blocks: Iterable[NDArray[Any]],
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    fingerprint: str,
) -> None:
    """Write the rows of `blocks`, one after the other, as the array at `path`.

    Args:
        blocks: arrays of shape (any number of rows, *shape[1:]), in row order; no more than a
            shard of them is held in memory.
        shape, dtype, fingerprint: as for `create`.

    Raises:
        ValueError: the blocks do not hold exactly `shape[0]` rows.
    """
    shards = iter(create(path, shape=shape, dtype=dtype, fingerprint=fingerprint))
    shard = next(shards)
    pending = np.empty((len(shard), *shape[1:]), dtype=dtype)
    given = filled = 0
    for block in blocks:
        given += len(block)
        taken = 0
        while given <= shape[0] and taken < len(block):
            k = min(len(shard) - filled, len(block) - taken)
            pending[filled : filled + k] = block[taken : taken + k]
            filled += k
            taken += k
            if filled == len(shard):
                write_shard(path, shard, pending[:filled])
                shard, filled = next(shards, range(0)), 0
    if given != shape[0]:
        raise ValueError(f"{path}: expected {shape[0]} rows, got {given}")


class Readable(abc.ABC):
    """Rows that can be read.

    Attributes:
        shape: (n, ...).
        dtype: of the values.
        chunk: rows that are best read together.
        fingerprint: of the ledger rows that the array's rows belong to.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: int
    fingerprint: str

    def __len__(self) -> int:
        return self.shape[0]

    @abc.abstractmethod
    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The given rows, ascending, as one array (len(rows), ...) in memory."""

    @abc.abstractmethod
    def batches(self, size: int, rows: NDArray[np.int64] | None = None) -> Iterator[NDArray[Any]]:
        """All rows, or the given ascending ones, `size` at a time (fewer in the last)."""

    def shuffled(
        self, rows: NDArray[np.int64], size: int, rng: np.random.Generator, buffer_bytes: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """The given rows in random order, `size` at a time, as (row numbers, values).

        Where all rows fit into `buffer_bytes`, the order is a uniform permutation, the same for any
        array. Otherwise chunks are drawn in random order and read once each until the buffer is
        full; rows in the buffer are handed out shuffled. Chunks, not shards: in the ledger's order
        a shard holds images of one class. Every batch is full but the last.
        """
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        if row_bytes * len(rows) <= buffer_bytes:
            groups = [rows]
        else:
            per_buffer = max(1, buffer_bytes // (row_bytes * self.chunk))
            chunks = rng.permutation(np.unique(rows // self.chunk))
            groups = [
                rows[np.isin(rows // self.chunk, chunks[first : first + per_buffer])]
                for first in range(0, len(chunks), per_buffer)
            ]
        batch = rows[:0], np.empty((0, *self.shape[1:]), dtype=self.dtype)
        for chosen in groups:
            values = self.take(chosen)
            order = rng.permutation(len(chosen))
            at = 0
            while at < len(order):
                part = order[at : at + size - len(batch[0])]
                at += len(part)
                batch = (
                    np.concatenate([batch[0], chosen[part]]),
                    np.concatenate([batch[1], values[part]]),
                )
                if len(batch[0]) == size:
                    yield batch
                    batch = batch[0][:0], batch[1][:0]
            del values  # before the next buffer is filled
        if len(batch[0]):
            yield batch


class Rows(Readable):
    """An array in the store, opened for reading and checked against the ledger."""

    def __init__(self, path: Path, fingerprint: str | None = None) -> None:
        """Open `path`; with `fingerprint`, refuse an array made from another ledger.

        Raises:
            UserError: not an array, shards missing, or rows of another `data/split.csv`.
        """
        self._path = path
        try:
            self._array = zarr.open_array(path, mode="r", zarr_format=3)
            _require_ours(self._array)
            self.shape = self._array.shape
            self.chunk = self._array.chunks[0]
            self._shard = (self._array.shards or self._array.chunks)[0]
            self.dtype = self._array.dtype
            self.fingerprint = str(self._array.attrs.get("fingerprint", ""))
            shards = math.ceil(len(self) / self._shard)
        except Exception as error:  # zarr trips over a damaged description in a dozen ways
            if of_the_machine(error, path):
                raise
            raise UserError(
                f"{path}: expected a zarr array, got {_one_line(error)!r}; "
                f"remove {path} and run `dvc repro` again"
            ) from None
        self._require_its_description()
        if fingerprint is not None and self.fingerprint != fingerprint:
            raise UserError(
                f"{path}: expected the rows of the data/split.csv that stands there now, "
                f"got {len(self)} rows of another one; run `dvc repro` to make it anew"
            )
        # zarr reads zeros where a shard is missing or empty. A damaged shape may claim billions.
        inner = "/".join("0" * (len(self.shape) - 1))
        sizes = {file: file.stat().st_size for file in (path / "c").rglob("*") if file.is_file()}
        files = (path / "c" / str(i) / inner for i in range(min(shards, len(sizes) + 1)))
        lost = [i for i, file in enumerate(files) if not sizes.get(file)]
        if lost:
            missing = len(lost) + max(0, shards - len(sizes) - 1)
            raise UserError(
                f"{path}: expected {shards} shards, got {missing} missing or empty, the first is "
                f"{lost[0]}; remove {path} and run `dvc repro` again"
            )

    def _require_its_description(self) -> None:
        """What zarr takes for shape, type and codecs has no checksum of its own."""
        if (found := self._array.attrs.get(SUM)) is None:
            return
        if found != _sum(json.loads((self._path / DESCRIPTION).read_bytes())):
            raise UserError(
                f"{self._path}/{DESCRIPTION}: expected what fits its {SUM}, got something else; "
                f"remove {self._path} and run `dvc repro` again"
            )

    @functools.cached_property
    def digests(self) -> NDArray[np.uint8]:
        """What `write_digests` kept: uint8 (n, 32)."""
        try:
            found = np.load(self._path / DIGESTS, allow_pickle=False)
        except Exception as error:  # numpy trips over a damaged header in several ways
            if of_the_machine(error, f"{self._path}/{DIGESTS}"):
                raise
            known = isinstance(error, OSError | ValueError | EOFError)
            told = getattr(error, "strerror", None) or _one_line(error)
            told = told if known else "a damaged header"
            raise self._damaged("the digests of its rows", told) from None
        if found.shape != (len(self) + 1, 32) or found.dtype != np.uint8:
            raise self._damaged(f"uint8 ({len(self) + 1}, 32)", f"{found.dtype} {found.shape}")
        if digest(found[:-1]) != found[-1].tobytes():
            raise self._damaged("digests that fit their own", "others")
        return np.asarray(found[:-1])

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` (exclusive), checked against their checksums."""
        try:
            return np.asarray(self._array[start:stop])
        except Exception as error:  # a damaged description may show here only
            if of_the_machine(error, self._path):
                raise
            raise UserError(
                f"{self._path} rows {start} to {stop - 1}: expected bytes that fit their checksum, "
                f"got {_one_line(error)!r}; remove {self._path} and run `dvc repro` again"
            ) from None

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The given rows, ascending, as one array (len(rows), ...) in memory.

        Read in runs of neighbouring chunks, none longer than a shard.
        """
        if (
            len(rows)
            and rows[-1] - rows[0] == len(rows) - 1
            and rows[-1] // self._shard == (rows[0] // self._shard)
        ):
            return self.read(int(rows[0]), int(rows[-1]) + 1)
        taken = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        gap = (np.diff(rows // self.chunk) > 1) | (np.diff(rows // self._shard) > 0)
        done = 0
        for run in np.split(rows, np.flatnonzero(gap) + 1):
            if len(run):
                block = self.read(int(run[0]), int(run[-1]) + 1)
                taken[done : done + len(run)] = block[run - run[0]]
                done += len(run)
        return taken

    def batches(self, size: int, rows: NDArray[np.int64] | None = None) -> Iterator[NDArray[Any]]:
        """All rows, or the given ascending ones, `size` at a time (fewer in the last).

        Each shard is read once, and no more than a shard and a batch is held in memory.
        """
        if rows is None:
            rows = np.arange(len(self))
        rest = np.empty((0, *self.shape[1:]), dtype=self.dtype)
        for shard in np.unique(rows // self._shard):
            block = self.take(rows[rows // self._shard == shard])
            if len(rest):  # of a batch that the shard before began
                begun = len(rest)
                rest = np.concatenate([rest, block[: size - begun]])
                block = block[size - begun :]
                if len(rest) < size:
                    continue
                yield rest
            whole = len(block) - len(block) % size
            for first in range(0, whole, size):
                yield block[first : first + size]
            rest = block[whole:].copy()  # a view would keep the shard
        if len(rest):
            yield rest

    def _damaged(self, expected: str, got: str) -> UserError:
        return UserError(
            f"{self._path}/{DIGESTS}: expected {expected}, got {got!r}; remove {self._path} and "
            "run `dvc repro` again"
        )


class SideBySide(Readable):
    """Arrays of the same rows as one, joined along their last axis."""

    def __init__(self, parts: Sequence[Readable]) -> None:
        first = parts[0]
        self._parts = parts
        self.shape = (*first.shape[:-1], sum(part.shape[-1] for part in parts))
        self.dtype = np.result_type(*(part.dtype for part in parts))
        self.chunk = max(part.chunk for part in parts)
        self.fingerprint = first.fingerprint

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        if len(self._parts) == 1:
            return self._parts[0].take(rows)
        taken = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        start = 0
        for part in self._parts:  # one at a time, not twice in memory
            taken[..., start : start + part.shape[-1]] = part.take(rows)
            start += part.shape[-1]
        return taken

    def batches(self, size: int, rows: NDArray[np.int64] | None = None) -> Iterator[NDArray[Any]]:
        every = (part.batches(size, rows) for part in self._parts)
        for joined in zip(*every, strict=True):
            yield _joined(joined)


def _joined(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return values[0] if len(values) == 1 else np.concatenate(values, axis=-1)


def open_features(backbones: Iterable[str], fingerprint: str) -> SideBySide:
    """Open the features of all backbones side by side, (n, views, d_1 + ... + d_k)."""
    return SideBySide(
        [
            Rows(atomic_files.require(paths.features(name), f"extract@{name}"), fingerprint)
            for name in backbones
        ]
    )


class Drawn(Readable):
    """Of arrays that hold a view each, one value a row, (n, ...): that of the view drawn for it."""

    def __init__(self, views: Sequence[Readable], drawn: NDArray[np.int64]) -> None:
        """`drawn`, (n,), tells the view of each row."""
        first = views[0]
        self._views, self._drawn = views, drawn
        self.shape, self.dtype, self.chunk = first.shape, first.dtype, first.chunk
        self.fingerprint = first.fingerprint

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        taken = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        for number, view in enumerate(self._views):
            of_it = self._drawn[rows] == number
            if of_it.any():
                taken[of_it] = view.take(rows[of_it])
        return taken

    def batches(self, size: int, rows: NDArray[np.int64] | None = None) -> Iterator[NDArray[Any]]:
        rows = np.arange(len(self)) if rows is None else rows
        for first in range(0, len(rows), size):
            yield self.take(rows[first : first + size])


def hold(array: Readable, rows: NDArray[np.int64], budget_bytes: int) -> Readable:
    """The array, or those rows of it in memory if they take no more than the budget."""
    row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
    return Held(array, rows) if row_bytes * len(rows) <= budget_bytes else array


class Held(Readable):
    """Some rows of an array, read once and kept in memory; any of them can be taken."""

    def __init__(self, array: Readable, rows: NDArray[np.int64]) -> None:
        self.shape, self.dtype, self.chunk = array.shape, array.dtype, array.chunk
        self.fingerprint = array.fingerprint
        self._rows, self._values = rows, array.take(rows)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        values: NDArray[Any] = self._values[np.searchsorted(self._rows, rows)]
        return values

    def batches(self, size: int, rows: NDArray[np.int64] | None = None) -> Iterator[NDArray[Any]]:
        rows = self._rows if rows is None else rows
        for first in range(0, len(rows), size):
            yield self.take(rows[first : first + size])


def _chunk_and_shard(
    shape: tuple[int, ...], dtype: np.dtype[Any], most_rows: int
) -> tuple[int, int]:
    """Rows in a chunk and in a shard: near `CHUNK_BYTES` and `SHARD_BYTES`, shard a multiple."""
    row_bytes = dtype.itemsize * math.prod(shape[1:])
    most = min(most_rows, shape[0])
    chunk = min(max(1, CHUNK_BYTES // row_bytes), most)
    chunks = min(max(1, SHARD_BYTES // (row_bytes * chunk)), math.ceil(most / chunk))
    return chunk, chunk * chunks


def _codecs(dtype: np.dtype[Any]) -> list[Crc32cCodec] | list[ZstdCodec]:
    """All with a checksum. Photos' pixels shrink by an eighth only, at five times the time."""
    if dtype == np.uint8:
        return [Crc32cCodec()]
    return [ZstdCodec(level=1, checksum=True)]


def _require_ours(array: zarr.Array[Any]) -> None:
    """Refuse what `create` does not write: a stranger's array may name a codec that unpickles."""
    codecs = [*array.filters, array.serializer, *array.compressors]
    if array.dtype.kind not in "fiu" or {type(codec) for codec in codecs} - set(CODECS):
        names = sorted({type(codec).__name__ for codec in codecs})
        raise ValueError(f"one of {array.dtype} through {', '.join(names)}")


def _sum(described: dict[str, Any]) -> str:
    """Of a `zarr.json`, by its content but for the sum itself."""
    known = {key: value for key, value in described["attributes"].items() if key != SUM}
    text = json.dumps({**described, "attributes": known}, sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
