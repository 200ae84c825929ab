"""The row cache: rows that `resize` and `extract` have computed, found again by their image's key.

ROOT/KIND/SEGMENT: a kind is named after all that its rows depend on but the image, so that they
have one dtype and shape; a segment is one file, never changed once it has its name, little-endian:

    header   magic, dtype, number of rows n, shape of a row (0 where there are fewer than 4 axes)
    index    n keys of 32 bytes; n crc32c (uint32), each of a row's key and bytes; the crc32c
             (uint32) of the kind's name, the header and the index up to here
    rows     (n, *shape), C order, to the end of the file

What is given back for a key is, byte for byte, what was put under it, or nothing. No fault of the
disk, of a file or of another process fails a run; it is told in one line. So nothing is fsynced:
what a crash tears does not fit its checksums, and is computed again.

Processes and threads may share a root: no file is written by two, and any may vanish. All segments
together stay within a budget: those used longest ago (by mtime) go first, and never one that was
used since the run began, by it or by another, so that a job larger than the budget keeps a stable
part. A run uses all segments that hold rows it wants.
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
READ_BYTES = 2**21  # at most: few reads, and what was read is still in the processor's cache
STRAY_SECONDS = 24 * 3600  # since its last byte, if its writer is on another host
CLOCK_SECONDS = 2  # by which an mtime may be behind
HOST = os.uname().nodename


class _Segment(NamedTuple):
    path: str
    offset: int  # bytes before the rows
    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # of a row


class RowCache:
    """The rows of one kind, as far as this run wants them; `get` and `put` from any thread."""

    def __init__(
        self,
        root: Path,
        kind: str,
        wanted: Iterable[bytes],
        budget_bytes: int,
        started: float | None = None,
    ) -> None:
        """Index the wanted rows; remove what is broken, stray or beyond the budget.

        Args:
            root: the folder of all kinds; made by the first `put`.
            kind: a file name that differs with whatever makes another row of the same image.
            wanted: keys of 32 bytes, all that this run will ask for; others are never found.
            budget_bytes: of the segments of all kinds; with 0 the cache is off: it finds nothing,
                keeps nothing and touches no disk.
            started: when the run began (`time.time()`), if it opens several caches; now otherwise.
        """
        self._root, self._kind, self._budget = root, kind, budget_bytes
        # Ascending keys; where each one's row lies, (number of its segment << 32) + place, or -1;
        # its checksum. The last entry stands for all other keys, and stays empty.
        self._keys = np.append(np.unique(_as_array(wanted)), b"")
        self._where = np.full(len(self._keys), -1, dtype=np.int64)
        self._checksums = np.zeros(len(self._keys), dtype=np.uint32)
        self._segments: list[_Segment] = []  # that hold wanted rows, or did
        self._started = (time.time() if started is None else started) - CLOCK_SECONDS
        self._found = self._computed = self._corrupt = self._not_kept = 0
        self._stopped = ""  # why nothing more is kept
        self._lock = threading.Lock()
        if budget_bytes:
            try:
                self._open()
            except OSError as error:
                self._stop(error)

    @property
    def row_type(self) -> tuple[np.dtype[Any], tuple[int, ...]] | None:
        """Dtype and shape of a row; None if no wanted row is held."""
        newest = self._where.max() >> 32
        return None if newest < 0 else self._segments[newest][2:]

    def get(self, keys: Sequence[bytes], out: NDArray[Any]) -> NDArray[np.bool_]:
        """Fill `out[i]` with the row of `keys[i]` where it is held; give back where, (len(keys),).

        The rest of `out`, (len(keys), ...), stays as it was. A row that does not fit its checksum,
        or the dtype and shape of `out`, is forgotten.
        """
        slots = self._slots(_as_array(keys))
        with self._lock:
            where, checksums = self._where[slots], self._checksums[slots]
        whole = np.zeros(len(keys), dtype=np.bool_)
        held = np.flatnonzero(where >= 0)
        held = held[np.argsort(where[held])]
        at_once = max(1, READ_BYTES * len(out) // max(1, out.nbytes))
        cuts = np.flatnonzero(np.diff(where[held] // at_once)) + 1  # between segments, too
        for run in np.split(held, cuts) if len(held) else ():
            first, last = where[run[[0, -1]]].tolist()
            try:
                rows = _read_rows(self._segments[first >> 32], first, last + 1 - first, out)
            except (OSError, ValueError):  # forgotten below, as whatever is not whole
                continue
            for i in run.tolist():
                row = rows[where[i] - first]
                if _checksum(keys[i], row) == checksums[i]:
                    out[i], whole[i] = row, True
        lost = held[~whole[held]]
        with self._lock:
            self._found += int(whole.sum())
            self._forget(slots[lost], where[lost])
        return whole

    def put(self, keys: Sequence[bytes], rows: NDArray[Any]) -> None:
        """Keep computed rows (len(keys), ...), uint8 or floats, as one segment, if there is room.

        A full disk, or a folder that takes no files, is told once; nothing more is kept then.
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
        """Tell in one line what came of the run, here and in other kinds, and how large it is."""
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
        used = sum(size for _, size, _ in self._held())
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
                broken.append(f"{path}: {_told(error)}")
                if isinstance(error, ValueError):
                    _remove(path)
        if broken:
            print(f"row cache: broken segments left out: {len(broken)}, the first {broken[0]}")
        for segment in self._segments:
            with contextlib.suppress(OSError):
                os.utime(segment.path)
        self._make_room(0, spare=False)  # what is wanted was touched, and so goes last

    def _slots(self, keys: NDArray[np.bytes_]) -> NDArray[np.intp]:
        """The number of each key's entry."""
        slots = np.searchsorted(self._keys[:-1], keys)
        slots[self._keys[slots] != keys] = len(self._keys) - 1
        return slots

    def _add(
        self, segment: _Segment, keys: NDArray[np.bytes_], checksums: NDArray[np.uint32]
    ) -> None:
        """Let the entries of wanted keys point to the segment's rows."""
        slots = self._slots(keys)
        places = np.flatnonzero(slots < len(self._keys) - 1)
        if len(places):
            self._where[slots[places]] = (len(self._segments) << 32) + places
            self._checksums[slots[places]] = checksums[places]
            self._segments.append(segment)

    def _forget(self, slots: NDArray[np.intp], where: NDArray[np.int64]) -> None:
        """Empty the entries that still point there; the first broken row of a run is told."""
        for slot, place in zip(slots.tolist(), where.tolist(), strict=True):
            if self._where[slot] == place:
                self._where[slot] = -1
                path = self._segments[place >> 32].path
                if os.path.exists(path):  # if not, another process has made room
                    if not self._corrupt:
                        print(
                            f"row cache: {path}: expected rows that fit their checksum, dtype and "
                            "shape, got others; such rows are computed again"
                        )
                    self._corrupt += 1

    def _held(self) -> list[tuple[float, int, str]]:
        """The segments of all kinds as (mtime, bytes, path)."""
        held = []
        for folder, _, names in os.walk(self._root):
            for name in names:
                if name.endswith(".rows"):
                    with contextlib.suppress(OSError):  # gone since it was listed
                        status = os.stat(path := os.path.join(folder, name))
                        held.append((status.st_mtime, status.st_size, path))
        return held

    def _make_room(self, needed: int, spare: bool) -> bool:
        """Remove segments until `needed` bytes more keep to the budget; none if that cannot be."""
        held = self._held()
        excess = sum(size for _, size, _ in held) + needed - self._budget
        if spare:
            mine = {segment.path for segment in self._segments}
            held = [file for file in held if file[0] < self._started and file[2] not in mine]
        if excess > sum(size for _, size, _ in held):
            return False
        for _, size, path in sorted(held):
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
        self._stopped = _told(error)
        print(
            f"row cache: {self._root}: expected a folder that takes rows, "
            f"got {self._stopped!r}; this run keeps no more of them"
        )


