"""What `resize` assembles from a part-filled row cache is what a fresh run writes."""

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

FRESH = Path("data/fresh.zarr")


def again(album: Album) -> int:
    """Run split and resize; how many rows were computed. The output is that of a fresh run."""
    album.split()
    printed = album.resize()
    assert contents(RESIZED) == album.fresh("resize", FRESH)
    assert computed(printed) + known(printed) == len(album.hashes())
    return computed(printed)


def test_the_output_is_whole_and_tells_the_digest_of_each_row(album: Album) -> None:
    assert again(album) == 18
    rows = arrays.StoredArray(RESIZED, ledger.fingerprint(ledger.read_ledger(LEDGER)))
    assert rows.shape == (18, 48, 48, 3)
    assert rows.dtype == np.uint8
    pixels = rows.read(0, 18)
    assert [digest.tobytes() for digest in rows.digests] == list(map(arrays.digest, pixels))
    assert sorted(path.name for path in (RESIZED / "c").iterdir()) == ["0", "1", "2", "3"]


def test_what_is_known_is_not_computed_again(album: Album) -> None:
    assert again(album) == 18
    assert again(album) == 0
    album.rename(album.of("cat")[:5])
    album.shuffle()
    assert again(album) == 0
    gone = {name: album.pictures.pop(name) for name in album.of("dog")[:3]}
    assert again(album) == 0
    album.pictures |= gone
    assert again(album) == 0


def test_new_pictures_alone_are_computed(album: Album) -> None:
    again(album)
    album.add("cat", 3)
    album.add("dog", 1)
    assert again(album) == 4


def test_the_same_bytes_under_another_name_are_known(album: Album) -> None:
    again(album)
    name = album.of("cat")[0]
    album.pictures[album.new_name("cat", Path(name).suffix)] = album.pictures[name]
    assert again(album) == 0


def test_new_bytes_under_two_names_are_computed_once(album: Album) -> None:
    again(album)
    content = album.picture()
    album.pictures |= {"cat.2000.png": content, "cat.2001.png": content, "dog.2000.png": content}
    assert again(album) == 1


def test_the_same_name_with_other_bytes_is_computed_anew(album: Album) -> None:
    again(album)
    name = next(name for name in album.of("cat") if name.endswith(".png"))
    album.pictures[name] = album.picture()
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


