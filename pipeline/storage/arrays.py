"""Arrays on disk: one row per image, sharded zarr v3 with checksums, the same bytes every time.

An array has shape (n, ...); row i belongs to the i-th accepted row of `data/split.csv`. Its
attribute `fingerprint` identifies those ledger rows and is compared on opening. A shard is one file
of about `SHARD_BYTES`, the unit of writing; a chunk is the smallest part that can be read alone.
"""

import abc
import contextlib
import functools
import hashlib
import io
import itertools
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.runtime.errors import UserError, of_the_machine

SHARD_BYTES = 32 * 2**20  # DVC hashes files over 2 MiB in threads, and few files fast
CHUNK_BYTES = 2**19
CRC32C_BYTES = 4
DIGESTS = "sha256.npy"
METADATA, CRC32 = "zarr.json", "crc32"  # zarr's own file, and our attribute in it


def create(
    path: Path,
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    fingerprint: str,
    shard_rows: int | None = None,
) -> list[range]:
    """Create the array at `path`, still without rows; return the rows of each shard.

    Args:
        shape: (n, ...), n at least 1.
        dtype: of the stored values.
        fingerprint: of the ledger rows that the array's rows belong to.
        shard_rows: about how many rows per shard, if fewer than fit into `SHARD_BYTES`.
    """
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    dtype = np.dtype(dtype)
    chunk, shard = _chunk_and_shard(shape, dtype, shard_rows or shape[0])
    zarr.create_array(
        path,
        shape=shape,
        dtype=dtype,
        chunks=(chunk, *shape[1:]),
        shards=(shard, *shape[1:]),
        # Pixels shrink by an eighth only, at five times the time.
        compressors=[Crc32cCodec() if dtype == np.uint8 else ZstdCodec(level=1, checksum=True)],
        fill_value=0,
        attributes={"fingerprint": fingerprint},
        config={"write_empty_chunks": True},
    )
    metadata = json.loads((path / METADATA).read_bytes())
    metadata["attributes"] = {CRC32: _crc32(metadata), **metadata["attributes"]}
    (path / METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    return [range(at, min(at + shard, shape[0])) for at in range(0, shape[0], shard)]


def write_shard(path: Path, rows: range, values: NDArray[Any]) -> None:
    """Write all rows of one shard; threads and processes may write different shards at once."""
    import zarr

    array = zarr.open_array(path, mode="r+").with_config({"write_empty_chunks": True})
    array[rows.start : rows.stop] = values


def write(
    path: Path,
    blocks: Iterable[NDArray[Any]],
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    fingerprint: str,
) -> None:
    """Write consecutive blocks of rows, (any number, *shape[1:]), as the array at `path`.

    At most one shard is kept in memory. Other than `shape[0]` rows in all are a ValueError.
    """
    size = len(create(path, shape=shape, dtype=dtype, fingerprint=fingerprint)[0])
    pending = np.empty((size, *shape[1:]), dtype=dtype)
    total = 0
    for block in blocks:
        for part in np.split(block, range(size - total % size, len(block), size)):
            at, total = total % size, total + len(part)
            filled = at + len(part)
            pending[at:filled] = part
            if len(part) and (filled == size or total == shape[0]) and total <= shape[0]:
                write_shard(path, range(total - filled, total), pending[:filled])
    if total != shape[0]:
        raise ValueError(f"{path}: expected {shape[0]} rows, got {total}")


def digest(row: NDArray[Any]) -> bytes:
    """Return the sha256 of a row's values, 32 bytes."""
    return hashlib.sha256(np.ascontiguousarray(row).data).digest()


def digests(rows: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the `digest` of each row, uint8 (n, 32)."""
    return np.frombuffer(b"".join(map(digest, rows)), np.uint8).reshape(-1, 32)


def write_digests(path: Path, row_digests: NDArray[np.uint8]) -> None:
    """Store the digest of each row beside the array, followed by the digest of all digests."""
    last = np.frombuffer(digest(row_digests), np.uint8)[None]
    np.save(path / DIGESTS, np.concatenate([row_digests, last]), allow_pickle=False)


class Readable(abc.ABC):
    """An array that is read by rows."""

    shape: tuple[int, ...]  # (n, ...)
    dtype: np.dtype[Any]
    chunk: int  # number of rows that are best read together
    fingerprint: str  # of the ledger rows that the array's rows belong to

    def __len__(self) -> int:
        return self.shape[0]

    @abc.abstractmethod
    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read the listed rows, ascending, into one array (len(rows), ...)."""

    def batches(self, size: int, rows: NDArray[np.int64] | None = None) -> Iterator[NDArray[Any]]:
        """Yield all rows, or the listed ascending ones, `size` at a time (fewer in the last)."""
        rows = np.arange(len(self)) if rows is None else rows
        for first in range(0, len(rows), size):
            yield self.take(rows[first : first + size])

    def row_bytes(self) -> int:
        """Return the size of a row in memory."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


class StoredArray(Readable):
    """An array on disk, opened for reading and checked against the ledger."""

    def __init__(
        self, path: Path, fingerprint: str | None = None, *, complete: bool = True
    ) -> None:
        """Open `path`; a UserError if it is damaged, or has rows of another `data/split.csv`.

        Unless `complete`, shards may be missing; zarr reads their rows as zeros.
        """
        import zarr  # takes 0.2 s, which `predict` does without

        self._path = path
        with self._refusing("a zarr array", path):
            self._array = zarr.open_array(path, mode="r", zarr_format=3)
            _require_ours(self._array)
            # Zarr itself reads shape, dtype and codecs without a checksum.
            crc32 = _crc32(json.loads((path / METADATA).read_bytes()))
            if self._array.attrs.get(CRC32, crc32) != crc32:
                raise ValueError(f"another {METADATA} than its {CRC32} says")
            self.shape, self.dtype = self._array.shape, self._array.dtype
            self.chunk = self._array.chunks[0]
            self.shard = (self._array.shards or self._array.chunks)[0]
            self.fingerprint = str(self._array.attrs.get("fingerprint", ""))
            shards = math.ceil(len(self) / self.shard)
            files = path.glob("c/*" + "/0" * (len(self.shape) - 1))
            numbers = {int(file.relative_to(path).parts[1]) for file in files}
            self.stored = {number for number in numbers if self.has_shard(number)}
        if fingerprint is not None and self.fingerprint != fingerprint:
            raise UserError(
                f"{path}: expected the rows of the current data/split.csv, got {len(self)} rows of "
                "another one; run `dvc repro` to make it anew"
            )
        missing = next((i for i in range(shards) if i not in self.stored), None)
        if complete and missing is not None:  # zarr reads missing and empty shards as zeros
            raise UserError(
                f"{path}: expected {shards} shards, got {shards - len(self.stored)} missing or "
                f"empty, the first is {missing}; remove {path} and run `dvc repro` again"
            )

    def shard_file(self, number: int) -> Path:
        """Return the path of a shard."""
        return self._path.joinpath("c", str(number), *["0"] * (len(self.shape) - 1))

    def has_shard(self, number: int) -> bool:
        """Return whether a shard is there, and not empty."""
        file = self.shard_file(number)
        return file.exists() and file.stat().st_size > 0

    @functools.cached_property
    def digests(self) -> NDArray[np.uint8]:
        """The digest of each row as `write_digests` stored it, uint8 (n, 32)."""
        with self._refusing("the sha256 of each row", path := self._path / DIGESTS):
            stored: NDArray[np.uint8] = np.load(path, allow_pickle=False)
            if stored.dtype != np.uint8 or stored.shape != (len(self) + 1, 32):
                raise ValueError(f"{stored.dtype} {stored.shape}")
            if digest(stored[:-1]) != stored[-1].tobytes():
                raise ValueError("others than their own sha256 says")
        return stored[:-1]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows `start` to `stop` (exclusive) and verify their checksums."""
        rows = f" rows {start} to {stop - 1}"
        read = self._read_pixels if self.dtype == np.uint8 else self._read_by_zarr
        with self._refusing("bytes that fit their checksum", self._path, rows):
            return read(start, stop)

    def _read_by_zarr(self, start: int, stop: int) -> NDArray[Any]:
        return np.asarray(self._array[start:stop])

    def _read_pixels(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read rows whose chunks are stored as they are, each with its crc32c behind it.

        Zarr's own codecs give the same at a third of the speed, one thread at a time.
        https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
        """
        numbers = range(start // self.chunk, math.ceil(stop / self.chunk))
        chunks = np.empty((len(numbers), self.chunk, *self.shape[1:]), np.uint8)
        of_shard = self.shard // self.chunk
        for number, shard in itertools.groupby(numbers, lambda number: number // of_shard):
            with self.shard_file(number).open("rb", buffering=0) as file:
                index = _shard_index(file, of_shard)
                for chunk in shard:
                    place, size = index[chunk % of_shard].tolist()
                    _read_checked(file, place, size, chunks[chunk - numbers.start])
        rows = chunks.reshape(-1, *self.shape[1:])
        return rows[start - numbers.start * self.chunk :][: stop - start]

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read the listed rows, in runs of neighboring chunks of one shard."""
        gap = (np.diff(rows // self.chunk) > 1) | (np.diff(rows // self.shard) > 0)
        runs = np.split(rows, np.flatnonzero(gap) + 1) if len(rows) else []
        if len(runs) == 1 and rows[-1] - rows[0] == len(rows) - 1:
            return self.read(int(rows[0]), int(rows[-1]) + 1)  # without a copy
        taken = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        done = 0
        for run in runs:
            block = self.read(int(run[0]), int(run[-1]) + 1)
            taken[done : done + len(run)] = block[run - run[0]]
            done += len(run)
        return taken

    @contextlib.contextmanager
    def _refusing(self, expected: str, path: Path, rows: str = "") -> Iterator[None]:
        """Refuse damage in one sentence: zarr and numpy raise a dozen kinds of errors on it."""
        try:
            yield
        except Exception as error:
            if of_the_machine(error, path):
                raise
            text = " ".join((getattr(error, "strerror", None) or str(error)).split())
            got = repr(text or type(error).__name__)
            remedy = f"remove {self._path} and run `dvc repro` again"
            raise UserError(f"{path}{rows}: expected {expected}, got {got}; {remedy}") from None


def _shard_index(file: io.FileIO, count: int) -> NDArray[np.uint64]:
    """Return place and size in bytes of each chunk of a shard, (count, 2), from its end."""
    index = np.empty((count, 2), "<u8")
    size = index.nbytes + CRC32C_BYTES
    _read_checked(file, os.fstat(file.fileno()).st_size - size, size, index)
    return index


def _read_checked(file: io.FileIO, place: int, size: int, into: NDArray[Any]) -> None:
    """Fill an array from a place in a file, and compare the crc32c that follows."""
    crc32c = bytearray(CRC32C_BYTES)
    if size != into.nbytes + CRC32C_BYTES or place < 0:
        raise ValueError(f"{size} bytes at {place}, not {into.nbytes + CRC32C_BYTES}")
    parts = [into.data.cast("B"), memoryview(crc32c)]
    if os.preadv(file.fileno(), parts, place) != size:
        raise ValueError("a shard that was cut short")
    found = google_crc32c.value(into)
    if found != int.from_bytes(crc32c, "little"):
        raise ValueError(f"crc32c {found:08x} in place of {int.from_bytes(crc32c, 'little'):08x}")


def _chunk_and_shard(
    shape: tuple[int, ...], dtype: np.dtype[Any], most_rows: int
) -> tuple[int, int]:
    """Return rows per chunk and per shard, near `CHUNK_BYTES` and `SHARD_BYTES`."""
    row_bytes = dtype.itemsize * math.prod(shape[1:])
    most = min(most_rows, shape[0])
    chunk = min(max(1, CHUNK_BYTES // row_bytes), most)
    chunks = min(max(1, SHARD_BYTES // (row_bytes * chunk)), math.ceil(most / chunk))
    return chunk, chunk * chunks


def _require_ours(array: Any) -> None:
    """Refuse what `create` does not write: another codec may unpickle."""
    from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

    ours = {BytesCodec, Crc32cCodec, ZstdCodec}
    codecs = [*array.filters, array.serializer, *array.compressors]
    if array.dtype.kind not in "fiu" or {type(codec) for codec in codecs} - ours:
        names = sorted({type(codec).__name__ for codec in codecs})
        raise ValueError(f"one of {array.dtype} through {', '.join(names)}")


def _crc32(metadata: dict[str, Any]) -> str:
    """Return the crc32 of a parsed `zarr.json` without the attribute that holds it."""
    attributes = {key: value for key, value in metadata["attributes"].items() if key != CRC32}
    text = json.dumps({**metadata, "attributes": attributes}, sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"