def _read_index(path: Path, kind: str) -> tuple[_Segment, NDArray[np.bytes_], NDArray[np.uint32]]:
    """A segment, its keys (n,) and checksums (n,).

    Raises:
        ValueError: not a whole segment of this kind; no more is read than the file holds.
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
        raise ValueError("expected kind, header and index that fit their checksum, got others")
    keys = np.frombuffer(head, f"S{KEY_BYTES}", n, HEADER.size)
    checksums = np.frombuffer(head, "<u4", n, HEADER.size + n * KEY_BYTES)
    return _Segment(str(path), offset, dtype, shape), keys, checksums


def _read_rows(segment: _Segment, first: int, count: int, out: NDArray[Any]) -> NDArray[Any]:
    """Rows (count, ...) of a segment, unchecked; the first is that of the entry `first`.

    Raises:
        ValueError: the file has become too short, or its rows are not of the type of `out`.
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
    """Whether the writer of a `.partial-HOST-PID-UNIQUE` is dead."""
    host, _, pid = partial.name[len(".partial-") :].rpartition("-")[0].rpartition("-")
    try:
        if host == HOST:
            os.kill(int(pid), 0)  # asks whether it is there, and sends nothing
        return time.time() - partial.stat().st_mtime > STRAY_SECONDS
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):  # another user's, gone, or no such name
        return False


def _remove(path: Path | str) -> bool:
    """Remove a file; tell whether it is gone."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    return not os.path.lexists(path)


def _told(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
