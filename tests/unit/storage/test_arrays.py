"""Rows come back as they were written, and a damaged array is noticed."""

import hashlib
import itertools
import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from album import contents
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from zarr.codecs import GzipCodec

from pipeline.runtime.errors import UserError
from pipeline.storage import arrays

FINGERPRINT = "f" * 64
STORE = Path("rows.zarr")
REMEDY = "; remove rows.zarr and run `dvc repro` again"

# shape, dtype, bytes of a chunk, bytes of a shard: rows that fill shards exactly and that do not,
# one row and one shard, rows larger than a chunk or a shard
CASES = [
    ((1,), "float32", 64, 128),
    ((17,), "int64", 24, 72),
    ((50, 5), "float32", 200, 800),
    ((48, 3), "float16", 24, 48),
    ((31, 2, 2, 3), "uint8", 36, 100),
    ((20, 7), "float32", 10_000, 1_000_000),
]
Stored = tuple[NDArray[Any], arrays.StoredArray]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def random_rows(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    values = np.random.default_rng(0).normal(scale=100, size=shape)
    return values.astype(np.uint8 if dtype == "uint8" else dtype, casting="unsafe").astype(dtype)


def blocks(rows: NDArray[Any], seed: int = 0) -> Iterator[NDArray[Any]]:
    """Yield the rows in pieces of random size, including empty ones."""
    rng, at = np.random.default_rng(seed), 0
    while at < len(rows):
        size = int(rng.integers(0, 12))
        yield rows[at : at + size]
        at += size


def small(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int = 80, shard_bytes: int = 160) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(arrays, "SHARD_BYTES", shard_bytes)


def write(rows: NDArray[Any], path: Path = STORE, seed: int = 0) -> None:
    arrays.write(
        path, blocks(rows, seed), shape=rows.shape, dtype=rows.dtype, fingerprint=FINGERPRINT
    )


@pytest.fixture(params=CASES, ids=lambda case: f"{case[1]} {case[0]}")
def stored(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Stored:
    """The rows and the opened array of each of `CASES`."""
    shape, dtype, chunk_bytes, shard_bytes = request.param
    small(monkeypatch, chunk_bytes, shard_bytes)
    rows = random_rows(shape, dtype)
    write(rows)
    return rows, arrays.StoredArray(STORE, FINGERPRINT)


@pytest.fixture
def seven_shards(monkeypatch: pytest.MonkeyPatch) -> NDArray[Any]:
    """50 rows of 20 bytes, 4 per chunk and 8 per shard."""
    small(monkeypatch)
    rows = random_rows((50, 5), "float32")
    write(rows)
    return rows


def some(n: int, seed: int) -> NDArray[np.int64]:
    """Draw some of the row numbers below n, ascending."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.permutation(n)[: rng.integers(0, n + 1)]).astype(np.int64)


def refusal(read: Callable[[], object] = lambda: arrays.StoredArray(STORE, FINGERPRINT)) -> str:
    with pytest.raises(UserError) as refused:
        read()
    return str(refused.value)


def test_any_rows_are_read_as_written(stored: Stored) -> None:
    rows, opened = stored
    assert (opened.shape, opened.dtype, len(opened)) == (rows.shape, rows.dtype, len(rows))
    assert opened.fingerprint == FINGERPRINT
    for start in range(0, len(rows), 3):
        for stop in range(start, len(rows) + 1, 5):
            assert_array_equal(opened.read(start, stop), rows[start:stop], strict=True)
    assert [len(batch) for batch in opened.batches(7)] == [
        min(7, len(rows) - first) for first in range(0, len(rows), 7)
    ]
    assert_array_equal(np.concatenate(list(opened.batches(7))), rows)
    for seed in range(5):
        listed = some(len(rows), seed)
        assert_array_equal(opened.take(listed), rows[listed], strict=True)
        assert_array_equal(np.concatenate([rows[:0], *opened.batches(4, listed)]), rows[listed])


def test_the_same_rows_give_the_same_bytes_however_they_arrive(stored: Stored) -> None:
    rows, _ = stored
    again, threads = Path("again.zarr"), Path("threads.zarr")
    write(rows, again, seed=1)
    shards = arrays.create(threads, shape=rows.shape, dtype=rows.dtype, fingerprint=FINGERPRINT)
    pieces = [rows[shard.start : shard.stop] for shard in shards]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(arrays.write_shard, itertools.repeat(threads), shards[::-1], pieces[::-1]))
    assert contents(again) == contents(threads) == contents(STORE)


@pytest.mark.parametrize("count", [0, 49, 51, 100])
def test_another_number_of_rows_than_declared_is_refused(count: int) -> None:
    rows = [np.zeros((count, 5), np.float32)]
    with pytest.raises(ValueError, match=f"^rows.zarr: expected 50 rows, got {count}$"):
        arrays.write(STORE, rows, shape=(50, 5), dtype=np.float32, fingerprint="")


@pytest.mark.parametrize(
    ("rows", "shard_rows", "expected"),
    [
        (50, None, [8] * 6 + [2]),
        (50, 6, [8] * 6 + [2]),  # a whole number of chunks
        (50, 3, [3] * 16 + [2]),
        (2, 4, [2]),
    ],
)
def test_create_returns_the_rows_of_each_shard(
    rows: int, shard_rows: int | None, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows have 20 bytes, 4 per chunk, 8 per shard."""
    small(monkeypatch)
    shards = arrays.create(
        STORE, shape=(rows, 5), dtype="float32", fingerprint="", shard_rows=shard_rows
    )
    assert [len(shard) for shard in shards] == expected
    assert [row for shard in shards for row in shard] == list(range(rows))


def test_digests_are_the_sha256_of_rows_and_are_stored_beside_them(
    seven_shards: NDArray[Any],
) -> None:
    digests = arrays.digests(seven_shards)
    assert digests[1].tobytes() == hashlib.sha256(seven_shards[1].tobytes()).digest()
    assert arrays.digest(np.asfortranarray(seven_shards)) == arrays.digest(seven_shards)
    arrays.write_digests(STORE, digests)
    assert_array_equal(arrays.StoredArray(STORE).digests, digests, strict=True)


@pytest.mark.parametrize(
    ("damage", "got"),
    [
        (lambda file: None, "No such file or directory"),
        (lambda file: file.write_bytes(b""), "No data left in file"),
        (lambda file: file.write_bytes(b"no array"), ""),
        (lambda file: np.save(file, np.zeros((50, 32))), "float64 (50, 32)"),
        (lambda file: np.save(file, np.zeros((51, 32), np.uint8)), "others than their own sha256"),
    ],
)
def test_damaged_digests_are_refused(
    damage: Callable[[Path], object], got: str, seven_shards: NDArray[Any]
) -> None:
    damage(STORE / arrays.DIGESTS)
    sentence = refusal(lambda: arrays.StoredArray(STORE).digests)
    assert f"rows.zarr/sha256.npy: expected the sha256 of each row, got '{got}" in sentence
    assert sentence.endswith(REMEDY)


def test_zeros_and_numbers_that_are_not_finite_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    rows = np.zeros((50, 5), np.float32)
    rows[7] = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)
    write(rows)
    assert set(contents(STORE)) == {"zarr.json", *(f"c/{i}/0" for i in range(7))}
    assert arrays.StoredArray(STORE).read(0, 50).tobytes() == rows.tobytes()


def test_an_array_of_another_ledger_is_refused(seven_shards: NDArray[Any]) -> None:
    assert refusal(lambda: arrays.StoredArray(STORE, "e" * 64)) == (
        "rows.zarr: expected the rows of the current data/split.csv, got 50 rows of another one; "
        "run `dvc repro` to make it anew"
    )


def write_pickle() -> None:
    """Zarr 2 lets an array name any codec of numcodecs, and some versions of that unpickle."""
    STORE.mkdir()
    filters = [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}]
    described = {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "|O", "order": "C"}
    described |= {"fill_value": "", "compressor": None, "filters": filters}
    (STORE / ".zarray").write_text(json.dumps(described))
    (STORE / "0").write_bytes(pickle.dumps(["x"] * 4))


