"""The row cache returns what was put, or nothing, whatever happens to its files."""

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.storage import row_cache
from pipeline.storage.row_cache import HEADER, MAGIC, RowCache

ROOT = Path("data/.rows")
KIND = "extract-1f0c"
FOLDER = ROOT / KIND
AMPLE = 2**30
Patch = pytest.MonkeyPatch
Printed = pytest.CaptureFixture[str]
BROKEN = (
    "row cache: {}: expected rows that match their checksum, dtype and shape, got others; "
    "such rows are computed again\n"
)


@pytest.fixture(autouse=True)
def _work_in_an_empty_folder(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)


def key(i: int) -> bytes:
    return hashlib.sha256(str(i).encode()).digest()


def keys(*numbers: int) -> list[bytes]:
    return [key(i) for i in numbers]


def row(i: int, size: int = 100) -> NDArray[np.uint8]:
    return np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8)


def rows(*numbers: int) -> NDArray[np.uint8]:
    return np.stack([row(i) for i in numbers])


def opened(*wanted: int, budget: int = AMPLE, kind: str = KIND) -> RowCache:
    return RowCache(ROOT, kind, keys(*wanted), budget)


def put(*numbers: int, kind: str = KIND) -> Path:
    """Let an earlier run put these rows; return the segment's path."""
    before = set(segments(kind))
    opened(kind=kind).put(keys(*numbers), rows(*numbers))
    (path,) = set(segments(kind)) - before
    return path


def get(cache: RowCache, *numbers: int) -> list[int]:
    """Return the numbers of the rows that are found; all are right, and the rest is unchanged."""
    out = np.full((len(numbers), 100), 7, dtype=np.uint8)
    whole = cache.get(keys(*numbers), out)
    assert whole.shape == (len(numbers),)
    for i, found, given in zip(numbers, whole, out, strict=True):
        np.testing.assert_array_equal(given, row(i) if found else 7)
    return [i for i, found in zip(numbers, whole, strict=True) if found]


def segments(kind: str = KIND) -> list[Path]:
    return sorted((ROOT / kind).glob("*.rows"))


def ten(first: int) -> range:
    """Return ten numbers, whose rows make a segment of 1,400 bytes."""
    return range(first, first + 10)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(), (1280,), (5, 5, 3), (1, 2, 3, 4)])
def test_a_later_run_gets_the_bytes_that_were_put(dtype: str, shape: tuple[int, ...]) -> None:
    size = 6 * int(np.prod(shape)) * np.dtype(dtype).itemsize
    computed = row(0, size).view(dtype).reshape(6, *shape)  # NaN of all kinds among them
    RowCache(ROOT, KIND, [], AMPLE).put(keys(*range(6)), computed)
    out = np.zeros_like(computed)
    assert RowCache(ROOT, KIND, keys(*range(6)), AMPLE).get(keys(*range(6)), out).all()
    assert out.tobytes() == computed.tobytes()


@pytest.mark.parametrize("read_bytes", [1, 250, 1000, 2**21])
def test_rows_are_found_in_any_order_across_segments_with_reads_of_any_size(
    monkeypatch: Patch, read_bytes: int
) -> None:
    monkeypatch.setattr(row_cache, "READ_BYTES", read_bytes)
    for first in range(0, 40, 10):
        put(*ten(first))
    order = np.random.default_rng(0).permutation(50).tolist()
    wanted = [i for i in order if i % 7 not in (2, 3)]
    assert get(opened(*wanted), *order) == [i for i in wanted if i < 40]


def test_a_key_that_is_put_twice_gives_the_row_put_last() -> None:
    cache = RowCache(ROOT, KIND, [key(0)], AMPLE)
    cache.put([key(0)] * 3, np.array([[1.0], [2.0], [3.0]]))
    for value in (4.0, 5.0):
        cache.put([key(0)], np.array([[value]]))
        for asked in (cache, RowCache(ROOT, KIND, [key(0)], AMPLE)):
            out = np.zeros((1, 1))
            assert asked.get([key(0)], out).all()
            assert out.item() == value


