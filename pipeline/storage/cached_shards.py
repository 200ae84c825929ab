"""Write an array shard by shard, computing only the rows that the row cache does not hold.

A `CachedShards` is the work on one shard, called by threads or by the workers of a Dask cluster;
`run` creates the array and writes all its shards. The result has the same bytes either way.
"""

import abc
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import paths
from pipeline.runtime import environment, parallel
from pipeline.runtime.progress import progress
from pipeline.storage import arrays, cache_key
from pipeline.storage.row_cache import RowCache

SHARD_ROWS = 256  # the most that a killed run loses, and what a cluster's worker is given


class CachedShards(abc.ABC):
    """Read cached rows, compute the missing ones, write the shard.

    A row has one part per cache key, such as a view of an image. Cached properties, such as opened
    files and networks, stay in the process that made them and are not pickled.

    Attributes:
        dtype: of the array.
        with_digests: whether `Done.digests` is wanted.
    """

    dtype: np.dtype[Any]
    with_digests = False

    def __init__(self, out: Path) -> None:
        """Start a run that writes to `out`; call it once all other attributes are set."""
        self.out, self.root = out.resolve(), paths.ROW_CACHE.resolve()
        self.budget, self.started = environment.row_cache_bytes(), time.time()
        self.keys_of_caches = self.cache_keys()

    @property
    @abc.abstractmethod
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a row of the array."""

    @abc.abstractmethod
    def cache_keys(self) -> list[str]:
        """Return the `cache_key` of each part."""

    @abc.abstractmethod
    def image_keys(self) -> Sequence[bytes]:
        """Return 32 bytes for each row of the array that identify its image."""

    @abc.abstractmethod
    def parts(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the view of `values` (n, *row_shape) that holds each part."""

    @abc.abstractmethod
    def compute(
        self, part: int, rows: NDArray[np.int64], done: parallel.Done
    ) -> Iterable[NDArray[Any]]:
        """Yield a part of the listed rows of the array, in blocks; time it in `done`."""

    def __getstate__(self) -> dict[str, Any]:
        cached = functools.cached_property
        return {
            name: value
            for name, value in vars(self).items()
            if not isinstance(getattr(type(self), name, None), cached)
        }

    @functools.cached_property
    def keys(self) -> Sequence[bytes]:
        return self.image_keys()

    @functools.cached_property
    def caches(self) -> list[RowCache]:
        cache_key.require_same(self.keys_of_caches, self.cache_keys())
        return [
            RowCache(self.root, key, self.keys, self.budget, self.started)
            for key in self.keys_of_caches
        ]

    def summary(self) -> str:
        """Return one line about the row cache in this run."""
        return self.caches[0].summary(*self.caches[1:])

    def __call__(self, shard: range, advance: Callable[[int], None]) -> parallel.Done:
        done = parallel.Done(shard)
        keys = self.keys[shard.start : shard.stop]
        values = np.empty((len(shard), *self.row_shape), self.dtype)
        for number, (cache, part) in enumerate(zip(self.caches, self.parts(values), strict=True)):
            with done.timed("read"):
                cached = cache.get(keys, part)
            missing = {key: place for place, key in enumerate(keys) if not cached[place]}
            places = np.array(sorted(missing.values()), dtype=np.int64)
            advance(len(keys) - len(places))
            at = 0
            for block in self.compute(number, shard.start + places, done):
                part[places[at : at + len(block)]] = block
                at += len(block)
                advance(len(block))
            with done.timed("write"):
                cache.put([keys[place] for place in places], part[places])
            for place in np.flatnonzero(~cached):  # the same image under several names
                part[place] = part[missing[keys[place]]]
            done.computed += len(places)
            done.found += len(keys) - len(places)
        with done.timed("write"):
            arrays.write_shard(self.out, shard, values)
        if self.with_digests:
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
    """Create the array of that shape at `work.out` and write all shards.

    Args:
        fingerprint: of the ledger rows that the array's rows belong to.
        title: of the progress bar.
        threads: of this process, each with a shard of its own.
        cluster: address of a Dask scheduler that distributes the shards instead.

    Returns:
        What each shard took, in row order.
    """
    shards = arrays.create(
        work.out, shape=shape, dtype=work.dtype, fingerprint=fingerprint, shard_rows=SHARD_ROWS
    )
    with progress(title, shape[0] * len(work.caches)) as bar:
        done = list(
            parallel.run(work, shards, threads=threads, cluster=cluster, advance=bar.update)
        )
        bar.note = parallel.where_the_time_went(done)
    return sorted(done, key=lambda one: one.rows.start)
