"""Single bits flipped in outputs that stages read: noticed, or without effect.

`make torture` flips 10,000 random bits of each kind, or all if there are fewer; otherwise 150. A
bit counts as noticed if the reader refuses the file with a sentence, as harmless if it reads what
was written. DVC hashes all outputs, and `make verify-quick` compares them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torture import LONG

from pipeline.runtime.errors import UserError
from pipeline.storage import arrays, sealed_files
from pipeline.training import head

FLIPS = 10_000 if LONG else 150
PATH = Path("kept")  # a file or a folder
VALUES = (100 * np.random.default_rng(0).normal(size=(64, 24))).astype(np.float32)


def array() -> Callable[[], Any]:
    """Write an array of features; return a function that reads it."""
    arrays.write(PATH, [VALUES], shape=VALUES.shape, dtype="f4", fingerprint="of the ledger")
    arrays.write_digests(PATH, np.array([list(arrays.digest(row)) for row in VALUES], np.uint8))

    def read() -> Any:
        opened = arrays.StoredArray(PATH, "of the ledger")
        stored = opened.read(0, len(opened))
        return stored.dtype.str, stored.shape, stored.tobytes(), opened.digests.tobytes()

    return read


def head_file() -> Callable[[], Any]:
    """Write a head with a checksum at its end, as weights and checkpoints have one."""
    head.Head((VALUES,), (VALUES[0],)).save(Path("head.npz"))
    sealed_files.seal(Path("head.npz"))
    Path("head.npz").rename(PATH)

    def read() -> Any:
        found = head.load(sealed_files.require_sealed(PATH, "train_head"))
        return [(stored.shape, stored.tobytes()) for stored in found.kernels + found.biases]

    return read


@pytest.mark.parametrize(
    ("make", "inside"),
    [(array, "c/0/0"), (array, "zarr.json"), (array, "sha256.npy"), (head_file, "")],
)
def test_a_flipped_bit_is_noticed_or_harmless(
    make: Callable[[], Callable[[], Any]],
    inside: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    read, path = make(), PATH / inside
    content, written = path.read_bytes(), read()
    total, noticed = 8 * len(content), 0
    bits = np.random.default_rng(0).choice(total, min(FLIPS, total), replace=False).tolist()
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert read() == written, f"read as other content: bit {bit}"
        except UserError:
            noticed += 1
    assert noticed > len(bits) / 10