def test_keys_that_differ_in_zero_bytes_are_different_keys() -> None:
    similar = [bytes(32), b"\1" + bytes(31), bytes(31) + b"\1", b"\1" * 32, b"\xff" * 32]
    for wanted in similar:
        cache = RowCache(ROOT, KIND, [wanted], AMPLE)
        cache.put([wanted], np.array([similar.index(wanted)], dtype=np.float32))
        out = np.full(5, -1, dtype=np.float32)
        expected = [i if other == wanted else -1 for i, other in enumerate(similar)]
        assert cache.get(similar, out).tolist() == [i >= 0 for i in expected]
        assert out.tolist() == expected


def test_segments_that_vanish_are_no_fault_and_take_the_type_of_rows_along(capsys: Printed) -> None:
    assert opened(0).row_type is None
    put(0)
    assert opened(1).row_type is None
    put(1, 2)
    cache = opened(0, 2)
    before = cache.row_type
    for path in segments():
        path.unlink()
    assert get(cache, 0, 2) == []
    assert (before, cache.row_type) == ((np.dtype(np.uint8), (100,)), None)
    cache.put(keys(0), rows(0))
    assert get(cache, 0, 2) == [0]
    assert (capsys.readouterr().out, "corrupt" in cache.summary()) == ("", False)


def test_with_a_budget_of_0_the_cache_finds_and_keeps_nothing_and_touches_no_disk(
    monkeypatch: Patch, capsys: Printed
) -> None:
    path = put(0)
    age(path, 3600)
    before = path.stat()
    monkeypatch.setattr(os, "walk", None)
    off = opened(0, 1, budget=0)
    off.put(keys(1), rows(1))
    assert get(off, 0, 1) == []
    assert (off.row_type, off.summary()) == (None, "row cache: off")
    assert path.stat() == before
    assert segments() == [path]
    assert capsys.readouterr().out == ""


def test_the_summary_counts_rows_and_mebibytes_of_all_kinds() -> None:
    RowCache(ROOT, "resize-77", [], AMPLE).put(keys(0), np.zeros((1, 2**20), dtype=np.uint8))
    cache = RowCache(ROOT, KIND, keys(*range(2000)), 5 * 2**30)
    cache.put(keys(*range(1500)), np.zeros((1500, 2**10), dtype=np.uint8))
    cache.get(keys(*range(2000)), np.zeros((2000, 2**10), dtype=np.uint8))
    assert cache.summary() == (
        "row cache: 1,500 rows found, 1,500 computed; 2.5 of 5,120.0 MiB in data/.rows"
    )


@pytest.mark.parametrize("wrong", [b"", b"short", bytes(33), "0" * 64])
def test_a_key_of_another_length_is_refused(wrong: Any) -> None:
    for use in (
        lambda: RowCache(ROOT, KIND, [key(0), wrong], AMPLE),
        lambda: opened(0).get([key(0), wrong], np.zeros((2, 100), dtype=np.uint8)),
        lambda: opened(0).put([key(0), wrong], rows(0, 1)),
    ):
        with pytest.raises(ValueError, match=r"^row cache: expected keys of 32 bytes, got others$"):
            use()
    assert not ROOT.exists()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2,), "i8"), ((2,), ">f4"), ((2,), "O"), ((0,), "f4"), ((1, 1, 1, 1, 1), "f4")],
)
def test_rows_of_another_type_are_refused(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(ValueError, match=r"^row cache: expected rows of uint8 or floats with at"):
        opened(0).put(keys(0), np.zeros((1, *shape), dtype))


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


START = "expected b'ROW CACHE 1\\n' and a dtype at its start, got "
CHECKSUM = "expected kind, header and index that match their checksum, got others"
# A changed segment of ten rows, and what is printed about it.
BREAK: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", START + "b''"),
    "garbage": (lambda _: row(0, 1400).tobytes(), START + repr(row(0, 16).tobytes())),
    "version": (lambda content: content.replace(MAGIC, MAGIC[:-2] + b"2\n"), START + "b'ROW"),
    "objects": (lambda content: content.replace(b"|u1\0", b"|O\0\0", 1), START + "b'ROW"),
    "cut in its header": (lambda content: content[:20], "expected 410 bytes, got 20"),
    "too many rows": (
        lambda content: HEADER.pack(MAGIC, b"|u1", 2**32 - 1, 100, 0, 0, 0) + content[36:],
        "expected 584,115,552,160 bytes, got 1,400",
    ),
    "type": (lambda content: content.replace(b"|u1\0", b"<f2\0", 1) + bytes(1000), CHECKSUM),
    "kind": (lambda _: put(*range(10), kind="resize-77").read_bytes(), CHECKSUM),
}


