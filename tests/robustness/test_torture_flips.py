"""Single bits flipped in each kind of binary file that a stage reads: noticed, or without effect.

`make torture` flips 10,000 random bits of each kind, or all if there are fewer; otherwise 150. A
bit counts as noticed if the reader refuses the file with a sentence (or finds nothing in a cache),
as harmless if it reads what was written. JSON and csv files, which users read, have no checksum.
"""

import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torture import LONG, record

from pipeline.images import sources
from pipeline.images.decode import Unreadable
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays, sealed_files
from pipeline.storage.row_cache import RowCache
from pipeline.training import head
from stages import report

FLIPS = 10_000 if LONG else 150
PATH = Path("kept")  # a file or a folder

Reader = Callable[[], Any]  # returns the content, or None if the damage is noticed


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def array(dtype: str) -> Reader:
    values = (100 * noise(64, 24)).astype(dtype)
    arrays.write(PATH, [values], shape=values.shape, dtype=dtype, fingerprint="of the ledger")
    arrays.write_digests(PATH, np.array([list(arrays.digest(row)) for row in values], np.uint8))

    def read() -> Any:
        opened = arrays.StoredArray(PATH, "of the ledger")
        stored = opened.read(0, len(opened))
        return stored.dtype.str, stored.shape, stored.tobytes(), opened.digests.tobytes()

    return read


def weights() -> Reader:
    names = [f"layers/conv{number}/vars/{part}" for number in range(4) for part in (0, 1)]
    with h5py.File(PATH, "w") as file:
        for name in names:
            file[name] = noise(3, 3, 8, 8) if name.endswith("0") else noise(8)
    sealed_files.seal(PATH)

    def read() -> Any:
        with h5py.File(sealed_files.require_sealed(PATH, "fetch_weights@convnet")) as file:
            return [file[name][()].tobytes() for name in names]

    return read


def head_file() -> Reader:
    head.Head((noise(24, 16), noise(16, 2)), (noise(16), noise(2))).save(Path("head.npz"))
    sealed_files.seal(Path("head.npz"))
    Path("head.npz").rename(PATH)

    def read() -> Any:
        found = head.load(sealed_files.require_sealed(PATH, "train_head"))
        return [(stored.shape, stored.tobytes()) for stored in found.kernels + found.biases]

    return read


def checkpoint() -> Reader:
    sealed_files.write_arrays(PATH, "one", {"weights": noise(24, 16), "epoch": np.array(3)})

    def read() -> Any:
        found = sealed_files.read_arrays(PATH, "one")
        if found is None:
            return None
        return [(name, stored.shape, stored.tobytes()) for name, stored in found.items()]

    return read


def cached_rows() -> Reader:
    keys, stored = [bytes([number]) * 32 for number in range(1, 33)], noise(32, 12)
    RowCache(PATH, "kind", keys, 2**30).put(keys, stored)

    def read() -> Any:
        (segment,) = PATH.glob("*/*.rows")
        content = segment.read_bytes()
        out = np.zeros_like(stored)
        found = RowCache(PATH, "kind", keys, 2**30).get(keys, out)
        if not segment.exists():  # as its index is broken
            segment.write_bytes(content)
        assert out[found].tobytes() == stored[found].tobytes()
        return out.tobytes() if found.all() else None

    return read


def zip_file() -> Reader:
    with zipfile.ZipFile(PATH, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(12):
            archive.writestr(f"train/cat.{number}.png", noise(40).tobytes())

    def read() -> Any:
        with sources.open_source(PATH) as archive:
            try:
                found = {name: archive.read(name) for name in archive.names}
            except Unreadable:  # rejected by `split`
                return None
            return None if archive.ignored else found

    return read


def image_file() -> Reader:
    picture = Image.fromarray((100 * noise(32, 32, 3)).astype(np.uint8))
    picture.save(PATH, "PNG")

    def read() -> Any:
        report._copy(PATH, "evaluate", Path("copies"), "copy.png")
        with Image.open("copies/copy.png") as copied:
            return copied.size, copied.convert("RGB").tobytes()

    return read


KINDS: dict[str, tuple[Callable[[], Reader], str]] = {
    "shard of pixels": (lambda: array("uint8"), "c/0/0"),
    "shard of features": (lambda: array("float32"), "c/0/0"),
    "array metadata": (lambda: array("float32"), "zarr.json"),
    "digests of rows": (lambda: array("uint8"), "sha256.npy"),
    "weights": (weights, ""),
    "head": (head_file, ""),
    "checkpoint": (checkpoint, ""),
    "cached rows": (cached_rows, "kind/*.rows"),
    "zip": (zip_file, ""),
    "image in the report": (image_file, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_noticed_or_harmless(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, inside = KINDS[kind]
    read = make()
    (path,) = PATH.glob(inside) if inside else [PATH]
    content, written = path.read_bytes(), read()
    assert written is not None
    rng, total = np.random.default_rng(0), 8 * len(content)
    bits = np.sort(rng.choice(total, min(FLIPS, total), replace=False)).tolist()
    counts: Counter[str] = Counter()
    wrong = []
    started = time.perf_counter()
    for bit in bits:
        with path.open("r+b") as file:
            file.seek(bit // 8)
            file.write(bytes([content[bit // 8] ^ 1 << bit % 8]))
        try:
            content_read = read()
        except UserError:
            content_read = None
        if content_read not in (None, written):
            wrong.append(bit)
        counts["noticed" if content_read is None else "harmless"] += 1
        with path.open("r+b") as file:
            file.seek(bit // 8)
            file.write(content[bit // 8 : bit // 8 + 1])
        capsys.readouterr()
    assert wrong == [], f"read as other content: bits {wrong[:5]} of {len(content)} bytes"
    assert path.read_bytes() == content
    assert read() == written
    assert counts["noticed"] > len(bits) / 10
    seconds = round(time.perf_counter() - started, 1)
    name = f"flips-{kind.replace(' ', '-')}"
    record(name, {"kind": kind, "bits": len(bits), "seconds": seconds, **counts})
