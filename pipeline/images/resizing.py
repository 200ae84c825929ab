"""Decode and resize the ledger's accepted images, in its order: uint8 (n, size, size, 3), RGB."""

import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import paths
from pipeline.images import decode, resize, sources
from pipeline.runtime import parallel
from pipeline.runtime.errors import UserError
from pipeline.schema import Params
from pipeline.storage import cache_key, ledger
from pipeline.storage.cached_shards import CachedShards
from pipeline.storage.keys import Keys


class Resizing(CachedShards):
    """The work of stage `resize`; the row cache identifies an image by its file's sha256."""

    dtype = np.dtype(np.uint8)
    linked = True

    def __init__(self, out: Path, params: Params) -> None:
        self.ledger, self.data = paths.LEDGER.absolute(), params.data
        self.inputs = {one: Path(getattr(self.data, one)).absolute() for one in ("train", "test")}
        self.settings = params.resize.model_dump()  # arguments of `resize.decode_and_resize`
        self.row_shape = (params.resize.size, params.resize.size, 3)
        super().__init__(out)

    def close(self) -> None:
        for source in vars(self).get("opened", {}).values():
            source.close()

    def cache_keys(self) -> list[str]:
        return [cache_key.of("resize", self.settings)]

    def compute(
        self, part: int, rows: NDArray[np.int64], done: parallel.Done
    ) -> Iterator[NDArray[np.uint8]]:
        for number in rows:
            with done.timed("read"):
                content = self._read_unchanged(self.rows[number])
            with done.timed("compute"):
                pixels = resize.decode_and_resize(content, **self.settings)
            yield pixels[None]

    @functools.cached_property
    def rows(self) -> ledger.Ledger:
        """The accepted rows of the ledger."""
        rows = ledger.read_ledger(self.ledger).accepted()
        known = map(ledger.unpacked, rows.contents())
        odd = [one for one in known if not re.fullmatch("[0-9a-f]{64}", one)]
        if odd or not rows:
            raise UserError(
                f"{self.ledger}: expected accepted images, each with a sha256 of 64 digits, got "
                f"{repr(odd[0]) if odd else 'none'}; {ledger.AGAIN}"
            )
        return rows

    @functools.cached_property
    def keys(self) -> Keys:  # type: ignore[override]
        return Keys(self.rows.digests())  # `rows` has checked that all are

    @functools.cached_property
    def opened(self) -> dict[str, sources.Source]:
        """The inputs that rows come from; a cluster's worker keeps them open."""
        return {
            name: sources.open_source(path, self.data.zip_encoding)
            for name, path in self.inputs.items()
            if self.rows.equal("source", name).any()
        }

    def _read_unchanged(self, row: ledger.LedgerRow) -> bytes:
        """Return the bytes of a file if they are still those that `split` checked."""
        try:
            content = self.opened[row.source].read(row.member)
        except (decode.Unreadable, KeyError):
            content = b""
        if hashlib.sha256(content).hexdigest() != row.sha256:
            name = self.data.train if row.source == "train" else self.data.test
            raise UserError(
                f"{name} member {row.member}: expected the bytes that `split` judged, got others "
                "or none; run `dvc repro` to judge what is there now"
            )
        return content
