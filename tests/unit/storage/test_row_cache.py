"""The row cache returns what was put, or nothing, whatever happens to its files."""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.storage.row_cache import HEADER, MAGIC, RowCache

ROOT = Path("data/.rows")
KIND = "extract-1f0c"
FOLDER = ROOT / KIND
AMPLE = 2**30
INDEX_BYTES = HEADER.size + 10 * 32 + 4  # of ten rows
TEN = INDEX_BYTES + 10 * (100 + 4)
Patch = pytest.MonkeyPatch
Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _work_in_an_empty_folder(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)


def keys(*numbers: int) -> list[bytes]:
    return [hashlib.sha256(str(i).encode()).digest() for i in numbers]


def row(i: int, size: int = 100) -> NDArray[np.uint8]:
    return np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8)


def rows(*numbers: int) -> NDArray[np.uint8]:
    return np.stack([row(i) for i in numbers])


def opened(*wanted: int, budget: int = AMPLE) -> RowCache:
    return RowCache(ROOT, KIND, keys(*wanted), budget)


def put(*numbers: int) -> Path:
    """Let an earlier run put these rows; return the segment's path."""
    before = set(segments())
    opened().put(keys(*numbers), rows(*numbers))
    (path,) = set(segments()) - before
    return path


def get(cache: RowCache, *numbers: int) -> list[int]:
    """Return the numbers of the rows that are found; all are right, and the rest is unchanged."""
    out = np.full((len(numbers), 100), 7, dtype=np.uint8)
    found = cache.get(keys(*numbers), out)
    for i, is_found, given in zip(numbers, found, out, strict=True):
        np.testing.assert_array_equal(given, row(i) if is_found else 7)
    return [i for i, is_found in zip(numbers, found, strict=True) if is_found]


def segments() -> list[Path]:
    return sorted(FOLDER.glob("*.rows"))


def ten(first: int) -> range:
    return range(first, first + 10)


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize(("dtype", "shape"), [("u1", (27,)), ("f2", ()), ("f4", (5, 5, 3))])
def test_a_later_run_gets_the_bytes_that_were_put(dtype: str, shape: tuple[int, ...]) -> None:
    size = 6 * int(np.prod(shape)) * np.dtype(dtype).itemsize
    computed = row(0, size).view(dtype).reshape(6, *shape)  # NaN of all kinds among them
    opened().put(keys(*range(6)), computed)
    out, later = np.zeros_like(computed), opened(*range(6))
    assert later.get(keys(*range(6)), out).all()
    assert (out.tobytes(), later.row_bytes) == (computed.tobytes(), size // 6)


def test_rows_are_found_in_any_order_across_segments() -> None:
    for first in range(0, 40, 10):
        put(*ten(first))
    order = np.random.default_rng(0).permutation(50).tolist()
    wanted = [i for i in order if i % 7 not in (2, 3)]
    assert get(opened(*wanted), *order) == [i for i in wanted if i < 40]


def test_a_key_that_is_put_twice_gives_the_row_put_last() -> None:
    cache, out = opened(0), np.zeros((1, 1))
    for value in (4.0, 5.0):
        cache.put(keys(0), np.array([[value]]))
        for asked in (cache, opened(0)):
            assert asked.get(keys(0), out).all()
            assert out.item() == value


def test_segments_that_vanish_are_no_fault(capsys: Printed) -> None:
    put(0)
    assert (opened(1).row_bytes, opened(0).row_bytes) == (None, 100)
    put(1, 2)
    cache = opened(0, 2)
    for path in segments():
        path.unlink()
    assert get(cache, 0, 2) == []
    cache.put(keys(0), rows(0))
    assert get(cache, 0, 2) == [0]
    assert capsys.readouterr().out == ""


def test_with_a_budget_of_0_the_cache_finds_and_keeps_nothing_and_touches_no_disk(
    monkeypatch: Patch, capsys: Printed
) -> None:
    path = put(0)
    before = path.stat()
    monkeypatch.setattr(os, "walk", None)
    off = opened(0, 1, budget=0)
    off.put(keys(1), rows(1))
    assert get(off, 0, 1) == []
    assert (off.row_bytes, off.summary(), path.stat()) == (None, "row cache: off", before)
    assert (segments(), capsys.readouterr().out) == ([path], "")


def test_the_summary_has_the_mebibytes_of_all_kinds() -> None:
    for kind in (KIND, "resize-77"):
        RowCache(ROOT, kind, [], AMPLE).put(keys(0), np.zeros((1, 2**20), dtype=np.uint8))
    assert opened(budget=5 * AMPLE).summary() == "row cache: 2.0 of 5,120.0 MiB in data/.rows"


def test_files_are_not_listed_again_while_there_is_room(monkeypatch: Patch) -> None:
    walked = Mock(side_effect=os.walk)
    cache = opened(*range(100))
    monkeypatch.setattr(os, "walk", walked)
    for i in range(100):
        cache.put(keys(i), rows(i))
    assert not walked.called
    assert get(opened(*range(100)), *range(100)) == [*range(100)]


def flipped(content: bytes, byte: int) -> bytes:
    return content[:byte] + bytes([content[byte] ^ 1]) + content[byte + 1 :]


# A changed segment of ten rows, and what is printed about it.
BREAK: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "0 bytes"),
    "another version": (lambda content: content.replace(MAGIC, MAGIC[:-2] + b"1\n"), "1,384 bytes"),
    "cut in its rows": (lambda content: content[:-1], "1,383 bytes"),
    "too many rows": (
        lambda content: HEADER.pack(MAGIC, 2**32 - 1, 2**32 - 1) + content[HEADER.size :],
        "1,384 bytes",
    ),
    "a changed key": (lambda content: flipped(content, 99), "a damaged index"),
}


