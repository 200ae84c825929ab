"""Stage `resize`: every accepted image as RGB pixels of one size, in the ledger's order.

Reads the inputs in place; writes a uint8 array (n, size, size, 3) and the digest of each row. Rows
that the row cache holds are not computed again. The array may also lie in an object store, under a
URL.
"""

import contextlib
import functools
import hashlib
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.images import decode, resize, sources
from pipeline.runtime import atomic_files, environment, parallel
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import processors
from pipeline.runtime.progress import progress
from pipeline.schema import Params
from pipeline.stage import stage
from pipeline.storage import arrays, cache_key, ledger
from pipeline.storage.row_cache import RowCache

SHARD_ROWS = 256  # the most that a killed run loses, and what a cluster's worker is given


@stage
def main() -> None:
    """Decode, resize, write."""
    cluster = environment.cluster()
    params = config.read()
    atomic_files.require(paths.LEDGER, "split")
    size = params.resize.size
    with (
        atomic_files.replacing(paths.RESIZED, parallel.tag(cluster)) as partial,
        contextlib.closing(Resizing(paths.LEDGER.resolve(), partial.resolve(), params)) as work,
        progress("resize", len(work.rows)) as bar,
    ):
        parts = arrays.create(
            partial,
            shape=(len(work.rows), size, size, 3),
            dtype=np.uint8,
            fingerprint=ledger.fingerprint(work.rows),
            shard_rows=SHARD_ROWS,
        )
        digests, cache = np.empty((len(work.rows), 32), np.uint8), work.cache
        if cluster is None:
            work.archives  # noqa: B018  opened here, not by several threads at once
        done = []
        for part in parallel.run(
            work, parts, threads=processors(), cluster=cluster, advance=bar.update
        ):
            digests[part.rows.start : part.rows.stop] = part.digests
            done.append(part)
        arrays.write_digests(partial, digests)
        bar.note = parallel.where_the_time_went(done)
    print(cache.summary())


class Resizing:
    """The work on a shard: look up its rows, decode and resize those that lack, write all.

    What is opened for it is kept in its process, and not pickled.
    """

    def __init__(self, ledger_at: Path, out: Path, params: Params) -> None:
        self.ledger, self.out, self.params = ledger_at, out, params
        self.inputs = {
            "train": Path(params.data.train).resolve(),
            "test": Path(params.data.test).resolve(),
        }
        self.root = paths.ROW_CACHE.resolve()
        self.budget, self.started = environment.row_cache_bytes(), time.time()
        self.kind = self._kind()

    def __getstate__(self) -> dict[str, Any]:
        opened = ("rows", "cache", "archives")
        return {key: value for key, value in vars(self).items() if key not in opened}

    def close(self) -> None:
        """Give the inputs back."""
        for archive in vars(self).get("archives", {}).values():
            archive.close()

    def __call__(self, part: range, advance: Callable[[int], None]) -> parallel.Done:
        done = parallel.Done(part)
        shard = self.rows[part.start : part.stop]
        size = self.params.resize.size
        pixels = np.empty((len(part), size, size, 3), np.uint8)
        keys = [bytes.fromhex(row.sha256) for row in shard]
        with done.timed("read"):
            found = self.cache.get(keys, pixels)
        lacking = {key: place for place, key in enumerate(keys) if not found[place]}
        advance(len(keys) - len(lacking))
        for place in lacking.values():
            with done.timed("read"):
                content = self._read_unchanged(shard[place])
            with done.timed("compute"):
                pixels[place] = self._pixels(content)
            advance(1)
        for place in np.flatnonzero(~found).tolist():  # the same image under several names
            pixels[place] = pixels[lacking[keys[place]]]
        with done.timed("write"):
            computed = list(lacking.values())
            self.cache.put([keys[place] for place in computed], pixels[computed])
            arrays.write_shard(self.out, part, pixels)
        done.computed, done.found = len(lacking), len(keys) - len(lacking)
        done.digests = np.frombuffer(b"".join(map(arrays.digest, pixels)), np.uint8).reshape(-1, 32)
        return done

    @functools.cached_property
    def rows(self) -> list[ledger.Row]:
        rows = [row for row in ledger.read_ledger(self.ledger) if row.accepted]
        if not rows:
            raise UserError(
                f"{self.ledger}: expected rows of images, got none; run `dvc repro split` again"
            )
        if odd := [row.sha256 for row in rows if not re.fullmatch("[0-9a-f]{64}", row.sha256)]:
            raise UserError(
                f"{self.ledger}: expected a sha256 of 64 digits for each image, got {odd[0]!r}; "
                "run `dvc repro split` again"
            )
        return rows

    @functools.cached_property
    def cache(self) -> RowCache:
        cache_key.require_same(self.kind, self._kind())
        wanted = [bytes.fromhex(row.sha256) for row in self.rows]
        return RowCache(self.root, self.kind, wanted, self.budget, self.started)

    @functools.cached_property
    def archives(self) -> dict[str, sources.Source]:
        """The inputs that rows come from; a cluster's worker keeps them open."""
        used = {row.source for row in self.rows}
        return {
            name: sources.open_source(path) for name, path in self.inputs.items() if name in used
        }

    def _read_unchanged(self, row: ledger.Row) -> bytes:
        """A member's bytes, if they are still those that `split` judged."""
        try:
            content = self.archives[row.source].read(row.member)
        except (decode.Unreadable, KeyError):
            content = b""
        if hashlib.sha256(content).hexdigest() != row.sha256:
            path = self.params.data.train if row.source == "train" else self.params.data.test
            raise UserError(
                f"{path} member {row.member}: expected the bytes that `split` judged, got others "
                "or none; run `dvc repro` to judge what is there now"
            )
        return content

    def _pixels(self, content: bytes) -> NDArray[np.uint8]:
        wanted = self.params.resize
        return resize.decode_and_resize(content, wanted.size, wanted.fit, wanted.interpolation)

    def _kind(self) -> str:
        """The row cache's name: all that a row depends on but the image."""
        return cache_key.of("resize", self.params.resize.model_dump())


if __name__ == "__main__":
    from stages import resize as stage_  # by its name, under which a cluster's worker imports it

    sys.exit(stage_.main())