def write_array(**changed: Any) -> None:
    zarr.create_array(STORE, **{"shape": (4, 2), "chunks": (2, 2), "dtype": "float32"} | changed)


NO_ARRAYS: dict[str, tuple[Callable[[], object], str]] = {
    "nothing": (lambda: None, ""),
    "a group": (lambda: zarr.create_group(STORE), ""),
    "a file": (lambda: STORE.write_text("rows", encoding="utf-8"), ""),
    "a pickle": (write_pickle, ""),
    "texts": (
        lambda: write_array(dtype="str"),
        "one of StringDType() through VLenUTF8Codec, ZstdCodec",
    ),
    "another codec": (
        lambda: write_array(compressors=GzipCodec()),
        "one of float32 through BytesCodec, GzipCodec",
    ),
}


@pytest.mark.parametrize("kind", NO_ARRAYS)
def test_anything_but_an_array_of_ours_is_refused_unread(kind: str) -> None:
    make, got = NO_ARRAYS[kind]
    make()
    quoted = re.escape(repr(got)) if got else r"""('[^']+'|"[^"]+")"""
    expected = rf"rows\.zarr: expected a zarr array, got {quoted}{re.escape(REMEDY)}"
    assert re.fullmatch(expected, refusal())


def test_changed_metadata_is_refused(seven_shards: NDArray[Any]) -> None:
    path = STORE / arrays.METADATA
    path.write_text(path.read_text().replace("float32", "int32"))
    assert "another zarr.json than its crc32 says" in refusal()


