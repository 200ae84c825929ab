"""The row cache of `resize` links to shards: no byte twice, and only right rows are found."""

import errno
import hashlib
import os
import shutil
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.storage import arrays
from pipeline.storage.linked_shards import LinkedShards

ROOT, KIND = Path("data/.rows"), "resize-1f0c"
FOLDER = ROOT / KIND
SHARD_ROWS = 5
SHARD_BYTES = 500 + 4 + 16 + 4  # a chunk and the index, each with its checksum
SEGMENT_BYTES = 2_000  # at most, of a segment without its shards
AMPLE = 2**30
Patch = pytest.MonkeyPatch
Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _work_in_an_empty_folder(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 500)  # a chunk has five rows, a shard one chunk


def key(image: int) -> bytes:
    return hashlib.sha256(str(image).encode()).digest()


def pixels(*images: int) -> NDArray[np.uint8]:
    return np.stack([np.random.default_rng(i).integers(0, 256, 100, np.uint8) for i in images])


def resize(name: str, *images: int, budget: int = AMPLE) -> list[int]:
    """Write the array `name` of these images like the stage; return those that were computed."""
    out, computed = Path(name), []
    shutil.rmtree(out, ignore_errors=True)
    shards = arrays.create(
        out, shape=(len(images), 100), dtype=np.uint8, fingerprint="", shard_rows=SHARD_ROWS
    )
    keys = [key(image) for image in images]
    cache = LinkedShards(ROOT, KIND, keys, budget, time.time(), out.resolve())
    for rows in shards:
        values = np.zeros((len(rows), 100), np.uint8)
        found = cache.get(keys[rows.start : rows.stop], values)
        missing = [images[row] for row, known in zip(rows, found, strict=True) if not known]
        if missing:
            values[~found] = pixels(*missing)
        computed += missing
        cache.write_shard(rows, values)
    cache.retire()
    print(cache.summary())
    np.testing.assert_array_equal(arrays.StoredArray(out).read(0, len(images)), pixels(*images))
    return computed


def shard(name: str, number: int) -> Path:
    return Path(name) / "c" / str(number) / "0"


def inode(name: str, number: int) -> int:
    return shard(name, number).stat().st_ino


def kept() -> list[Path]:
    """The shards in the cache."""
    return sorted(FOLDER.glob("*.shards/c/*/0"))


def images(*ranges: range) -> list[int]:
    return [image for one in ranges for image in one]


def test_a_run_keeps_every_shard_by_a_link_and_copies_no_byte(capsys: Printed) -> None:
    assert resize("a", *range(23)) == [*range(23)]
    assert [path.stat().st_nlink for path in kept()] == [2] * 5
    assert {path.stat().st_ino for path in kept()} == {inode("a", number) for number in range(5)}
    assert "row cache: 0.0 of 1,024.0 MiB in data/.rows" in capsys.readouterr().out


def test_a_removed_output_comes_back_by_links_to_the_same_bytes() -> None:
    resize("a", *range(23))
    before = [inode("a", number) for number in range(5)]
    shutil.rmtree("a")
    assert [path.stat().st_nlink for path in kept()] == [1] * 5
    assert resize("a", *range(23)) == []
    assert [inode("a", number) for number in range(5)] == before
    assert len(kept()) == 5


def test_shards_with_the_same_rows_are_links_and_others_are_written_and_replace_theirs() -> None:
    resize("a", *range(20))
    before = [inode("a", number) for number in range(4)]
    assert resize("a", *range(10), 50, *range(10, 20)) == [50]
    after = [inode("a", number) for number in range(5)]
    assert after[:2] == before[:2]
    assert set(after[2:]).isdisjoint(before)
    assert {path.stat().st_ino for path in kept()} == {*after}  # none of the rest of the first run
    assert resize("a", *range(10), 50, *range(10, 20)) == []
    assert len(kept()) == 5


def test_rows_are_found_in_any_order_and_in_shards_of_several_runs() -> None:
    resize("a", *range(20))
    resize("b", *range(30, 43))
    order = np.random.default_rng(0).permutation(images(range(50), range(7))).tolist()
    assert sorted(resize("c", *order)) == [*range(20, 30), *range(43, 50)]
    assert resize("c", *order) == []


def test_removed_images_are_still_known_and_only_their_shards_stay() -> None:
    resize("a", *range(20))
    assert resize("a", *range(7), *range(8, 20)) == []
    others = {path.stat().st_ino for path in kept()} - {inode("a", number) for number in range(4)}
    assert len(others) == 1  # the shard with image 7
    assert resize("a", *range(20)) == []


def test_a_shorter_last_shard_and_another_layout_are_no_links() -> None:
    resize("a", *range(8))
    assert resize("b", *range(10)) == [8, 9]
    assert inode("b", 0) == inode("a", 0)
    assert resize("c", *range(3)) == []  # its shards have three rows
    assert inode("c", 0) != inode("a", 0)