@pytest.mark.parametrize("fault", BREAK)
def test_a_broken_segment_is_reported_in_one_line_and_removed(fault: str, capsys: Printed) -> None:
    path, whole = put(*range(10)), put(10)
    change, reason = BREAK[fault]
    path.write_bytes(change(path.read_bytes()))
    cache = opened(*range(11))
    start = f"row cache: broken segments left out: 1, the first {path}: {reason}"
    printed = capsys.readouterr().out
    assert printed.startswith(start)
    assert printed.count("\n") == 1
    assert segments() == [whole]
    assert get(cache, *range(11)) == [10]
    cache.put(keys(*range(10)), rows(*range(10)))
    assert get(opened(*range(11)), *range(11)) == [*range(11)]
    assert capsys.readouterr().out == ""


def test_rows_that_do_not_match_their_checksums_are_reported_once_and_counted(
    capsys: Printed,
) -> None:
    path = put(*range(10))
    content = path.read_bytes()
    for i in (2, 5, 9):
        content = flipped(content, 8 * (400 + 100 * i + 50))
    path.write_bytes(content)
    cache = opened(*range(10))
    assert capsys.readouterr().out == ""
    assert get(cache, 2, 3, 2) == [3]
    assert capsys.readouterr().out == BROKEN.format(path)
    assert get(cache, *range(10)) == [0, 1, 3, 4, 6, 7, 8]
    assert get(cache, 2, 5, 9) == []
    assert capsys.readouterr().out == ""
    assert cache.summary() == (
        "row cache: 8 rows found, 0 computed, 3 corrupt; 0.0 of 1,024.0 MiB in data/.rows"
    )


@pytest.mark.parametrize(
    "out", [np.ones((2, 100), dtype=np.float32), np.ones((2, 10, 10), dtype=np.uint8)]
)
def test_rows_of_another_type_than_requested_are_reported_and_not_returned(
    out: NDArray[Any], capsys: Printed
) -> None:
    path = put(0, 1)
    cache = opened(0, 1)
    assert not cache.get(keys(0, 1), out).any()
    assert (out == 1).all()
    assert cache.row_type is None
    assert capsys.readouterr().out == BROKEN.format(path)
    assert ", 2 corrupt;" in cache.summary()


def test_no_flipped_bit_gives_a_wrong_row() -> None:
    path = put(*range(10))
    content = path.read_bytes()
    every_bit_of_the_header = range(8 * 36)
    sampled = np.random.default_rng(0).choice(8 * len(content), 200, replace=False).tolist()
    found = set()
    for bit in (*every_bit_of_the_header, *sampled):
        path.write_bytes(flipped(content, bit))
        found.add((bit < 8 * 400, len(get(opened(*range(10)), *range(10)))))
    assert found == {(True, 0), (False, 9)}


TAKES_NOTHING = (
    "row cache: data/.rows: expected a writable folder, got {!r}; this run stores no more rows\n"
)


def make_root_a_file(_: Patch) -> None:
    shutil.rmtree(ROOT)
    ROOT.touch()


def fail(function: str, code: int) -> Callable[[Patch], None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), "any name")

    return lambda monkeypatch: monkeypatch.setattr(Path, function, refuse)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (make_root_a_file, "Not a directory"),
        (fail("mkdir", errno.EROFS), "Read-only file system"),
        (fail("open", errno.EACCES), "Permission denied"),
        (fail("replace", errno.ENOSPC), "No space left on device"),
    ],
)
def test_an_unwritable_folder_is_reported_once_and_fails_nothing(
    prepare: Callable[[Patch], None], reason: str, monkeypatch: Patch, capsys: Printed
) -> None:
    put(0)
    cache = opened(0, 1, 2)
    prepare(monkeypatch)
    for i in (1, 2):
        cache.put(keys(i, 3), rows(i, 3))
    assert capsys.readouterr().out == TAKES_NOTHING.format(reason)
    assert get(cache, 0, 1, 2) == ([] if ROOT.is_file() else [0])
    assert f", 4 computed, 4 not kept ({reason}); " in cache.summary()
    assert ROOT.is_file() or len(names(FOLDER)) == 1
    monkeypatch.undo()


