"""Rows come back as they were written, and a damaged store is noticed."""

import hashlib
import json
import math
import pickle
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from zarr.codecs import GzipCodec

from pipeline.runtime.errors import UserError
from pipeline.storage import arrays

FINGERPRINT = "f" * 64
STORE = Path("rows.zarr")

# shape, dtype, bytes of a chunk, bytes of a shard: rows that fill shards exactly and that do not,
# one row and one shard, rows larger than a chunk or a shard
CASES = [
    ((1,), "float32", 64, 128),
    ((17,), "int64", 24, 72),
    ((50, 5), "float32", 200, 800),
    ((48, 3), "float16", 24, 48),
    ((31, 2, 2, 3), "uint8", 36, 100),
    ((9, 4), "float64", 8, 16),
    ((20, 7), "float32", 10_000, 1_000_000),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, so that sentences can be compared whole."""
    monkeypatch.chdir(tmp_path)


def random_rows(shape: tuple[int, ...], dtype: str, seed: int = 0) -> NDArray[Any]:
    values = np.random.default_rng(seed).normal(scale=100, size=shape)
    return values.astype(np.uint8 if dtype == "uint8" else dtype, casting="unsafe").astype(dtype)


def blocks(rows: NDArray[Any], seed: int = 0) -> Iterator[NDArray[Any]]:
    """The rows in pieces of random size, none included."""
    rng, at = np.random.default_rng(seed), 0
    while at < len(rows):
        size = int(rng.integers(0, 12))
        yield rows[at : at + size]
        at += size


def small(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, shard_bytes: int) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(arrays, "SHARD_BYTES", shard_bytes)


def write(rows: NDArray[Any], path: Path = STORE, seed: int = 0) -> None:
    arrays.write(
        path, blocks(rows, seed), shape=rows.shape, dtype=rows.dtype, fingerprint=FINGERPRINT
    )


Stored = tuple[NDArray[Any], arrays.Rows]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[1]} {case[0]}")
def stored(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Stored:
    """What was written, and what opens, for each of `CASES`."""
    shape, dtype, chunk_bytes, shard_bytes = request.param
    small(monkeypatch, chunk_bytes, shard_bytes)
    rows = random_rows(shape, dtype)
    write(rows)
    return rows, arrays.Rows(STORE, FINGERPRINT)


@pytest.fixture
def seven_shards(monkeypatch: pytest.MonkeyPatch) -> NDArray[Any]:
    """50 rows of 20 bytes, 4 in a chunk and 8 in a shard."""
    small(monkeypatch, 80, 160)
    rows = random_rows((50, 5), "float32")
    write(rows)
    assert len(list((STORE / "c").iterdir())) == 7
    return rows


def some(n: int, seed: int) -> NDArray[np.int64]:
    """Some of the row numbers below n, ascending."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.permutation(n)[: rng.integers(0, n + 1)]).astype(np.int64)


def refusal(fingerprint: str | None = None) -> str:
    with pytest.raises(UserError) as told:
        arrays.Rows(STORE, fingerprint)
    return str(told.value)


def test_an_array_opens_with_the_shape_dtype_and_fingerprint_it_was_written_with(
    stored: Stored,
) -> None:
    rows, opened = stored
    assert (opened.shape, opened.dtype, len(opened)) == (rows.shape, rows.dtype, len(rows))
    assert opened.fingerprint == FINGERPRINT


def test_any_range_of_rows_reads_as_written(stored: Stored) -> None:
    rows, opened = stored
    for start in range(0, len(rows), 3):
        for stop in range(start, len(rows) + 1, 5):
            read = opened.read(start, stop)
            assert read.dtype == rows.dtype
            np.testing.assert_array_equal(read, rows[start:stop])


def test_any_rows_are_taken_as_written(stored: Stored) -> None:
    rows, opened = stored
    for seed in range(5):
        chosen = some(len(rows), seed)
        taken = opened.take(chosen)
        assert taken.dtype == rows.dtype
        np.testing.assert_array_equal(taken, rows[chosen])


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_batches_hold_all_rows_in_order(stored: Stored, size: int) -> None:
    rows, opened = stored
    found = list(opened.batches(size))
    assert [len(batch) for batch in found[:-1]] == [size] * (len(found) - 1)
    assert 1 <= len(found[-1]) <= size
    np.testing.assert_array_equal(np.concatenate(found), rows)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_batches_of_some_rows_hold_those_in_order(stored: Stored, size: int) -> None:
    rows, opened = stored
    for seed in range(3):
        chosen = some(len(rows), seed)
        found = list(opened.batches(size, chosen))
        assert [len(batch) for batch in found] == [
            min(size, len(chosen) - first) for first in range(0, len(chosen), size)
        ]
        np.testing.assert_array_equal(np.concatenate([rows[:0], *found]), rows[chosen])


@pytest.mark.parametrize("buffer_bytes", [1, 300, 10**9])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_shuffling_yields_each_row_once_with_its_number(
    stored: Stored, size: int, buffer_bytes: int
) -> None:
    rows, opened = stored
    for seed in range(3):
        chosen = some(len(rows), seed)
        rng = np.random.default_rng(seed)
        found = list(opened.shuffled(chosen, size, rng, buffer_bytes))
        assert [len(numbers) for numbers, _ in found] == [
            min(size, len(chosen) - first) for first in range(0, len(chosen), size)
        ]
        assert sorted(int(i) for numbers, _ in found for i in numbers) == chosen.tolist()
        for numbers, values in found:
            np.testing.assert_array_equal(values, rows[numbers])


@pytest.mark.parametrize("buffer_bytes", [1, 400, 10**9])
def test_the_order_follows_from_the_seed(seven_shards: NDArray[Any], buffer_bytes: int) -> None:
    opened = arrays.Rows(STORE)

    def order(seed: int) -> list[int]:
        rng = np.random.default_rng(seed)
        found = opened.shuffled(np.arange(50), 8, rng, buffer_bytes)
        return [int(i) for numbers, _ in found for i in numbers]

    assert order(0) == order(0)
    assert order(0) != order(1)


def test_where_all_rows_fit_any_row_may_come_first(seven_shards: NDArray[Any]) -> None:
    opened, rng = arrays.Rows(STORE), np.random.default_rng(0)
    first = set()
    for _ in range(300):
        numbers, _values = next(opened.shuffled(np.arange(50), 50, rng, 10**9))
        assert numbers.tolist() != sorted(numbers)
        first.add(int(numbers[0]))
    assert first == set(range(50))


def test_where_few_rows_fit_the_buffer_still_mixes_rows_of_many_shards(
    seven_shards: NDArray[Any],
) -> None:
    opened, rng = arrays.Rows(STORE), np.random.default_rng(0)
    two_shards_bytes = 2 * 8 * 20
    found = opened.shuffled(np.arange(48), 16, rng, two_shards_bytes)
    assert min(len(set((numbers // 8).tolist())) for numbers, _ in found) > 2


def contents(path: Path) -> dict[str, str]:
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def test_the_same_rows_give_the_same_bytes_however_they_arrive(stored: Stored) -> None:
    rows, _ = stored
    for seed in (1, 2):
        write(rows, Path(f"again{seed}.zarr"), seed)
        assert contents(Path(f"again{seed}.zarr")) == contents(STORE)


def test_the_files_are_the_shards_and_one_description(stored: Stored) -> None:
    assert stored
    found = set(contents(STORE))
    shards = {name.split("/")[1] for name in found - {"zarr.json"}}
    assert shards == {str(i) for i in range(len(shards))}
    assert len(found) == len(shards) + 1
    assert not [name for name in found if "partial" in name]


def test_a_shard_is_near_its_size_and_a_whole_number_of_chunks() -> None:
    for shape in [(100_000, 64, 64, 3), (5, 224, 224, 3), (10**6, 1), (3, 4096, 4096, 3)]:
        chunk, shard = arrays._chunk_and_shard(shape, np.dtype(np.uint8), shape[0])
        row_bytes = math.prod(shape[1:])
        assert shard % chunk == 0
        assert chunk == 1 or chunk * row_bytes <= arrays.CHUNK_BYTES
        assert shard == chunk or shard * row_bytes <= arrays.SHARD_BYTES
        assert shard >= min(shape[0], arrays.SHARD_BYTES // row_bytes // 2)


@pytest.mark.parametrize("rows", [0, 49, 51, 100])
def test_another_number_of_rows_than_declared_is_refused(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, 80, 160)
    given = [np.zeros((rows, 5), np.float32)]
    with pytest.raises(ValueError, match=f"^rows.zarr: expected 50 rows, got {rows}$"):
        arrays.write(STORE, given, shape=(50, 5), dtype=np.float32, fingerprint="")


@pytest.mark.parametrize(
    ("rows", "shard_rows", "expected"),
    [
        (50, None, [8] * 6 + [2]),
        (50, 100, [8] * 6 + [2]),
        (50, 4, [4] * 12 + [2]),
        (50, 6, [8] * 6 + [2]),  # a whole number of chunks
        (48, 5, [8] * 6),
        (50, 3, [3] * 16 + [2]),
        (50, 1, [1] * 50),
        (2, 4, [2]),
    ],
)
def test_a_new_array_tells_the_rows_of_each_shard(
    rows: int, shard_rows: int | None, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20 bytes each, 4 in a chunk, 8 in a shard."""
    small(monkeypatch, 80, 160)
    parts = arrays.create(
        STORE, shape=(rows, 5), dtype="float32", fingerprint=FINGERPRINT, shard_rows=shard_rows
    )
    assert [len(part) for part in parts] == expected
    assert [row for part in parts for row in part] == list(range(rows))


@pytest.mark.parametrize("shard_rows", [None, 3, 4])
def test_shards_that_several_threads_write_give_the_bytes_of_one_after_the_other(
    shard_rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, 80, 160)
    values = random_rows((50, 5), "float32")

    def create(path: Path) -> list[range]:
        return arrays.create(
            path, shape=(50, 5), dtype="float32", fingerprint=FINGERPRINT, shard_rows=shard_rows
        )

    one_by_one, at_once = Path("one by one.zarr"), Path("at once.zarr")
    for part in create(one_by_one):
        arrays.write_shard(one_by_one, part, values[part.start : part.stop])
    parts = create(at_once)[::-1]
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda part: arrays.write_shard(at_once, part, values[part.start : part.stop]),
                parts,
            )
        )
    assert contents(at_once) == contents(one_by_one)
    np.testing.assert_array_equal(arrays.Rows(at_once, FINGERPRINT).read(0, 50), values)
    if shard_rows is None:
        write(values)
        assert contents(STORE) == contents(at_once)


def test_an_array_of_which_a_shard_was_not_written_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small(monkeypatch, 80, 160)
    values = np.zeros((50, 5), np.float32)  # which are written as any other
    parts = arrays.create(STORE, shape=(50, 5), dtype="float32", fingerprint=FINGERPRINT)
    for part in parts[:3] + parts[4:]:
        arrays.write_shard(STORE, part, values[part.start : part.stop])
    assert refusal() == (
        "rows.zarr: expected 7 shards, got 1 missing or empty, the first is 3; "
        "remove rows.zarr and run `dvc repro` again"
    )


def test_a_rows_digest_is_the_sha256_of_its_values() -> None:
    rows = random_rows((4, 2, 3), "float32")
    expected = hashlib.sha256(rows[1].tobytes()).digest()
    assert arrays.digest(rows[1]) == expected
    assert arrays.digest(np.asfortranarray(rows[1])) == expected
    assert arrays.digest(rows[1][::-1][::-1].copy()) == expected
    assert len({arrays.digest(row) for row in rows}) == 4


def test_digests_are_kept_beside_the_rows_the_same_bytes_every_time(
    seven_shards: NDArray[Any],
) -> None:
    digests = np.array([list(arrays.digest(row)) for row in seven_shards], np.uint8)
    arrays.write_digests(STORE, digests)
    kept = (STORE / arrays.DIGESTS).read_bytes()
    opened = arrays.Rows(STORE)
    assert opened.digests.dtype == np.uint8
    np.testing.assert_array_equal(opened.digests, digests)
    np.testing.assert_array_equal(opened.read(0, 50), seven_shards)
    arrays.write_digests(STORE, digests)
    assert (STORE / arrays.DIGESTS).read_bytes() == kept


def test_digests_that_are_damaged_or_of_other_rows_are_refused(
    seven_shards: NDArray[Any],
) -> None:
    def told() -> str:
        with pytest.raises(UserError) as refused:
            _ = arrays.Rows(STORE).digests
        return str(refused.value)

    def sentence(expected: str, got: str) -> str:
        return (
            f"rows.zarr/sha256.npy: expected {expected}, got {got}; "
            "remove rows.zarr and run `dvc repro` again"
        )

    of_rows = "the digests of its rows"
    missing = "'No such file or directory'"
    assert told() == sentence(of_rows, missing)
    (STORE / arrays.DIGESTS).write_bytes(b"")
    assert told() == sentence(of_rows, "'No data left in file'")
    (STORE / arrays.DIGESTS).write_bytes(b"no array")
    assert told().startswith(f"rows.zarr/sha256.npy: expected {of_rows}, got ")
    arrays.write_digests(STORE, np.zeros((49, 32), np.uint8))
    assert told() == sentence("uint8 (51, 32)", "'uint8 (50, 32)'")
    np.save(STORE / arrays.DIGESTS, np.zeros((50, 32), np.float32))
    assert told() == sentence("uint8 (51, 32)", "'float32 (50, 32)'")
    whole = np.zeros((50, 32), np.uint8)
    arrays.write_digests(STORE, whole)
    cut = (STORE / arrays.DIGESTS).read_bytes()[:-100]
    (STORE / arrays.DIGESTS).write_bytes(cut)
    assert told().startswith(f"rows.zarr/sha256.npy: expected {of_rows}, got ")


def test_rows_of_nothing_but_zeros_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, 80, 160)
    write(np.zeros((50, 5), np.float32))
    assert set(contents(STORE)) == {"zarr.json", *(f"c/{i}/0" for i in range(7))}
    opened = arrays.Rows(STORE)
    np.testing.assert_array_equal(opened.read(0, 50), np.zeros((50, 5), np.float32))


def test_numbers_that_are_no_numbers_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, 80, 160)
    rows = random_rows((50, 5), "float32")
    rows[7] = [np.nan, np.inf, -np.inf, -0.0, np.float32(1e-45)]
    write(rows)
    assert arrays.Rows(STORE).read(0, 50).tobytes() == rows.tobytes()


def test_an_array_made_from_another_ledger_is_refused(seven_shards: NDArray[Any]) -> None:
    assert refusal("e" * 64) == (
        "rows.zarr: expected the rows of the data/split.csv that stands there now, "
        "got 50 rows of another one; run `dvc repro` to make it anew"
    )


def test_an_array_without_a_fingerprint_is_refused_where_one_is_asked_for() -> None:
    zarr.create_array(STORE, data=np.ones((3, 2)))
    np.testing.assert_array_equal(arrays.Rows(STORE).read(0, 3), np.ones((3, 2)))
    assert refusal(FINGERPRINT) == (
        "rows.zarr: expected the rows of the data/split.csv that stands there now, "
        "got 3 rows of another one; run `dvc repro` to make it anew"
    )


NO_ARRAY = [
    "nothing",
    "a file",
    "an empty folder",
    "a group",
    "half a description",
    "a description that is a list",
]


@pytest.mark.parametrize("kind", NO_ARRAY)
def test_what_is_no_array_is_refused(kind: str) -> None:
    if kind == "a file":
        STORE.write_text("rows", encoding="utf-8")
    elif kind == "a group":
        zarr.create_group(STORE)
    elif kind != "nothing":
        STORE.mkdir()
    if "description" in kind:
        text = "[]" if "list" in kind else '{\n  "shape'
        (STORE / "zarr.json").write_text(text, encoding="utf-8")
    told_by_zarr = r"""('[^']+'|"[^"]+")"""  # differs from version to version
    assert re.fullmatch(
        rf"rows\.zarr: expected a zarr array, got {told_by_zarr}; "
        "remove rows.zarr and run `dvc repro` again",
        refusal(),
    )


@pytest.mark.parametrize("loss", ["its file", "its folder", "its bytes"])
@pytest.mark.parametrize("shard", [0, 3, 6])
def test_a_lost_shard_is_refused(seven_shards: NDArray[Any], shard: int, loss: str) -> None:
    file = STORE / f"c/{shard}/0"
    if loss == "its file":
        file.unlink()
    elif loss == "its folder":
        shutil.rmtree(file.parent)
    else:
        file.write_bytes(b"")
    assert refusal() == (
        f"rows.zarr: expected 7 shards, got 1 missing or empty, the first is {shard}; "
        "remove rows.zarr and run `dvc repro` again"
    )


def test_several_lost_shards_are_counted_in_any_dimension(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small(monkeypatch, 12, 24)
    write(random_rows((10, 2, 2, 3), "uint8"))
    for i in (2, 4):
        (STORE / f"c/{i}/0/0/0").unlink()
    assert refusal() == (
        "rows.zarr: expected 5 shards, got 2 missing or empty, the first is 2; "
        "remove rows.zarr and run `dvc repro` again"
    )


def test_a_flipped_bit_is_noticed_or_changes_nothing(seven_shards: NDArray[Any]) -> None:
    shard = STORE / "c/3/0"
    whole = shard.read_bytes()
    noticed = 0
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        shard.write_bytes(flipped)
        try:
            read = arrays.Rows(STORE).read(0, 50)
        except UserError as told:
            noticed += 1
            sentence = str(told)
            assert sentence.startswith(
                "rows.zarr rows 0 to 49: expected bytes that fit their checksum, got "
            )
            assert sentence.endswith("; remove rows.zarr and run `dvc repro` again")
        else:
            np.testing.assert_array_equal(read, seven_shards)
    assert noticed >= len(whole) - 4


def test_a_flipped_bit_is_told_with_its_rows(seven_shards: NDArray[Any]) -> None:
    shard = STORE / "c/3/0"
    flipped = bytearray(shard.read_bytes())
    flipped[40] ^= 1
    shard.write_bytes(flipped)
    opened = arrays.Rows(STORE)
    np.testing.assert_array_equal(opened.read(0, 24), seven_shards[:24])
    np.testing.assert_array_equal(opened.read(32, 50), seven_shards[32:])
    with pytest.raises(UserError) as told:
        opened.take(np.array([1, 25, 27, 40]))
    assert str(told.value) == (
        "rows.zarr rows 25 to 27: expected bytes that fit their checksum, got "
        "'Zstd decompression error: b\"Restored data doesn\\'t match checksum\"'; "
        "remove rows.zarr and run `dvc repro` again"
    )


def test_a_shard_cut_short_is_noticed_at_any_length(seven_shards: NDArray[Any]) -> None:
    shard = STORE / "c/3/0"
    whole = shard.read_bytes()
    for kept in range(1, len(whole)):
        shard.write_bytes(whole[:kept])
        with pytest.raises(UserError, match=r"^rows.zarr rows 24 to 31: expected bytes that fit"):
            arrays.Rows(STORE).read(24, 32)


def test_arrays_side_by_side_are_read_as_one(seven_shards: NDArray[Any]) -> None:
    rows, opened = seven_shards, arrays.Rows(STORE)
    both = arrays.SideBySide([opened, opened])
    expected = np.concatenate([rows, rows], axis=-1)
    assert (both.shape, both.dtype, both.fingerprint) == (expected.shape, rows.dtype, FINGERPRINT)
    chosen = some(len(rows), 0)
    np.testing.assert_array_equal(both.take(chosen), expected[chosen])
    found = list(both.batches(3, chosen))
    np.testing.assert_array_equal(np.concatenate([expected[:0], *found]), expected[chosen])
    shuffled = list(both.shuffled(chosen, 3, np.random.default_rng(0), 300))
    assert sorted(int(i) for numbers, _ in shuffled for i in numbers) == chosen.tolist()
    for numbers, values in shuffled:
        np.testing.assert_array_equal(values, expected[numbers])


@pytest.mark.parametrize("buffer_bytes", [300, 10**9])
def test_rows_held_in_memory_come_in_the_order_of_those_that_are_streamed(
    seven_shards: NDArray[Any], buffer_bytes: int
) -> None:
    opened = arrays.Rows(STORE)
    chosen = some(50, 1)
    row_bytes = seven_shards[0].nbytes
    assert arrays.hold(opened, chosen, row_bytes * len(chosen) - 1) is opened
    held = arrays.hold(opened, chosen, row_bytes * len(chosen))
    shutil.rmtree(STORE)
    np.testing.assert_array_equal(held.take(chosen[3:7]), seven_shards[chosen[3:7]])
    np.testing.assert_array_equal(np.concatenate(list(held.batches(4))), seven_shards[chosen])
    write(seven_shards, STORE, 0)
    for _ in range(2):
        streams = [
            array.shuffled(chosen, 8, np.random.default_rng(5), buffer_bytes)
            for array in (arrays.Rows(STORE), held)
        ]
        for (one, values), (other, same) in zip(*streams, strict=True):
            np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(values, same)


def test_an_array_whose_description_names_a_pickle_is_refused_unread() -> None:
    """Zarr 2 lets an array name any codec of numcodecs, and some versions of that unpickle."""
    STORE.mkdir()
    description = {
        "zarr_format": 2,
        "shape": [4],
        "chunks": [4],
        "dtype": "|O",
        "order": "C",
        "fill_value": "",
        "compressor": None,
        "filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}],
    }
    (STORE / ".zarray").write_text(json.dumps(description))
    (STORE / "0").write_bytes(pickle.dumps(["x"] * 4))
    with pytest.raises(UserError) as told:
        arrays.Rows(STORE)
    assert re.fullmatch(
        r"rows\.zarr: expected a zarr array, got .+; remove rows\.zarr and run `dvc repro` again",
        str(told.value),
    )


@pytest.mark.parametrize(
    ("how", "got"),
    [
        ({"dtype": "str"}, "one of StringDType() through VLenUTF8Codec, ZstdCodec"),
        (
            {"dtype": "float32", "compressors": GzipCodec()},
            "one of float32 through BytesCodec, GzipCodec",
        ),
    ],
)
def test_an_array_that_this_module_does_not_write_is_refused(how: Any, got: str) -> None:
    zarr.create_array(STORE, shape=(4, 2), chunks=(2, 2), **how)
    with pytest.raises(UserError) as told:
        arrays.Rows(STORE)
    assert str(told.value) == (
        f"rows.zarr: expected a zarr array, got {got!r}; remove rows.zarr and run `dvc repro` again"
    )
