"""The row cache: rows that `resize` and `extract` computed, by the key of their image.

ROOT/KIND/SEGMENT: a kind is the cache key, so that its rows have one dtype and shape; a segment is
a file that never changes once it has its name, little-endian:

    header   magic, dtype, number of rows n, shape of a row (0 for each axis below 4)
    index    n keys of 32 bytes; n crc32c (uint32), each of a row's key and bytes; the crc32c
             (uint32) of the kind's name, the header and the index up to here
    rows     (n, *shape), C order, to the end of the file

A lookup returns, byte for byte, what was stored under the key, or nothing. No fault of the disk, of
a file or of another process fails a run; it is reported in one line. So nothing is fsynced: what a
crash damages does not match its checksums and is computed again.

Processes and threads may share a root: no file has two writers, and any may vanish. All segments
together stay within a budget: those used longest ago (by mtime) are removed first, and never one
that any run used since this one began, so that a job larger than the budget keeps a stable part.
"""

import contextlib
import math
import os
import struct
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c  # which zarr depends on
import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 32
MAGIC = b"ROW CACHE 1\n"
HEADER = struct.Struct("<12s4s5I")
DTYPES = {name.encode().ljust(4, b"\0"): np.dtype(name) for name in ("|u1", "<f2", "<f4", "<f8")}
READ_BYTES = 2**21  # at most: few reads, each small enough for the processor's cache
STRAY_SECONDS = 24 * 3600  # after which a partial file of another host counts as abandoned
CLOCK_SECONDS = 2  # by which an mtime may be behind
HOST = os.uname().nodename


class _Segment(NamedTuple):
    path: str
    offset: int  # bytes before the rows
    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # of a row


