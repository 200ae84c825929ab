"""Views give the values of the arrays they are made of; shuffling yields each row once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from pipeline import paths
from pipeline.storage import array_views, arrays
from pipeline.storage.arrays import Readable

ROWS = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
LISTED = np.array([0, 1, 5, 6, 7, 20, 33, 34, 48])
LARGE = 10**9


@pytest.fixture(autouse=True)
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> arrays.StoredArray:
    """50 rows of 20 bytes, 4 per chunk and 8 per shard."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 80)
    monkeypatch.setattr(arrays, "SHARD_BYTES", 160)
    return write(ROWS, Path("rows.zarr"))


def write(rows: NDArray[Any], path: Path) -> arrays.StoredArray:
    arrays.write(path, [rows], shape=rows.shape, dtype=rows.dtype, fingerprint="f")
    return arrays.StoredArray(path)


def one_of_each(stored: Readable) -> Readable:
    return array_views.one_of_each([stored, write(-ROWS, Path("negative.zarr"))], np.arange(50) % 2)


def side_by_side(_: Readable) -> Readable:
    for name, columns in (("a", slice(3)), ("b", slice(3, 5))):
        write(np.ascontiguousarray(ROWS[:, columns]), paths.features(name))
    assert_array_equal(array_views.open_features(["a"], "f").take(LISTED), ROWS[LISTED, :3])
    return array_views.open_features(["a", "b"], "f")


VIEWS: list[tuple[Callable[[Readable], Readable], NDArray[np.float32]]] = [
    (side_by_side, ROWS),
    (one_of_each, ROWS * np.where(np.arange(50) % 2, -1, 1)[:, None].astype(np.float32)),
    (lambda stored: array_views.in_memory_if_small(stored, LISTED, LARGE), ROWS),
]


@pytest.mark.parametrize(("view", "expected"), VIEWS)
def test_a_view_reads_the_rows_of_its_arrays(
    view: Callable[[Readable], Readable], expected: NDArray[np.float32], stored: Readable
) -> None:
    seen = view(stored)
    assert (seen.shape, seen.dtype, seen.fingerprint) == (expected.shape, ROWS.dtype, "f")
    assert_array_equal(seen.take(LISTED), expected[LISTED])
    assert_array_equal(np.concatenate(list(seen.batches(4, LISTED))), expected[LISTED])
    for numbers, values in array_views.shuffled(seen, LISTED, 3, np.random.default_rng(0), 300):
        assert_array_equal(values, expected[numbers])


@pytest.mark.parametrize("buffer_bytes", [300, LARGE])
def test_rows_in_memory_come_in_the_order_of_streamed_rows(
    stored: Readable, buffer_bytes: int
) -> None:
    needed = ROWS[0].nbytes * len(LISTED)
    assert array_views.in_memory_if_small(stored, LISTED, needed - 1) is stored
    cached = array_views.in_memory_if_small(stored, LISTED, needed)
    assert cached is not stored

    def order(array: Readable) -> NDArray[np.int64]:
        rng = np.random.default_rng(5)
        batches = array_views.shuffled(array, LISTED, 8, rng, buffer_bytes)
        return np.concatenate([numbers for numbers, _ in batches])

    assert_array_equal(order(cached), order(stored))


@pytest.mark.parametrize("buffer_bytes", [1, 300, LARGE])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_shuffling_yields_each_row_once_in_an_order_given_by_the_seed(
    stored: Readable, size: int, buffer_bytes: int
) -> None:
    def order(seed: int, listed: NDArray[np.int64]) -> list[int]:
        rng = np.random.default_rng(seed)
        batches = list(array_views.shuffled(stored, listed, size, rng, buffer_bytes))
        assert [len(numbers) for numbers, _ in batches] == [
            min(size, len(listed) - first) for first in range(0, len(listed), size)
        ]
        for numbers, values in batches:
            assert_array_equal(values, ROWS[numbers])
        return [int(i) for numbers, _ in batches for i in numbers]

    for listed in (LISTED, LISTED[:0], np.arange(50)):
        assert sorted(order(0, listed)) == listed.tolist()
    assert order(0, listed) == order(0, listed) != order(1, listed)


def test_a_small_buffer_still_mixes_rows_of_many_shards(stored: Readable) -> None:
    two_shards_bytes = 2 * 8 * 20
    rng = np.random.default_rng(0)
    batches = array_views.shuffled(stored, np.arange(48), 16, rng, two_shards_bytes)
    assert min(len(set((numbers // 8).tolist())) for numbers, _ in batches) > 2
