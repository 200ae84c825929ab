"""What `resize` assembles from a partly filled row cache is what a fresh run writes."""

import errno
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from album import (
    HAPPENINGS,
    LEDGER,
    RESIZED,
    TEST,
    TRAIN,
    Album,
    computed,
    contents,
    damage,
    known,
    segments,
)

from pipeline.images.resize import decode_and_resize
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
    rows = ledger.read_ledger(LEDGER)
    stored = arrays.StoredArray(RESIZED, ledger.fingerprint(rows))
    paths = [{"train": TRAIN, "test": TEST}[row.source] / row.member for row in rows]
    expected = [decode_and_resize(path.read_bytes(), 48, "squash", "bicubic") for path in paths]
    np.testing.assert_array_equal(stored.read(0, 18), expected)
    np.testing.assert_array_equal(stored.digests, arrays.digests(stored.read(0, 18)))
    assert sorted(path.name for path in (RESIZED / "c").iterdir()) == ["0", "1", "2", "3"]


def test_the_row_cache_holds_links_to_the_output_and_restores_it_by_links(album: Album) -> None:
    assert again(album) == 18
    shards = sorted(path for path in (RESIZED / "c").rglob("*") if path.is_file())
    inodes = [path.stat().st_ino for path in shards]
    assert [path.stat().st_nlink for path in shards] == [2] * 4
    others = [path for path in segments() if path.stat().st_ino not in inodes]
    assert sorted(path.name for path in others) == ["sha256.npy", "zarr.json"]
    shutil.rmtree(RESIZED)  # as DVC does before the stage runs
    assert again(album) == 0
    assert [path.stat().st_ino for path in shards] == inodes


def test_without_hard_links_the_same_rows_are_known(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", Mock(side_effect=OSError(errno.EPERM, "no links")))
    assert again(album) == 18
    shutil.rmtree(RESIZED)
    album.add("cat", 1)
    assert again(album) == 1
    assert again(album) == 0


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
