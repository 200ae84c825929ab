"""The row cache of `resize`: hard links to the shards of its outputs, so no byte is stored twice.

ROOT/KIND/RUN.shards is an array like the output of one run, with the same `zarr.json`, in which the
digests of the rows are the keys of their images, and the shards are links to those that the run
wrote. Nobody writes into a shard: outputs are replaced. Where the file system has no hard links,
they are copies. A row in a damaged or missing shard is computed again.
"""

import contextlib
import functools
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.errors import UserError
from pipeline.storage import arrays
from pipeline.storage.arrays import StoredArray
from pipeline.storage.keys import KEY_BYTES, KeyIndex, Keys
from pipeline.storage.keys import array as array_of
from pipeline.storage.row_cache import MOST_BYTES, PART, SHARDS, RowCache


class LinkedShards(RowCache):
    """A row cache that stores rows by linking to the shard of the output that holds them."""

    suffix = SHARDS

    def __init__(
        self, root: Path, kind: str, keys: Sequence[bytes], budget: int, started: float, out: Path
    ) -> None:
        """Open the cache of a run that writes the rows of these keys to the array at `out`.

        All processes of the run give the same arguments.
        """
        self._keys, self._out = keys, out
        run = f"{int(started * 1e9):020d}-{uuid.uuid5(uuid.NAMESPACE_URL, str(out)).hex}"
        self._own = root / kind / f"{run}{SHARDS}"
        self._arrays: dict[Path, StoredArray] = {}
        super().__init__(root, kind, keys, budget, started)

    def write_shard(self, rows: range, values: NDArray[np.uint8]) -> None:
        """Write a shard of the output and keep it, or link to one that is kept with these rows.

        `values` are what `get` found, and the rest computed.
        """
        if kept := self._kept_shard(rows):
            with contextlib.suppress(OSError):  # no hard links, or no such file any more
                target = self._output.shard_file(rows.start // self._output.shard)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(kept, target)
                return
        arrays.write_shard(self._out, rows, values)
        self._store(len(rows), lambda: self._keep(rows))

    def retire(self) -> None:
        """Remove the shards of earlier runs whose rows are all in shards of this one."""
        with contextlib.suppress(OSError, UserError):  # they cost disk space only
            own = StoredArray(self._own, complete=False)
            rows = KeyIndex([key for number in own.stored for key in _keys(own, number)])
            for path in set(self._own.parent.glob(f"*{SHARDS}")) - {self._own}:
                earlier = StoredArray(path, complete=False)
                surplus = {at for at in earlier.stored if rows.has(_keys(earlier, at)).all()}
                if surplus == earlier.stored:
                    shutil.rmtree(path)
                else:
                    for number in surplus:
                        earlier.shard_file(number).unlink()

    @functools.cached_property
    def _output(self) -> StoredArray:
        return StoredArray(self._out, complete=False)

    def _index(self, path: Path) -> bool:
        if path == self._own:  # another worker's, in this run
            return False
        try:
            self._arrays[path] = array = StoredArray(path, complete=False)
            rows = np.arange(len(array))
            rows = rows[np.isin(rows // array.shard, list(array.stored))]
            keys = Keys(array.digests[rows])
        except UserError:
            raise ValueError("a damaged index") from None
        return self._add(path, keys, rows + 1, array.row_bytes())

    def _read(
        self,
        path: Path,
        rows: Sequence[tuple[int, int]],
        content: NDArray[np.uint8],
        found: NDArray[np.bool_],
    ) -> bool:
        array, (addresses, places) = self._arrays[path], np.array(rows).T
        shards = (addresses - 1) // array.shard
        for number in np.unique(shards).tolist():
            of_shard = places[shards == number]
            distinct, at = np.unique(addresses[shards == number] - 1, return_inverse=True)
            with contextlib.suppress(UserError):  # it does not match its checksums
                taken = array.take(distinct)
                if array.has_shard(number):  # else it has vanished, and zarr may have read zeros
                    content[of_shard] = taken.reshape(len(distinct), -1)[at]
                    found[of_shard] = True
        return bool(found[places].all())

    def _kept_shard(self, rows: range) -> Path | None:
        """Return the kept shard from which `get` read exactly these rows."""
        with self._lock:
            places = self._where.get(self._keys[rows.start : rows.stop]).tolist()
            if not places[0] or places != [*range(places[0], places[0] + len(rows))]:
                return None
            array = self._arrays[self._segments[places[0] // MOST_BYTES]]
        row = places[0] % MOST_BYTES - 1
        same_layout = (array.chunk, array.shard) == (self._output.chunk, self._output.shard)
        whole = row % array.shard == 0 and len(rows) == min(array.shard, len(array) - row)
        return array.shard_file(row // array.shard) if same_layout and whole else None

    def _keep(self, rows: range) -> None:
        """Link to a shard of the output, and index its rows, if there is room."""
        shard = self._output.shard_file(rows.start // self._output.shard)
        first = not self._own.is_dir()
        needed = shard.stat().st_size + first * KEY_BYTES * len(self._keys)
        if not self._make_room(needed, self._started):
            self._stopped = "the cache is full"
            return
        if first:
            self._begin()
        if self._own not in self._arrays:
            self._arrays[self._own] = StoredArray(self._own, complete=False)
        link = self._own / shard.relative_to(self._out)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)  # where a cluster tries a shard again
        try:
            os.link(shard, link)
        except OSError:
            shutil.copyfile(shard, link)
        addresses = np.arange(rows.start + 1, rows.stop + 1)
        keys = self._keys[rows.start : rows.stop]
        self._add(self._own, keys, addresses, self._output.row_bytes())

    def _begin(self) -> None:
        """Make the segment of this run, still without shards; another process may be faster."""
        partial = self._own.with_name(f"{uuid.uuid4().hex}{PART}")
        partial.mkdir(parents=True)
        try:
            shutil.copyfile(self._out / arrays.METADATA, partial / arrays.METADATA)
            arrays.write_digests(partial, array_of(self._keys))
            partial.rename(self._own)
        except OSError:
            if not self._own.is_dir():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _keys(array: StoredArray, number: int) -> Keys:
    """Return the keys of the rows of a shard."""
    first = number * array.shard
    return Keys(array.digests[first : first + array.shard])
