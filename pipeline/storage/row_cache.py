"""The row cache: rows that `extract` computed, by the key of their image.

ROOT/KIND/SEGMENT: a kind is the cache key, so that its rows have one size; a segment is a file that
never changes once it has its name, little-endian (those of `resize` are in `linked_shards.py`):

    magic, number of rows n (uint32), bytes per row (uint32)
    n keys of 32 bytes, crc32c (uint32) of all before
    n times a row and its crc32c, to the end of the file

A lookup returns, byte for byte, what was stored under the key, or nothing. No fault of the disk, of
a file or of another process fails a run; it is reported in one line. So nothing is fsynced: what a
crash damages does not match its checksums and is computed again.

Processes and threads may share a root: no file has two writers, and any may vanish. All files
together stay within a budget: those used longest ago (by mtime) are removed first, and never one
that any run used since this one began, so that a job larger than the budget keeps a stable part.
"""

import contextlib
import itertools
import math
import os
import shutil
import struct
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import google_crc32c  # which zarr depends on
import numpy as np
from numpy.typing import NDArray

from pipeline.storage.keys import KEY_BYTES, KeyIndex, Keys

MAGIC = b"ROW CACHE 2\n"
HEADER = struct.Struct("<12s2I")
MOST_BYTES = 2**40  # of a segment
MOST_WRITERS = 64  # at a time: as many as views
ROWS, SHARDS = ".rows", ".shards"  # ends of the names of segments: files, and folders of links
PART = ".part"  # end of the name of a segment that is being written
CLOCK_SECONDS = 2  # by which an mtime may be behind