@pytest.mark.parametrize("at", [40, SHARD_BYTES - 1])
def test_a_damaged_shard_is_reported_and_its_rows_are_computed_again(
    at: int, capsys: Printed
) -> None:
    resize("a", *range(20))
    content = bytearray(shard("a", 2).read_bytes())
    content[at] ^= 1
    shard("a", 2).write_bytes(content)  # both names of the file
    before = {path.stat().st_ino for path in kept()}
    assert resize("a", *range(20)) == [*range(10, 15)]
    assert "expected rows as they were stored, got a damaged row; rows" in capsys.readouterr().out
    assert len({path.stat().st_ino for path in kept()} - before) == 1
    assert resize("a", *range(20)) == []
    assert "damaged" not in capsys.readouterr().out


@pytest.mark.parametrize("file", ["zarr.json", "sha256.npy"])
def test_a_damaged_index_is_reported_and_removed(file: str, capsys: Printed) -> None:
    resize("a", *range(20))
    (path,) = FOLDER.glob(f"*.shards/{file}")
    content = path.read_bytes()
    path.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
    assert resize("a", *range(20)) == [*range(20)]
    assert f"{path.parent}: expected rows as they were stored, got a damaged index" in (
        capsys.readouterr().out
    )
    assert not path.exists()


def test_a_shard_that_vanishes_while_a_run_reads_is_computed_again() -> None:
    resize("a", *range(10))
    keys = [key(image) for image in range(10)]
    cache = LinkedShards(ROOT, KIND, keys, AMPLE, time.time(), Path("b").resolve())
    kept()[0].unlink()
    values = np.full((10, 100), 7, np.uint8)
    assert cache.get(keys, values).tolist() == [False] * 5 + [True] * 5
    np.testing.assert_array_equal(values, [*[[7] * 100] * 5, *pixels(*range(5, 10))])


def test_what_a_killed_run_has_written_is_known() -> None:
    resize("a", *range(20))
    for path in kept()[2:]:
        path.unlink()
    assert resize("b", *range(20)) == [*range(10, 20)]


@pytest.mark.parametrize("budget", [0, SHARD_BYTES])
def test_without_room_nothing_is_kept(budget: int, capsys: Printed) -> None:
    for _ in range(2):
        assert resize("a", *range(20), budget=budget) == [*range(20)]
    assert kept() == []
    told = "20 rows not kept (the cache is full)" if budget else "row cache: off"
    assert capsys.readouterr().out.count(told) == 2


def test_the_oldest_run_goes_first_and_never_one_that_this_run_uses() -> None:
    room = SEGMENT_BYTES + 2 * SHARD_BYTES
    for at, first in enumerate((0, 10, 20)):
        resize(f"of {first}", *range(first, first + 10))
        (path,) = set(FOLDER.iterdir()) - {*FOLDER.glob("*used*")}
        path = path.rename(path.with_name(f"{at}-used.shards"))
        os.utime(path, (time.time() - 100 + at,) * 2)
    wanted = images(range(5), range(30, 40))  # of the oldest, and new ones
    assert resize("a", *wanted, budget=3 * room) == [*range(30, 40)]
    assert resize("b", *range(20, 30), budget=3 * room) == []
    assert resize("c", *range(10, 20), budget=3 * room) == [*range(10, 20)]


def test_a_job_larger_than_the_budget_keeps_the_same_rows_run_after_run() -> None:
    budget = SEGMENT_BYTES + 2 * SHARD_BYTES
    computed = [resize("a", *range(30), budget=budget) for _ in range(3)]
    assert computed[0] == [*range(30)]
    assert len(computed[1]) < 30
    assert computed[2] == computed[1]


def no_links(monkeypatch: Patch) -> None:
    error = OSError(errno.EPERM, os.strerror(errno.EPERM))
    monkeypatch.setattr(os, "link", Mock(side_effect=error))


def test_without_hard_links_shards_are_copied_and_found_all_the_same(
    monkeypatch: Patch, capsys: Printed
) -> None:
    no_links(monkeypatch)
    resize("a", *range(20))
    assert [path.stat().st_nlink for path in kept()] == [1] * 4
    shutil.rmtree("a")
    assert resize("a", *range(10), 50, *range(10, 20)) == [50]
    assert len(kept()) == 5  # no copies of copies
    assert resize("a", *range(10), 50, *range(10, 20)) == []
    assert "expected" not in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_reported_once_and_fails_nothing(
    monkeypatch: Patch, capsys: Printed
) -> None:
    no_links(monkeypatch)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(shutil, "copyfile", Mock(side_effect=full))
    assert resize("a", *range(20)) == [*range(20)]
    printed = capsys.readouterr().out
    assert printed.count("expected a writable folder, got 'No space left on device'") == 1
    assert "20 rows not kept (No space left on device)" in printed
    assert kept() == []
