"""Stage `resize`: every accepted image as RGB pixels of one size, in the ledger's order.

Reads the inputs in place; writes a uint8 array (n, size, size, 3).
    python -m stages.resize data/split.csv data/resized.zarr
"""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages import params as parameters
from stages.errors import UserError
from stages.images import decode, resize, source
from stages.progress import progress
from stages.scripts import arguments, stage
from stages.store import arrays, files, tables
from stages.threads import in_order


@stage
def main() -> None:
    """Decode, resize, write."""
    ledger, out = map(Path, arguments(__doc__, count=2))
    params = parameters.read()
    size = params.resize.size
    rows = [row for row in tables.read_ledger(files.require(ledger, "split")) if row.accepted]
    with ExitStack() as opened:
        archives = {
            name: opened.enter_context(source.open_source(Path(path)))
            for name, path in (("train", params.data.train), ("test", params.data.test))
            if any(row.source == name for row in rows)
        }

        def pixels(row: tables.Row) -> NDArray[np.uint8]:
            image = decode.decode(_read_unchanged(archives[row.source], row))
            return resize.resize(image, size, params.resize.fit, params.resize.interpolation)

        with files.replacing(out) as partial, progress("resize", len(rows)) as bar:

            def blocks() -> Iterator[NDArray[np.uint8]]:
                for image in in_order(pixels, rows):
                    yield image[None]
                    bar.update()

            arrays.write(
                partial,
                blocks(),
                shape=(len(rows), size, size, 3),
                dtype=np.uint8,
                fingerprint=tables.fingerprint(rows),
            )


def _read_unchanged(archive: source.Source, row: tables.Row) -> bytes:
    """A member's bytes, if they are still those that `split` judged."""
    try:
        content = archive.read(row.member)
    except (decode.Unreadable, KeyError):
        content = b""
    if hashlib.sha256(content).hexdigest() != row.sha256:
        raise UserError(
            f"{archive.path} member {row.member}: expected the bytes that `split` judged, got "
            "others or none; run `dvc repro` to judge what is there now"
        )
    return content


if __name__ == "__main__":
    sys.exit(main())