class RowCache:
    """The rows of one kind that this run needs; `get` and `put` may be called from any thread."""

    suffix = ROWS  # of segments

    def __init__(
        self,
        root: Path,
        kind: str,
        wanted: Sequence[bytes],
        budget_bytes: int,
        started: float | None = None,
    ) -> None:
        """Index the wanted rows; remove files that are broken or beyond the budget.

        Args:
            root: the folder of all kinds; the first `put` creates it.
            kind: the cache key.
            wanted: the keys of 32 bytes that this run will look up; others are never found.
            budget_bytes: of the files of all kinds; 0 turns the cache off: it finds nothing, stores
                nothing and does not touch the disk.
            started: when the run began (`time.time()`), if it opens several caches.
        """
        self._root, self._kind, self._budget = root, kind, budget_bytes
        self._where = KeyIndex(wanted)  # segment number * MOST_BYTES + offset; 0 for none
        self._segments: list[Path] = []  # with wanted rows
        self.row_bytes: int | None = None  # None if no wanted row is cached
        self._started = (time.time() if started is None else started) - CLOCK_SECONDS
        self._not_kept = 0
        self._room, self._written = 0, 0  # bytes: free when the files were listed, written since
        self._stopped = ""  # why nothing more is stored
        self._reported = False
        self._lock = threading.Lock()
        if budget_bytes:
            try:
                self._open()
            except OSError as error:
                self._stop(error)

    def get(self, keys: Sequence[bytes], out: NDArray[Any]) -> NDArray[np.bool_]:
        """Fill `out[i]` with the row of `keys[i]` if it is cached; return a mask (len(keys),).

        The rest of `out`, (len(keys), ...), is unchanged. A damaged row is forgotten.
        """
        content = out.reshape(len(keys), -1, copy=False).view(np.uint8)
        found = np.zeros(len(keys), np.bool_)
        with self._lock:
            where = self._where.get(keys).tolist()
        indexed = sorted(one for one in zip(where, itertools.count()) if one[0])
        for number, rows in itertools.groupby(indexed, lambda one: one[0] // MOST_BYTES):
            path = self._segments[number]
            try:
                at = [(where % MOST_BYTES, place) for where, place in rows]
                if not self._read(path, at, content, found):
                    self._report(path, "a damaged row")
            except FileNotFoundError:  # another process has made room
                continue
            except OSError as error:
                self._report(path, error)
        with self._lock:
            lost = [keys[place] for _, place in indexed if not found[place]]
            self._where.set(lost, np.zeros(len(lost), np.int64))
        return found

    def put(self, keys: Sequence[bytes], rows: NDArray[Any]) -> None:
        """Store computed rows (len(keys), ...) as one segment, if there is room.

        Once the cache is full, or its folder cannot be written, nothing more is stored.
        """
        self._store(
            len(keys), lambda: self._write(keys, rows.reshape(len(keys), -1).view(np.uint8))
        )

    def summary(self, *others: "RowCache") -> str:
        """Return one line on the disk space, and the rows that these caches had no room for."""
        if not self._budget:
            return "row cache: off"
        used = sum(size for _, size, _ in self._files())
        line = f"row cache: {used / 2**20:,.1f} of {self._budget / 2**20:,.1f} MiB in {self._root}"
        caches = (self, *others)
        if not_kept := sum(cache._not_kept for cache in caches):
            why = next(cache._stopped for cache in caches if cache._stopped)
            line += f"; {not_kept:,} rows not kept ({why})"
        return line

    def _open(self) -> None:
        # Names begin with the time: of two rows of one key, the newer is taken.
        for path in sorted((self._root / self._kind).glob(f"*{self.suffix}")):
            try:
                if self._index(path):
                    with contextlib.suppress(PermissionError):  # of another user
                        os.utime(path)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                self._report(path, error)
                if isinstance(error, ValueError):
                    _remove(path)
        self._make_room(0, math.inf)  # wanted segments were just touched, so they go last

    def _index(self, path: Path) -> bool:
        """Index the wanted rows of a segment; return whether there are any."""
        keys, row_bytes = _read_index(path)
        return self._add(path, keys, _addresses(len(keys), row_bytes), row_bytes)

    def _add(
        self, path: Path, keys: Sequence[bytes], addresses: NDArray[np.int64], row_bytes: int
    ) -> bool:
        """Point the wanted keys to rows at positive addresses in a segment; return if any are."""
        wanted = self._where.set(keys, len(self._segments) * MOST_BYTES + addresses)
        if wanted:
            self._segments.append(path)
            self.row_bytes = row_bytes
        return bool(wanted)

    def _read(
        self,
        path: Path,
        rows: Sequence[tuple[int, int]],
        content: NDArray[np.uint8],
        found: NDArray[np.bool_],
    ) -> bool:
        """Read rows of a segment by (address, place in `content`); return whether all are sound."""
        with path.open("rb") as file:
            for address, place in rows:
                file.seek(address)
                row, checksum = file.read(content.shape[1]), file.read(4)
                if checksum == _checksum(row):
                    content[place], found[place] = np.frombuffer(row, np.uint8), True
        return all(found[place] for _, place in rows)

    def _store(self, count: int, write: Callable[[], None]) -> None:
        """Let `write` store rows, unless the cache is off or was stopped."""
        with self._lock:
            if self._budget and count and not self._stopped:
                try:
                    write()
                except OSError as error:
                    self._stop(error)
            self._not_kept += count if self._stopped else 0

    def _write(self, keys: Sequence[bytes], rows: NDArray[np.uint8]) -> None:
        """Write one segment and index it, if there is room within the budget."""
        count, row_bytes = rows.shape
        if not self._make_room(_start(count) + count * (row_bytes + 4), self._started):
            self._stopped = "the cache is full"
            return
        folder, unique = self._root / self._kind, uuid.uuid4().hex
        path, partial = folder / f"{time.time_ns():020d}-{unique}{ROWS}", folder / f"{unique}{PART}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                index = HEADER.pack(MAGIC, count, row_bytes) + b"".join(keys)
                for part in (index, *rows):
                    file.write(part)
                    file.write(_checksum(part))
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
        self._add(path, keys, _addresses(count, row_bytes), row_bytes)

    def _make_room(self, needed: int, unused_since: float) -> bool:
        """Remove old files until `needed` more bytes fit the budget; none if they cannot fit.

        Files are listed only if all writers together may have used up the room since the last time.
        """
        self._written += needed
        if 0 < MOST_WRITERS * self._written <= self._room:
            return True
        files = self._files()
        excess = sum(size for _, size, _ in files) + needed - self._budget
        self._room, self._written = max(0, -excess), 0
        old = sorted(file for file in files if file[0] < unused_since)
        if excess > sum(size for _, size, _ in old):
            return False
        for _, size, path in old:
            if excess <= 0:
                break
            _remove(Path(path))
            excess -= size
        return True

    def _files(self) -> list[tuple[float, int, str]]:
        """Return the segments of all kinds as (mtime, bytes, path), with remains of killed runs."""
        files = []
        for folder, folders, names in os.walk(self._root):
            ours = [name for name in (*folders, *names) if name.endswith((ROWS, SHARDS, PART))]
            folders[:] = set(folders).difference(ours)
            for path in (os.path.join(folder, name) for name in ours):
                with contextlib.suppress(OSError):  # removed since it was listed
                    status = os.stat(path)
                    within = [os.path.join(at, name) for at, _, of in os.walk(path) for name in of]
                    size = sum(map(os.path.getsize, within)) if within else status.st_size
                    files.append((status.st_mtime, size, path))
        return files

    def _report(self, path: Path, fault: object) -> None:
        """Print the first fault of this run."""
        if not self._reported:
            self._reported = True
            print(
                f"row cache: {path}: expected rows as they were stored, got {_message(fault)}; "
                "rows like these are computed again"
            )

    def _stop(self, error: OSError) -> None:
        self._stopped = _message(error)
        print(
            f"row cache: {self._root}: expected a writable folder, got {self._stopped!r}; this run "
            "stores no more rows"
        )


def _read_index(path: Path) -> tuple[Keys, int]:
    """Read keys and bytes per row; a ValueError says that the file is no complete segment."""
    with path.open("rb") as file:
        index = file.read(HEADER.size)
        magic, count, row_bytes = HEADER.unpack(index.ljust(HEADER.size))
        size, expected = os.fstat(file.fileno()).st_size, _start(count) + count * (row_bytes + 4)
        if magic != MAGIC or size != expected:
            raise ValueError(f"{size:,} bytes")
        index += file.read(KEY_BYTES * count)
        if file.read(4) != _checksum(index):
            raise ValueError("a damaged index")
    return Keys(np.frombuffer(index[HEADER.size :], np.uint8).reshape(-1, KEY_BYTES)), row_bytes


def _addresses(count: int, row_bytes: int) -> NDArray[np.int64]:
    """Return the offsets of the rows in a segment."""
    return _start(count) + (row_bytes + 4) * np.arange(count)


def _start(count: int) -> int:
    """Return the offset of the rows in a segment of `count` rows."""
    return HEADER.size + KEY_BYTES * count + 4


def _remove(path: Path) -> None:
    """Remove a segment, if it is still there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _checksum(content: Any) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(4, "little")


def _message(fault: object) -> str:
    return str(getattr(fault, "strerror", None) or fault)