def test_turned_off_the_row_cache_is_neither_read_nor_written(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGES_ROW_CACHE_GIB", "0")
    assert again(album) == 18
    assert again(album) == 18
    assert not ROWS.exists()


def test_the_last_lines_tell_what_was_known_and_how_large_the_cache_is(album: Album) -> None:
    album.split()
    album.resize()
    lines = album.resize().splitlines()
    assert lines[0].startswith("resize: 18 img in ")
    assert lines[1].startswith("resize: read ")
    assert lines[1].endswith(" takes longest; 0 computed, 18 known before")
    assert lines[2].startswith("row cache: 18 rows found, 0 computed; 0.")
    assert lines[2].endswith(f" of 16,384.0 MiB in {ROWS.resolve()}")
    assert lines[3].startswith("resize: done in ")


@pytest.mark.parametrize("kind", ["a file", "a broken link", "rubbish", "a folder without rights"])
def test_no_state_of_the_row_cache_fails_a_run(kind: str, album: Album) -> None:
    album.split()
    album.resize()
    if kind == "rubbish":
        for path in segments():
            path.write_bytes(b"rubbish" * 100)
        (ROWS / "resize-0").mkdir()
        (ROWS / "resize-0/1.rows").mkdir()
        (ROWS / "no folder").write_bytes(b"")
    elif kind == "a folder without rights":
        ROWS.chmod(0o000)
    else:
        shutil.rmtree(ROWS)
        if kind == "a file":
            ROWS.write_bytes(b"rows")
        else:
            ROWS.symlink_to("nowhere/at/all")
    try:
        again(album)
    finally:
        if kind == "a folder without rights":
            ROWS.chmod(0o755)


@pytest.mark.parametrize("seed", range(3))
def test_after_any_history_the_output_is_that_of_a_fresh_run(
    seed: int, album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts are those of distinct pictures that were never seen, while no file was damaged."""
    rng = album.rng = np.random.default_rng(seed)
    sure: set[str] = set()  # bytes that are certainly known
    unsure: set[str] = set()  # that may have been lost
    for _ in range(8):
        for kind in rng.choice([*HAPPENINGS, "damage"], 3):
            album.happen(kind)
            if kind == "damage" and segments():
                for path in rng.choice(np.array(segments(), dtype=object), 2):
                    if path.exists():
                        damage(rng, path)
                unsure |= sure
                sure = set()
        threads = int(rng.integers(1, 4))
        monkeypatch.setattr(resize, "processors", lambda threads=threads: threads)
        album.split()
        keys = album.hashes()
        printed = album.resize()
        assert contents(RESIZED) == album.fresh("resize", FRESH)
        lacking = [key for key in keys if key not in sure]
        least = set(lacking) - unsure
        assert len(least) <= computed(printed) <= len(lacking)
        assert computed(printed) + known(printed) == len(keys)
        sure |= set(keys)
        unsure -= sure


def test_a_picture_that_changed_behind_split_is_refused(album: Album) -> None:
    album.split()
    name = sorted(album.of("dog"))[0]
    Path("data/raw/train", name).write_bytes(album.picture())
    assert album.fails("resize", LEDGER, RESIZED) == (
        f"error: data/raw/train member {name}: expected the bytes that `split` judged, got others "
        "or none; run `dvc repro` to judge what is there now\n"
    )
    assert not RESIZED.exists()
    assert list(Path("data").glob(".partial-*")) == []


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A scheduler with two workers of two threads."""
    with local_cluster(2) as address:
        yield address


class TestOnACluster:
    pytestmark = NEEDED

    def test_it_gives_the_same_bytes(
        self, cluster: str, album: Album, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        album.split()
        album.resize(RESIZED, "--cluster", cluster)
        there = contents(RESIZED)
        assert there == album.fresh("resize", FRESH)
        monkeypatch.setenv("STAGES_CLUSTER", cluster)
        assert there == album.fresh("resize", FRESH)

    def test_workers_that_live_on_see_the_pictures_of_the_next_run(
        self, cluster: str, album: Album
    ) -> None:
        album.split()
        album.resize(RESIZED, "--cluster", cluster)
        album.shuffle()
        album.rename(album.of("cat")[:2])
        album.split()
        album.resize(RESIZED, "--cluster", cluster)
        assert contents(RESIZED) == album.fresh("resize", FRESH)

    def test_a_shard_of_an_interrupted_run_does_not_reach_the_next_one(
        self,
        cluster: str,
        album: Album,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A worker may write long after nobody waits for it."""
        late = [threading.Event() for _ in range(3)]  # it has computed, it may write, it has
        computed_late, may_write, written_late = late
        write_shard, update = arrays.write_shard, Bar.update
        of_this_run: list[range] = []

        def write_late(path: Path, rows: range, values: NDArray[np.uint8]) -> None:
            if not computed_late.is_set() and rows.start == 0:
                computed_late.set()
                may_write.wait()
                with contextlib.suppress(Exception):  # such as that the folder is gone
                    write_shard(path, rows, values)
                written_late.set()
                return
            write_shard(path, rows, values)

        def interrupt(bar: Bar, items: int = 1) -> None:
            computed_late.wait()
            raise KeyboardInterrupt

        monkeypatch.setattr(arrays, "write_shard", write_late)
        album.split()
        with monkeypatch.context() as changed:
            changed.setattr(Bar, "update", interrupt)
            changed.setattr("sys.argv", ["resize", str(LEDGER), str(RESIZED), "--cluster", cluster])
            assert resize.main() == 130
        assert capsys.readouterr().err == "error: interrupted; nothing half-written was kept\n"

        def update_late(bar: Bar, items: int = 1) -> None:
            of_this_run.append(range(items))
            if len(of_this_run) == 4:  # all shards of the second run stand
                may_write.set()
                written_late.wait()
            update(bar, items)

        album.shuffle()
        album.split()
        with monkeypatch.context() as changed:
            changed.setattr(Bar, "update", update_late)
            album.resize(RESIZED, "--cluster", cluster)
        assert contents(RESIZED) == album.fresh("resize", FRESH)
