"""What `resize` assembles from a partly filled row cache is what a fresh run writes."""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from album import (
    HAPPENINGS,
    LEDGER,
    RESIZED,
    ROWS,
    TRAIN,
    Album,
    computed,
    contents,
    damage,
    known,
    segments,
)
from local_cluster import NEEDED, local_cluster
from numpy.typing import NDArray

from pipeline.runtime.progress import Bar
from pipeline.storage import arrays, ledger
from stages import resize


def again(album: Album) -> int:
    """Run split and resize; return the number of computed rows. The output is a fresh run's."""
    album.split()
    printed = album.resize()
    assert contents(RESIZED) == album.fresh("resize")
    assert computed(printed) + known(printed) == len(album.hashes())
    return computed(printed)


def test_the_output_has_all_rows_and_the_digest_of_each(album: Album) -> None:
    assert again(album) == 18
    rows = arrays.StoredArray(RESIZED, ledger.fingerprint(ledger.read_ledger(LEDGER)))
    assert rows.shape == (18, 48, 48, 3)
    assert rows.dtype == np.uint8
    np.testing.assert_array_equal(rows.digests, arrays.digests(rows.read(0, 18)))
    assert sorted(path.name for path in (RESIZED / "c").iterdir()) == ["0", "1", "2", "3"]


def test_only_new_bytes_are_computed_once_each(album: Album) -> None:
    assert again(album) == 18
    assert again(album) == 0
    album.rename(album.of("cat")[:5])
    album.shuffle()
    assert again(album) == 0
    removed = {name: album.pictures.pop(name) for name in album.of("dog")[:3]}
    assert again(album) == 0
    album.pictures |= removed
    assert again(album) == 0
    album.add("cat", 3)
    assert again(album) == 3
    name = album.of("cat")[0]
    album.pictures[album.new_name("cat", Path(name).suffix)] = album.pictures[name]
    assert again(album) == 0
    content = album.picture()
    album.pictures |= {"cat.2000.png": content, "cat.2001.png": content, "dog.2000.png": content}
    assert again(album) == 1
    album.pictures["cat.2000.png"] = album.picture()
    assert again(album) == 1


@pytest.mark.parametrize(
    "changed", [{"size": 40}, {"fit": "crop"}, {"interpolation": "nearest"}], ids=str
)
def test_another_setting_computes_all_and_the_old_one_finds_its_own(
    changed: dict[str, object], album: Album
) -> None:
    again(album)
    before = {key: album.params["resize"][key] for key in changed}
    album.change({"resize": changed})
    assert again(album) == 18
    album.change({"resize": before})
    assert again(album) == 0


def test_the_last_lines_report_cached_rows_and_the_size_of_the_cache(album: Album) -> None:
    album.split()
    album.resize()
    lines = album.resize().splitlines()
    assert lines[0].startswith("resize: 18 img in ")
    assert lines[1].endswith(" takes longest; 0 computed, 18 known before")
    assert lines[2].startswith("row cache: 0.")
    assert lines[2].endswith(f" of 16,384.0 MiB in {ROWS.resolve()}")
    assert lines[3].startswith("resize: done in ")


def spoil(kind: str) -> None:
    if kind == "rubbish":
        for path in segments():
            path.write_bytes(b"rubbish" * 100)
        (ROWS / "resize-0").mkdir()
        (ROWS / "resize-0/1.rows").mkdir()
        (ROWS / "no folder").write_bytes(b"")
        return
    shutil.rmtree(ROWS)
    if kind == "a file":
        ROWS.write_bytes(b"rows")
    else:
        ROWS.symlink_to("nowhere/at/all")


@pytest.mark.parametrize("kind", ["a file", "a broken link", "rubbish"])
def test_no_state_of_the_row_cache_fails_a_run(kind: str, album: Album) -> None:
    again(album)
    spoil(kind)
    again(album)


@pytest.mark.parametrize("seed", range(2))
def test_after_any_history_the_output_is_that_of_a_fresh_run(
    seed: int, album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until a file is damaged, exactly the distinct images never seen before are computed."""
    rng = album.rng = np.random.default_rng(seed)
    cached: set[str] = set()  # certainly
    doubtful: set[str] = set()  # perhaps lost
    for _ in range(8):
        for kind in rng.choice([*HAPPENINGS, "damage"], 3):
            album.happen(kind)
            if kind == "damage" and segments():
                for path in set(rng.choice(np.array(segments(), dtype=object), 2)):
                    damage(rng, path)
                doubtful |= cached
                cached = set()
        threads = int(rng.integers(1, 4))
        monkeypatch.setattr(resize, "processors", lambda threads=threads: threads)
        album.split()
        keys = album.hashes()
        printed = album.resize()
        assert contents(RESIZED) == album.fresh("resize")
        missing = [key for key in keys if key not in cached]
        assert len(set(missing) - doubtful) <= computed(printed) <= len(missing)
        assert computed(printed) + known(printed) == len(keys)
        cached |= set(keys)
        doubtful -= cached


def test_an_image_that_changed_after_split_is_refused(album: Album) -> None:
    album.split()
    name = sorted(album.of("dog"))[0]
    (TRAIN / name).write_bytes(album.picture())
    refusal = album.fails("resize")
    assert f"{TRAIN} member {name}: expected the bytes that `split` judged" in refusal
    assert not RESIZED.exists()
    assert list(Path("data").glob(".partial-*")) == []


def test_a_ledger_without_images_is_refused(album: Album) -> None:
    album.split()
    ledger.write_ledger(LEDGER, [])
    assert "expected accepted images, each with a sha256" in album.fails("resize")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A scheduler with two workers of two threads."""
    with local_cluster(2) as address:
        yield address


class TestOnACluster:
    pytestmark = NEEDED

    def test_a_shard_of_an_interrupted_run_does_not_reach_the_next_one(
        self,
        cluster: str,
        album: Album,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A worker may write long after the run that asked for it has ended."""
        computed_late, may_write, written_late = (threading.Event() for _ in range(3))
        write_shard, update = arrays.write_shard, Bar.update
        updates: list[int] = []

        def write_late(path: Path, rows: range, values: NDArray[np.uint8]) -> None:
            if computed_late.is_set() or rows.start:
                write_shard(path, rows, values)
                return
            computed_late.set()
            may_write.wait()
            with contextlib.suppress(Exception):  # the folder may be gone
                write_shard(path, rows, values)
            written_late.set()

        def interrupt(bar: Bar, items: int = 1) -> None:
            computed_late.wait()
            raise KeyboardInterrupt

        def update_late(bar: Bar, items: int = 1) -> None:
            updates.append(items)
            if len(updates) == 4:  # all shards of the second run exist
                may_write.set()
                written_late.wait()
            update(bar, items)

        monkeypatch.setenv("STAGES_CLUSTER", cluster)
        monkeypatch.setattr(arrays, "write_shard", write_late)
        album.split()
        with monkeypatch.context() as changed:
            changed.setattr(Bar, "update", interrupt)
            changed.setattr("sys.argv", ["resize"])
            assert resize.main() == 130
        assert capsys.readouterr().err == "error: interrupted; nothing half-written was kept\n"
        album.shuffle()
        album.split()
        with monkeypatch.context() as changed:
            changed.setattr(Bar, "update", update_late)
            album.resize()
        monkeypatch.delenv("STAGES_CLUSTER")
        assert contents(RESIZED) == album.fresh("resize")