def test_an_unlistable_root_is_reported_and_fails_nothing(
    monkeypatch: Patch, capsys: Printed
) -> None:
    put(0)
    fail("glob", errno.EIO)(monkeypatch)
    cache = opened(0)
    cache.put(keys(0), rows(0))
    assert get(cache, 0) == []
    assert capsys.readouterr().out == TAKES_NOTHING.format("Input/output error")


def put_aged(*ages: float) -> list[Path]:
    """Segments of ten rows, 0 to 9, 10 to 19 and so on, used so many seconds ago."""
    paths = [put(*ten(10 * i)) for i in range(len(ages))]
    for path, seconds in zip(paths, ages, strict=True):
        age(path, seconds)
    return paths


def test_what_was_used_longest_ago_goes_first() -> None:
    paths = put_aged(30, 50, 20, 40)
    cache = opened(budget=5 * 1400 - 1)
    cache.put(keys(*ten(100)), rows(*ten(100)))
    assert segments()[:-1] == [paths[0], paths[2], paths[3]]
    cache.put(keys(*ten(110)), rows(*ten(110)))
    assert segments()[:-2] == [paths[0], paths[2]]


def test_what_this_run_wants_or_any_run_has_used_since_is_not_removed_for_new_rows() -> None:
    paths = put_aged(50, 40, 30)
    cache = opened(5, *ten(100), budget=3 * 1400)
    age(paths[0], 60)  # as if others had been used since
    opened(*ten(20))  # another process
    cache.put(keys(*ten(100)), rows(*ten(100)))
    assert segments()[:-1] == [paths[0], paths[2]]
    cache.put(keys(*ten(110)), rows(*ten(110)))
    assert segments()[:-1] == [paths[0], paths[2]]
    assert get(cache, 5, 100) == [5, 100]
    assert ", 20 computed, 10 not kept (the cache is full); " in cache.summary()


@pytest.mark.parametrize(("ago", "kept"), [(0, False), (1000, True)])
def test_a_run_may_have_begun_before_it_opened_its_cache(ago: float, kept: bool) -> None:
    (path,) = put_aged(500)
    cache = RowCache(ROOT, KIND, [], 1400, started=time.time() - ago)
    cache.put(keys(*ten(100)), rows(*ten(100)))
    assert (path.exists(), len(segments())) == (kept, 1)


@pytest.mark.parametrize("kinds", ["a", "ab"])
def test_a_job_larger_than_the_budget_keeps_the_same_rows_run_after_run(kinds: str) -> None:
    for run in range(3):
        started = time.time()
        for path in ROOT.glob("*/*.rows"):
            age(path, 3600)
        budget = 3 * len(kinds) * 1400
        views = [RowCache(ROOT, kind, keys(*range(50)), budget, started) for kind in kinds]
        found = []
        for first in range(0, 50, 10):
            for view in views:
                held = get(view, *ten(first))
                found += held
                if not held:
                    view.put(keys(*ten(first)), rows(*ten(first)))
        kept = [i for first in (0, 10, 20) for _ in kinds for i in ten(first)]
        assert found == (kept if run else [])


def test_rows_too_large_for_the_budget_displace_nothing(capsys: Printed) -> None:
    paths = put_aged(50, 40)
    cache = opened(budget=2 * 1400)
    cache.put(keys(*range(100, 130)), rows(*range(100, 130)))
    assert segments() == paths
    assert ", 30 not kept (the cache is full); " in cache.summary()
    cache.put(keys(100), rows(100))
    assert segments()[:-1] == paths[1:]
    assert capsys.readouterr().out == ""


def test_a_lowered_budget_holds_as_soon_as_a_run_begins() -> None:
    paths = put_aged(50, 40, 30, 20)
    opened(budget=3 * 1400)
    assert segments() == paths[1:]
    opened(*ten(10), budget=1400)
    assert segments() == [paths[1]]
    cache = opened(*ten(10), budget=1399)
    assert segments() == []
    assert get(cache, *ten(10)) == []


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_only_partial_files_of_dead_processes_are_removed() -> None:
    put(0)
    here, dead = os.uname().nodename, dead_process()
    kept = [f"{here}-{os.getppid()}", f"{here}-{10**30}", f"else-where-{dead}", "x", "x-y-z"]
    for folder in (ROOT / "resize-77", FOLDER):
        folder.mkdir(exist_ok=True)
        for name in (*kept, f"{here}-{dead}", f"long-ago-{dead}"):
            (folder / f".partial-{name}-0f").touch()
        age(folder / f".partial-long-ago-{dead}-0f", 25 * 3600)
    opened(0)
    for folder in (ROOT / "resize-77", FOLDER):
        left = [name for name in names(folder) if name.startswith(".")]
        assert left == sorted(f".partial-{name}-0f" for name in kept)