class RowCache:
    """The rows of one kind that this run needs; `get` and `put` may be called from any thread."""

    def __init__(
        self,
        root: Path,
        kind: str,
        wanted: Iterable[bytes],
        budget_bytes: int,
        started: float | None = None,
    ) -> None:
        """Index the wanted rows; remove segments that are broken, abandoned or beyond the budget.

        Args:
            root: the folder of all kinds; the first `put` creates it.
            kind: the cache key.
            wanted: the keys of 32 bytes that this run will look up; others are never found.
            budget_bytes: of the segments of all kinds; 0 turns the cache off: it finds nothing,
                stores nothing and does not touch the disk.
            started: when the run began (`time.time()`), if it opens several caches.
        """
        self._root, self._kind, self._budget = root, kind, budget_bytes
        # Ascending keys; the address of each one's row, (segment number << 32) + row, or -1; its
        # checksum. The last entry is for all other keys and stays empty.
        self._keys = np.append(np.unique(_as_array(wanted)), b"")
        self._where = np.full(len(self._keys), -1, dtype=np.int64)
        self._checksums = np.zeros(len(self._keys), dtype=np.uint32)
        self._segments: list[_Segment] = []  # with wanted rows, now or earlier
        self._started = (time.time() if started is None else started) - CLOCK_SECONDS
        self._found = self._computed = self._corrupt = self._not_kept = 0
        self._stopped = ""  # why nothing more is stored
        self._lock = threading.Lock()
        if budget_bytes:
            try:
                self._open()
            except OSError as error:
                self._stop(error)

    @property
    def row_type(self) -> tuple[np.dtype[Any], tuple[int, ...]] | None:
        """Dtype and shape of a row; None if no wanted row is cached."""
        newest = self._where.max() >> 32
        return None if newest < 0 else self._segments[newest][2:]

    def get(self, keys: Sequence[bytes], out: NDArray[Any]) -> NDArray[np.bool_]:
        """Fill `out[i]` with the row of `keys[i]` if it is cached; return a mask (len(keys),).

        The rest of `out`, (len(keys), ...), is unchanged. A row that does not match its checksum,
        or the dtype and shape of `out`, is removed from the index.
        """
        slots = self._slots(_as_array(keys))
        with self._lock:
            where, checksums = self._where[slots], self._checksums[slots]
        valid = np.zeros(len(keys), dtype=np.bool_)
        indexed = np.flatnonzero(where >= 0)
        indexed = indexed[np.argsort(where[indexed])]
        at_once = max(1, READ_BYTES * len(out) // max(1, out.nbytes))
        cuts = np.flatnonzero(np.diff(where[indexed] // at_once)) + 1  # between segments, too
        for run in np.split(indexed, cuts) if len(indexed) else ():
            first, last = where[run[[0, -1]]].tolist()
            try:
                rows = _read_rows(self._segments[first >> 32], first, last + 1 - first, out)
            except (OSError, ValueError):  # removed from the index below, like damaged rows
                continue
            for i in run.tolist():
                row = rows[where[i] - first]
                if _checksum(keys[i], row) == checksums[i]:
                    out[i], valid[i] = row, True
        lost = indexed[~valid[indexed]]
        with self._lock:
            self._found += int(valid.sum())
            self._forget(slots[lost], where[lost])
        return valid

    def put(self, keys: Sequence[bytes], rows: NDArray[Any]) -> None:
        """Store computed rows (len(keys), ...), uint8 or float, as one segment, if there is room.

        A full disk or an unwritable folder is reported once; nothing more is stored then.
        """
        axes = rows.shape[1:]
        if rows.dtype not in DTYPES.values() or len(axes) > 4 or 0 in axes:
            raise ValueError(
                "row cache: expected rows of uint8 or floats with at most 4 axes, none of them "
                f"empty, got {rows.dtype} {axes}"
            )
        with self._lock:
            self._computed += len(keys)
            if not self._budget or not len(keys):
                return
            try:
                if self._stopped or not self._write(keys, np.ascontiguousarray(rows)):
                    self._not_kept += len(keys)
            except OSError as error:
                self._not_kept += len(keys)
                self._stop(error)

    def summary(self, *others: "RowCache") -> str:
        """Return one line with the rows found and computed in these caches, and the disk space."""
        if not self._budget:
            return "row cache: off"
        caches = (self, *others)
        found, computed, corrupt, not_kept = (
            sum(getattr(cache, name) for cache in caches)
            for name in ("_found", "_computed", "_corrupt", "_not_kept")
        )
        line = f"row cache: {found:,} rows found, {computed:,} computed"
        if corrupt:
            line += f", {corrupt:,} corrupt"
        if not_kept:
            why = next((cache._stopped for cache in caches if cache._stopped), "the cache is full")
            line += f", {not_kept:,} not kept ({why})"
        used = sum(size for _, size, _ in self._files())
        return line + f"; {used / 2**20:,.1f} of {self._budget / 2**20:,.1f} MiB in {self._root}"

    def _open(self) -> None:
        for path in self._root.glob("*/.partial-*"):
            if _is_stray(path):
                _remove(path)
        broken = []
        # Names begin with the time: of two rows of one key, the newer is taken.
        for path in sorted((self._root / self._kind).glob("*.rows")):
            try:
                self._add(*_read_index(path, self._kind))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                broken.append(f"{path}: {_message(error)}")
                if isinstance(error, ValueError):
                    _remove(path)
        if broken:
            print(f"row cache: broken segments left out: {len(broken)}, the first {broken[0]}")
        for segment in self._segments:
            with contextlib.suppress(OSError):
                os.utime(segment.path)
        self._make_room(0, spare=False)  # wanted segments were just touched, so they go last

    def _slots(self, keys: NDArray[np.bytes_]) -> NDArray[np.intp]:
        """Return the number of each key's entry."""
        slots = np.searchsorted(self._keys[:-1], keys)
        slots[self._keys[slots] != keys] = len(self._keys) - 1
        return slots

    def _add(
        self, segment: _Segment, keys: NDArray[np.bytes_], checksums: NDArray[np.uint32]
    ) -> None:
        """Point the entries of wanted keys to the segment's rows."""
        slots = self._slots(keys)
        places = np.flatnonzero(slots < len(self._keys) - 1)
        if len(places):
            self._where[slots[places]] = (len(self._segments) << 32) + places
            self._checksums[slots[places]] = checksums[places]
            self._segments.append(segment)

    def _forget(self, slots: NDArray[np.intp], where: NDArray[np.int64]) -> None:
        """Empty the entries that still point there; report the first broken row of a run."""
        for slot, place in zip(slots.tolist(), where.tolist(), strict=True):
            if self._where[slot] == place:
                self._where[slot] = -1
                path = self._segments[place >> 32].path
                if os.path.exists(path):  # if not, another process has made room
                    if not self._corrupt:
                        print(
                            f"row cache: {path}: expected rows that match their checksum, dtype "
                            "and shape, got others; such rows are computed again"
                        )
                    self._corrupt += 1

    def _files(self) -> list[tuple[float, int, str]]:
        """Return the segments of all kinds as (mtime, bytes, path)."""
        files = []
        for folder, _, names in os.walk(self._root):
            for name in names:
                if name.endswith(".rows"):
                    with contextlib.suppress(OSError):  # removed since it was listed
                        status = os.stat(path := os.path.join(folder, name))
                        files.append((status.st_mtime, status.st_size, path))
        return files

    def _make_room(self, needed: int, spare: bool) -> bool:
        """Remove segments until `needed` more bytes fit the budget; none if they cannot fit.

        With `spare`, only segments that no run used since this one began.
        """
        files = self._files()
        excess = sum(size for _, size, _ in files) + needed - self._budget
        if spare:
            mine = {segment.path for segment in self._segments}
            files = [file for file in files if file[0] < self._started and file[2] not in mine]
        if excess > sum(size for _, size, _ in files):
            return False
        for _, size, path in sorted(files):
            if excess > 0 and _remove(path):
                excess -= size
        return excess <= 0

    def _write(self, keys: Sequence[bytes], rows: NDArray[Any]) -> bool:
        """Write one segment and index it, if there is room within the budget."""
        array, pairs = _as_array(keys), zip(keys, rows, strict=True)
        checksums = np.array([_checksum(key, row) for key, row in pairs], dtype="<u4")
        axes = (len(rows), *rows.shape[1:], 0, 0, 0, 0)[:5]
        head = HEADER.pack(MAGIC, rows.dtype.str.encode(), *axes)
        head += array.tobytes() + checksums.tobytes()
        head += _checksum(self._kind.encode(), head).to_bytes(4, "little")
        if not self._make_room(len(head) + rows.nbytes, spare=True):
            return False
        folder, unique = self._root / self._kind, uuid.uuid4().hex
        path = folder / f"{time.time_ns():020d}-{unique}.rows"
        partial = folder / f".partial-{HOST}-{os.getpid()}-{unique}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with partial.open("xb") as file:
                file.write(head)
                file.write(rows.data)
            partial.replace(path)
        finally:
            _remove(partial)
        self._add(_Segment(str(path), len(head), rows.dtype, rows.shape[1:]), array, checksums)
        return True

    def _stop(self, error: OSError) -> None:
        self._stopped = _message(error)
        print(
            f"row cache: {self._root}: expected a writable folder, got {self._stopped!r}; this run "
            "stores no more rows"
        )


def _read_index(path: Path, kind: str) -> tuple[_Segment, NDArray[np.bytes_], NDArray[np.uint32]]:
    """Read a segment's header, keys (n,) and checksums (n,).

    Raises:
        ValueError: not a complete segment of this kind; never more is read than the file holds.
    """
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        magic, name, n, *axes = HEADER.unpack(head.ljust(HEADER.size, b"\0"))
        if magic != MAGIC or name not in DTYPES:
            raise ValueError(f"expected {MAGIC!r} and a dtype at its start, got {head[:16]!r}")
        shape, dtype = tuple(axis for axis in axes if axis), DTYPES[name]
        offset = HEADER.size + n * (KEY_BYTES + 4) + 4
        expected = offset + n * math.prod(shape) * dtype.itemsize
        if (size := os.fstat(file.fileno()).st_size) != expected:
            raise ValueError(f"expected {expected:,} bytes, got {size:,}")
        head += file.read(offset - HEADER.size)
    if _checksum(kind.encode(), head[:-4]) != int.from_bytes(head[-4:], "little"):
        raise ValueError("expected kind, header and index that match their checksum, got others")
    keys = np.frombuffer(head, f"S{KEY_BYTES}", n, HEADER.size)
    checksums = np.frombuffer(head, "<u4", n, HEADER.size + n * KEY_BYTES)
    return _Segment(str(path), offset, dtype, shape), keys, checksums


def _read_rows(segment: _Segment, first: int, count: int, out: NDArray[Any]) -> NDArray[Any]:
    """Read rows (count, ...) of a segment from the address `first` on, without checking them.

    Raises:
        ValueError: the file is too short, or its rows have another type than `out`.
    """
    path, offset, dtype, shape = segment
    if (dtype, shape) != (out.dtype, out.shape[1:]):
        raise ValueError(f"{path}: {dtype} {shape}")
    size = math.prod(shape)
    offset += (first & 0xFFFFFFFF) * size * dtype.itemsize
    return np.fromfile(path, dtype, count * size, offset=offset).reshape(count, *shape)


def _as_array(keys: Iterable[bytes]) -> NDArray[np.bytes_]:
    keys = list(keys)
    if any(len(key) != KEY_BYTES for key in keys):
        raise ValueError(f"row cache: expected keys of {KEY_BYTES} bytes, got others")
    return np.frombuffer(b"".join(keys), dtype=f"S{KEY_BYTES}")


def _checksum(key: bytes, content: Any) -> int:
    return int(google_crc32c.extend(google_crc32c.value(key), content))


def _is_stray(partial: Path) -> bool:
    """Return whether the writer of a `.partial-HOST-PID-UNIQUE` is dead."""
    host, _, pid = partial.name[len(".partial-") :].rpartition("-")[0].rpartition("-")
    try:
        if host == HOST:
            os.kill(int(pid), 0)  # sends nothing, only checks that it exists
        return time.time() - partial.stat().st_mtime > STRAY_SECONDS
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):  # another user's, gone, or no such name
        return False


def _remove(path: Path | str) -> bool:
    """Remove a file; return whether it is gone."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    return not os.path.lexists(path)


def _message(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