@pytest.mark.parametrize("fault", BREAK)
def test_a_broken_segment_is_reported_in_one_line_and_removed(fault: str, capsys: Printed) -> None:
    path, intact = put(*range(10)), put(10)
    change, got = BREAK[fault]
    path.write_bytes(change(path.read_bytes()))
    cache = opened(*range(11))
    assert capsys.readouterr().out == (
        f"row cache: {path}: expected rows as they were stored, got {got}; "
        "rows like these are computed again\n"
    )
    assert segments() == [intact]
    assert get(cache, *range(11)) == [10]
    cache.put(keys(*range(10)), rows(*range(10)))
    assert get(opened(*range(11)), *range(11)) == [*range(11)]


def test_damaged_rows_are_reported_once_and_not_returned(capsys: Printed) -> None:
    path = put(*range(10))
    for i in (2, 5, 9):
        path.write_bytes(flipped(path.read_bytes(), INDEX_BYTES + 104 * i + 50))
    cache = opened(*range(10))
    assert get(cache, 2, 3, 2) == [3]
    os.truncate(path, TEN - 104)
    assert get(cache, *range(10)) == [0, 1, 3, 4, 6, 7, 8]
    assert get(cache, 2, 5, 9) == []
    assert capsys.readouterr().out.count("got a damaged row; rows like these are computed") == 1


def make_root_a_file(_: Patch) -> None:
    shutil.rmtree(ROOT)
    ROOT.touch()


def fail(function: str, code: int) -> Callable[[Patch], None]:
    error = Mock(side_effect=OSError(code, os.strerror(code), "any name"))
    return lambda monkeypatch: monkeypatch.setattr(Path, function, error)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (make_root_a_file, "Not a directory"),
        (fail("mkdir", errno.EROFS), "Read-only file system"),
        (fail("replace", errno.ENOSPC), "No space left on device"),
    ],
)
def test_an_unwritable_folder_is_reported_once_and_fails_nothing(
    prepare: Callable[[Patch], None], reason: str, monkeypatch: Patch, capsys: Printed
) -> None:
    path = put(0)
    cache = opened(0, 1, 2)
    prepare(monkeypatch)
    for i in (1, 2):
        cache.put(keys(i, 3), rows(i, 3))
    assert capsys.readouterr().out == (
        f"row cache: data/.rows: expected a writable folder, got {reason!r}; this run stores no "
        "more rows\n"
    )
    assert f"; 4 rows not kept ({reason})" in cache.summary()
    assert ROOT.is_file() or os.listdir(FOLDER) == [path.name]