def test_lost_shards_are_refused(seven_shards: NDArray[Any]) -> None:
    shutil.rmtree(STORE / "c/6")
    (STORE / "c/3/0").unlink()
    (STORE / "c/4/0").write_bytes(b"")
    got = "3 missing or empty, the first is 3"
    assert refusal() == f"rows.zarr: expected 7 shards, got {got}{REMEDY}"


def test_a_flipped_bit_is_reported_with_its_rows(seven_shards: NDArray[Any]) -> None:
    content = bytearray((STORE / "c/3/0").read_bytes())
    content[40] ^= 1
    (STORE / "c/3/0").write_bytes(content)
    opened = arrays.StoredArray(STORE)
    assert_array_equal(opened.read(0, 24), seven_shards[:24])
    assert_array_equal(opened.read(32, 50), seven_shards[32:])
    sentence = refusal(lambda: opened.take(np.array([1, 25, 27, 40])))
    assert "rows.zarr rows 25 to 27: expected bytes that fit their checksum, got " in sentence
    assert sentence.endswith(REMEDY)


@pytest.mark.parametrize("count", [4, 6])  # the last chunk of three rows is whole, or not
def test_a_flipped_bit_anywhere_is_noticed_by_whoever_reads_one_row(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codec may verify no checksum of a chunk that it reads in part."""
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 36)
    values = np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3), np.uint8)
    arrays.write(STORE, [values], shape=values.shape, dtype=np.uint8, fingerprint=FINGERPRINT)
    file = arrays.StoredArray(STORE).shard_file(0)
    good = file.read_bytes()
    for at in range(len(good)):
        file.write_bytes(good[:at] + bytes([good[at] ^ 16]) + good[at + 1 :])
        noticed = 0
        for row in range(count):
            try:
                read = arrays.StoredArray(STORE).read(row, row + 1)
            except UserError:
                noticed += 1
            else:
                assert_array_equal(read, values[row : row + 1])
        assert noticed, at


def test_a_shard_cut_short_is_noticed(seven_shards: NDArray[Any]) -> None:
    shard = STORE / "c/3/0"
    intact = shard.read_bytes()
    for kept in (1, len(intact) // 2, len(intact) - 1):
        shard.write_bytes(intact[:kept])
        assert "rows 24 to 31: expected" in refusal(lambda: arrays.StoredArray(STORE).read(24, 32))