def test_runs_that_share_a_root_find_only_right_rows() -> None:
    def work(seed: int) -> int:
        rng, found = np.random.default_rng(seed), 0
        for _ in range(12):
            cache = opened(*range(100), budget=8 * 1400)
            for path in segments()[::2]:
                with contextlib.suppress(FileNotFoundError):
                    age(path, 60)
            for _ in range(5):
                numbers = rng.integers(0, 200, 20).tolist()
                held = get(cache, *numbers)
                found += len(held)
                missing = [i for i in numbers if i not in held][:10]
                cache.put(keys(*missing), rows(*missing))
            assert "corrupt" not in cache.summary()
        return found

    with ThreadPoolExecutor() as pool:
        assert min(pool.map(work, range(2))) > 0
    assert not list(ROOT.glob("*/.*"))
    assert sum(path.stat().st_size for path in segments()) <= 9 * 1400


def test_threads_may_get_and_put_at_once(capsys: Printed) -> None:
    cache = opened(*range(100))

    def work(i: int) -> None:
        cache.put(keys(i), rows(i))
        assert i in get(cache, *range(max(0, i - 20), i + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(100)))
    assert get(cache, *range(100)) == get(opened(*range(100)), *range(100)) == [*range(100)]
    assert capsys.readouterr().out == ""
    assert ", 100 computed; " in cache.summary()


@pytest.mark.parametrize("seed", range(3))
def test_no_history_of_faults_gives_a_wrong_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dead = dead_process()
    caches = [opened(*range(60))]
    found = corrupt = 0
    for _ in range(300):
        cache = caches[rng.integers(len(caches))]
        files = segments()
        path = files[rng.integers(len(files))] if files else None
        numbers = rng.integers(0, 70, rng.integers(1, 12)).tolist()
        match rng.integers(13):
            case 0 | 1 | 2 | 3:
                cache.put(keys(*numbers), rows(*numbers))
            case 4 | 5 | 6:
                found += len(get(cache, *numbers))
            case 7:
                wanted = rng.choice(70, 60, replace=False).tolist()
                caches = [*caches[-2:], opened(*wanted, budget=int(rng.integers(4000, 20_000)))]
            case 8 if path and path.stat().st_size:
                content = path.read_bytes()
                path.write_bytes(flipped(content, int(rng.integers(8 * len(content)))))
                corrupt += 1
            case 9 if path:
                os.truncate(path, int(rng.integers(path.stat().st_size + 1)))
            case 10 if path:
                path.unlink()
            case 11 if path:
                age(path, float(rng.integers(10, 100)))
            case 12 if FOLDER.is_dir():
                (FOLDER / f".partial-{os.uname().nodename}-{dead}-0f").write_bytes(b"half")
    everything = opened(*range(70))
    held = get(everything, *range(70))
    assert min(found - 50, corrupt - 5, len(held) - 5) > 0
    missing = sorted({*range(70)} - {*held})
    everything.put(keys(*missing), rows(*missing))
    assert get(opened(*range(70)), *range(70)) == [*range(70)]
    assert not list(FOLDER.glob(".*"))


def test_the_index_of_100000_rows_takes_under_5_mb() -> None:
    count = 100_000
    content = np.random.default_rng(0).bytes(32 * count)
    wanted = [content[32 * i : 32 * i + 32] for i in range(count)]
    RowCache(ROOT, KIND, [], AMPLE).put(wanted, np.zeros((count, 8), dtype=np.float32))
    tracemalloc.start()
    cache = RowCache(ROOT, KIND, wanted, AMPLE)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cache.get(wanted, np.ones((count, 8), dtype=np.float32)).all()
    assert (held < 5e6, peak < 20e6) == (True, True)
