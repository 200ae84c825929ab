"""Stage `resize`: decode every accepted image to RGB pixels of one size, in the ledger's order.

Reads the inputs in place and the ledger; writes uint8 (n, size, size, 3) and a digest per row.
"""

import contextlib
import sys

import numpy as np

from pipeline import config, paths
from pipeline.images.resizing import Resizing
from pipeline.runtime import atomic_files, environment
from pipeline.runtime.machine import processors
from pipeline.stage import stage
from pipeline.storage import arrays, cached_shards, ledger


@stage
def main() -> None:
    """Decode, resize, write."""
    cluster, params = environment.cluster(), config.read()
    atomic_files.require(paths.LEDGER, "split")
    with (
        atomic_files.replacing(paths.RESIZED) as partial,
        contextlib.closing(Resizing(partial, params)) as work,
    ):
        if cluster is None:
            work.opened  # noqa: B018  here, not by several threads at once
        shape, images = (len(work.rows), *work.row_shape), ledger.fingerprint(work.rows)
        done = cached_shards.run(
            work, shape, images, title="resize", threads=processors(), cluster=cluster
        )
        arrays.write_digests(partial, np.concatenate([shard.digests for shard in done]))


if __name__ == "__main__":
    sys.exit(main())