def put_aged(*ages: float) -> list[Path]:
    """Segments of ten rows, 0 to 9, 10 to 19 and so on, used so many seconds ago."""
    paths = [put(*ten(10 * i)) for i in range(len(ages))]
    for path, seconds in zip(paths, ages, strict=True):
        age(path, seconds)
    return paths


def test_what_was_used_longest_ago_goes_first() -> None:
    paths = put_aged(30, 50, 20, 40)
    opened(budget=4 * TEN).put(keys(*range(100, 150)), rows(*range(100, 150)))
    assert segments() == paths  # rows too large for the budget displace nothing
    cache = opened(budget=5 * TEN - 1)
    cache.put(keys(*ten(100)), rows(*ten(100)))
    assert segments()[:-1] == [paths[0], paths[2], paths[3]]
    cache.put(keys(*ten(110)), rows(*ten(110)))
    assert segments()[:-2] == [paths[0], paths[2]]


def test_what_any_run_has_used_since_this_one_began_is_not_removed_for_new_rows() -> None:
    paths = put_aged(50, 40, 30)
    cache = opened(5, *ten(100), budget=3 * TEN)
    opened(*ten(20))  # another process
    cache.put(keys(*ten(100)), rows(*ten(100)))
    cache.put(keys(*ten(110)), rows(*ten(110)))
    assert segments()[:-1] == [paths[0], paths[2]]
    assert get(cache, 5, 100) == [5, 100]
    assert "; 10 rows not kept (the cache is full)" in cache.summary()


def test_a_job_larger_than_the_budget_keeps_the_same_rows_run_after_run() -> None:
    for run in range(3):
        started = time.time()
        for path in ROOT.glob("*/*.rows"):
            age(path, 3600)
        views = [RowCache(ROOT, kind, keys(*range(50)), 6 * TEN, started) for kind in "ab"]
        found = []
        for first in range(0, 50, 10):
            for view in views:
                held = get(view, *ten(first))
                found.append(len(held))
                if not held:
                    view.put(keys(*ten(first)), rows(*ten(first)))
        assert found == ([10] * 6 + [0] * 4 if run else [0] * 10)


def test_a_lowered_budget_holds_as_soon_as_a_run_begins_for_remains_of_killed_runs_too() -> None:
    paths = put_aged(50, 40, 30, 20)
    remains, of_others = FOLDER / "0f.rows.part", FOLDER / "notes"
    for path, seconds in ((remains, 45), (of_others, 60)):
        path.write_bytes(bytes(TEN))
        age(path, seconds)
    opened(budget=3 * TEN)
    assert sorted(FOLDER.iterdir()) == [*paths[1:], of_others]
    opened(*ten(10), budget=TEN)
    assert segments() == [paths[1]]
    assert get(opened(*ten(10), budget=TEN - 1), *ten(10)) == []
    assert segments() == []


def test_runs_that_share_a_root_find_only_right_rows() -> None:
    def work(seed: int) -> int:
        rng, found = np.random.default_rng(seed), 0
        for _ in range(60):
            cache = RowCache(ROOT, KIND, keys(*range(100)), 8 * TEN, time.time() + 60)
            numbers = rng.integers(0, 200, 20).tolist()
            held = get(cache, *numbers)
            found += len(held)
            missing = [i for i in numbers if i not in held][:10]
            cache.put(keys(*missing), rows(*missing))
        return found

    with ThreadPoolExecutor() as pool:
        assert min(pool.map(work, range(2))) > 0
    assert not list(ROOT.glob("*/*.part"))
    assert sum(path.stat().st_size for path in segments()) <= 9 * TEN


def test_threads_may_get_and_put_at_once(capsys: Printed) -> None:
    cache = opened(*range(100))

    def work(i: int) -> None:
        cache.put(keys(i), rows(i))
        assert i in get(cache, *range(max(0, i - 20), i + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(100)))
    assert get(cache, *range(100)) == get(opened(*range(100)), *range(100)) == [*range(100)]
    assert capsys.readouterr().out == ""
