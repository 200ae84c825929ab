"""Write an array shard by shard, computing only the rows that the row cache does not hold.

A `CachedShards` is the work on one shard, called by threads or by the workers of a Dask cluster;
`run` creates the array and writes all its shards. The result has the same bytes either way.
"""

import abc
import functools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import paths
from pipeline.runtime import environment, parallel
from pipeline.runtime.errors import UserError
from pipeline.runtime.progress import progress
from pipeline.storage import arrays
from pipeline.storage.keys import Keys
from pipeline.storage.linked_shards import LinkedShards
from pipeline.storage.row_cache import RowCache

SHARD_ROWS = 256  # the most that a killed run loses, and what a cluster's worker is given


class CachedShards(abc.ABC):
    """Read cached rows, compute the missing ones, write the shard.

    A row consists of equal parts, one per cache key, such as the views of an image. What cached
    properties hold, such as open files and networks, stays in its process and is not pickled.
    """

    dtype: np.dtype[Any]  # of the array
    row_shape: tuple[int, ...]
    keys: Keys  # 32 bytes for each row of the array that identify its image
    linked = False  # whether the row cache links to the shards, of one part; with `Done.digests`

    def __init__(self, out: Path) -> None:
        """Start a run that writes to `out`; call it once all other attributes are set."""
        self.out, self.root = out.resolve(), paths.ROW_CACHE.resolve()
        self.budget, self.started = environment.row_cache_bytes(), time.time()
        self._cache_keys = self.cache_keys()

    @abc.abstractmethod
    def cache_keys(self) -> list[str]:
        """Return the `cache_key` of each part."""

    @abc.abstractmethod
    def compute(
        self, part: int, rows: NDArray[np.int64], done: parallel.Done
    ) -> Iterable[NDArray[Any]]:
        """Yield a part of the listed rows of the array, in blocks; time it in `done`."""

    def __getstate__(self) -> dict[str, Any]:
        cached = functools.cached_property
        state = vars(self).items()
        return {k: v for k, v in state if not isinstance(getattr(type(self), k, None), cached)}

    @functools.cached_property
    def caches(self) -> list[RowCache]:
        """The row cache of each part."""
        if self.cache_keys() != self._cache_keys:
            raise UserError(
                "row cache: expected the code, packages and kind of processor with which the run "
                "began, got others; run `dvc repro` again, on a cluster with the same ones on "
                "every worker"
            )
        settings = self.keys, self.budget, self.started
        if self.linked:
            (key,) = self._cache_keys
            return [LinkedShards(self.root, key, *settings, self.out)]
        return [RowCache(self.root, key, *settings) for key in self._cache_keys]

    def __call__(self, shard: range, advance: Callable[[int], None]) -> parallel.Done:
        done = parallel.Done(shard)
        keys = self.keys[shard.start : shard.stop]
        values = np.empty((len(shard), *self.row_shape), self.dtype)
        parts = values.reshape(len(shard), len(self.caches), -1)
        for number, cache in enumerate(self.caches):
            part = parts[:, number]
            with done.timed("read"):
                cached = cache.get(keys, part)
            missing = {key: place for place, key in enumerate(keys) if not cached[place]}
            places = sorted(missing.values())
            advance(len(keys) - len(places))
            at = 0
            for block in self.compute(number, shard.start + np.array(places, np.int64), done):
                part[places[at : at + len(block)]] = block.reshape(len(block), -1)
                at += len(block)
                advance(len(block))
            if not self.linked:
                with done.timed("write"):
                    cache.put([keys[place] for place in places], part[places])
            for place in np.flatnonzero(~cached).tolist():  # the same image under several names
                part[place] = part[missing[keys[place]]]
            done.computed += len(places)
            done.found += len(keys) - len(places)
        with done.timed("write"):
            if isinstance(cache := self.caches[0], LinkedShards):
                cache.write_shard(shard, values)
            else:
                arrays.write_shard(self.out, shard, values)
        if self.linked:
            done.digests = arrays.digests(values)
        return done


def run(
    work: CachedShards,
    shape: tuple[int, ...],
    fingerprint: str,
    *,
    title: str,
    threads: int,
    cluster: str | None,
) -> list[parallel.Done]:
    """Create the array at `work.out` and write all shards; return their results in row order.

    Args:
        fingerprint: of the ledger rows that the array's rows belong to.
        threads: of this process, each with a shard of its own.
        cluster: address of a Dask scheduler that distributes the shards instead.
    """
    shards = arrays.create(
        work.out, shape=shape, dtype=work.dtype, fingerprint=fingerprint, shard_rows=SHARD_ROWS
    )
    caches = work.caches
    with progress(title, shape[0] * len(caches)) as bar:
        results = parallel.run(work, shards, threads=threads, cluster=cluster, advance=bar.update)
        done = sorted(results, key=lambda one: one.rows.start)
        bar.note = parallel.where_the_time_went(done)
    if isinstance(caches[0], LinkedShards):
        caches[0].retire()
    print(caches[0].summary(*caches[1:]))
    return done
