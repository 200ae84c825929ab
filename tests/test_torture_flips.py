"""Single bits flipped in each kind of file that a stage reads: noticed, or without any effect.

`make torture` flips 10,000 bits of each kind, drawn at random, or all where there are fewer;
otherwise 150. A bit counts as noticed if the reader refuses the file with a sentence (or, of a
cache, finds nothing), as harmless if what is read is what was written.
"""

import json
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
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays, ledger, sums
from pipeline.storage.row_cache import RowCache
from pipeline.training import head
from stages import report

FLIPS = 10_000 if LONG else 150
ROOT = Path(__file__).parent.parent
EPOCHS = ("epoch", "loss", "val_loss")
PATH = Path("kept")  # a file or a folder

Reader = Callable[[], Any]  # what the file says, or None if it is noticed to be broken


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file lies."""
    monkeypatch.chdir(tmp_path)


def numbers(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def an_array(dtype: str) -> Reader:
    values = (100 * numbers(64, 24)).astype(dtype)
    arrays.write(PATH, [values], shape=values.shape, dtype=dtype, fingerprint="of the ledger")
    arrays.write_digests(PATH, np.array([list(arrays.digest(row)) for row in values], np.uint8))

    def read() -> Any:
        opened = arrays.Rows(PATH, "of the ledger")
        held = opened.read(0, len(opened))
        return held.dtype.str, held.shape, held.tobytes(), opened.digests.tobytes()

    return read


def weights() -> Reader:
    with h5py.File(PATH, "w") as file:
        for number in range(4):
            file[f"layers/conv{number}/vars/0"] = numbers(3, 3, 8, 8)
            file[f"layers/conv{number}/vars/1"] = numbers(8)
    atomic_files.seal(PATH)

    def read() -> Any:
        found: dict[str, bytes] = {}
        with h5py.File(atomic_files.require_sealed(PATH, "fetch_weights@convnet")) as file:
            file.visititems(
                lambda name, held: (
                    found.__setitem__(name, held[()].tobytes())
                    if isinstance(held, h5py.Dataset)
                    else None
                )
            )
        return found

    return read


def a_head() -> Reader:
    head.Head((numbers(24, 16), numbers(16, 2)), (numbers(16), numbers(2))).save(Path("head.npz"))
    atomic_files.seal(Path("head.npz"))
    Path("head.npz").rename(PATH)

    def read() -> Any:
        found = head.load(atomic_files.require_sealed(PATH, "train_head"))
        return [(held.shape, held.tobytes()) for held in found.kernels + found.biases]

    return read


def a_checkpoint() -> Reader:
    atomic_files.write_arrays(PATH, "one", {"weights": numbers(24, 16), "epoch": np.array(3)})

    def read() -> Any:
        found = atomic_files.read_arrays(PATH, "one")
        if found is None:
            return None
        return [(name, held.shape, held.tobytes()) for name, held in found.items()]

    return read


def a_ledger() -> Reader:
    rows = [
        ledger.Row(
            id=f"cat.{number}",
            source="train",
            member=f"train/cat.{number}.jpg",
            label=("cat", "dog")[number % 2],
            index=number % 2,
            subset="train",
            sha256="0123456789abcdef" * 4,
            width=90,
            height=160,
            mode="RGB",
            group=f"train/cat.{number}",
            reason="",
        )
        for number in range(20)
    ]
    ledger.write_ledger(PATH, rows)
    return lambda: ledger.read_ledger(PATH)


def a_history() -> Reader:
    sums.write_csv(PATH, EPOCHS, numbers(60, 3).tolist())

    def read() -> Any:
        found = ledger.read_numbers(PATH, "fine_tune")
        return [found[name] for name in EPOCHS]

    return read


def a_table() -> Reader:
    """Of the audit, as `explain` reads it."""
    lines = [("train/cat.1.jpg", "train", 0.25 * number) for number in range(60)]
    sums.write_csv(PATH, ("member", "source", "isolation"), lines)

    def read() -> Any:
        found = ledger.read_csv(PATH, "audit")
        return [[line[name] for name in ("member", "source", "isolation")] for line in found]

    return read


def figures() -> Reader:
    content = json.loads((ROOT / "metrics" / "evaluate.json").read_text(encoding="utf-8"))
    del content[sums.NAME]
    sums.write_json(PATH, content)
    wanted = set(content)

    def read() -> Any:
        found = sums.read_json(PATH, "evaluate")
        return {key: found.get(key) for key in wanted}

    return read


def cached_rows() -> Reader:
    keys, held = [bytes([number]) * 32 for number in range(1, 33)], numbers(32, 12)
    RowCache(PATH, "kind", keys, 2**30).put(keys, held)

    def read() -> Any:
        (segment,) = PATH.glob("*/*.rows")
        content = segment.read_bytes()
        out = np.zeros_like(held)
        found = RowCache(PATH, "kind", keys, 2**30).get(keys, out)
        if not segment.exists():  # a broken index is removed
            segment.write_bytes(content)
        assert out[found].tobytes() == held[found].tobytes()
        return out.tobytes() if found.all() else None

    return read


def a_zip() -> Reader:
    with zipfile.ZipFile(PATH, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(12):
            archive.writestr(f"train/cat.{number}.png", numbers(40).tobytes())

    def read() -> Any:
        with sources.open_source(PATH) as archive:
            try:
                found = {name: archive.read(name) for name in archive.names}
            except Unreadable:  # a row of the ledger, with the reason
                return None
            return None if archive.ignored else found

    return read


def a_picture() -> Reader:
    picture = Image.fromarray((100 * numbers(32, 32, 3)).astype(np.uint8))
    picture.save(PATH, "PNG")

    def read() -> Any:
        report._copy(PATH, "evaluate", Path("copies"), "copy.png")
        with Image.open("copies/copy.png") as copied:
            return copied.size, copied.convert("RGB").tobytes()

    return read


KINDS: dict[str, tuple[Callable[[], Reader], str]] = {
    "pixels' shard": (lambda: an_array("uint8"), "c/0/0"),
    "features' shard": (lambda: an_array("float32"), "c/0/0"),
    "array's description": (lambda: an_array("float32"), "zarr.json"),
    "rows' digests": (lambda: an_array("uint8"), "sha256.npy"),
    "weights": (weights, ""),
    "head": (a_head, ""),
    "checkpoint": (a_checkpoint, ""),
    "ledger": (a_ledger, ""),
    "history": (a_history, ""),
    "audit's table": (a_table, ""),
    "figures": (figures, ""),
    "cached rows": (cached_rows, "kind/*.rows"),
    "zip of photos": (a_zip, ""),
    "picture": (a_picture, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_noticed_or_harmless(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, inside = KINDS[kind]
    read = make()
    (path,) = PATH.glob(inside) if inside else [PATH]
    content, known = path.read_bytes(), read()
    assert known is not None
    rng, every = np.random.default_rng(0), 8 * len(content)
    bits = np.sort(rng.choice(every, min(FLIPS, every), replace=False)).tolist()
    counts: Counter[str] = Counter()
    wrong = []
    started = time.perf_counter()
    for bit in bits:
        with path.open("r+b") as file:
            file.seek(bit // 8)
            file.write(bytes([content[bit // 8] ^ 1 << bit % 8]))
        try:
            found = read()
        except UserError:
            found = None
        if found is not None and found != known:
            wrong.append(bit)
        counts["noticed" if found is None else "harmless"] += 1
        with path.open("r+b") as file:
            file.seek(bit // 8)
            file.write(content[bit // 8 : bit // 8 + 1])
        capsys.readouterr()
    assert wrong == [], f"read as other content: bits {wrong[:5]} of {len(content)} bytes"
    assert path.read_bytes() == content
    assert read() == known
    assert counts["noticed"] > len(bits) / 10
    seconds = round(time.perf_counter() - started, 1)
    name = f"flips-{kind.replace(' ', '-')}"
    record(name, {"kind": kind, "bits": len(bits), "seconds": seconds, **counts})
