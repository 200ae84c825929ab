"""Arrays in an object store: `memory://` stands in for one, with objects in place of files."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # as `engine.start` would

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from album import FEATURES, LEDGER, RESIZED, WEIGHTS, Album, computed, contents, known
from local_cluster import NEEDED, local_cluster
from numpy.typing import NDArray

from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays, places

URL = "memory://bucket/rows.zarr"
TAG = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def bucket() -> Iterator[Any]:
    """The store behind `memory://`, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def objects(system: Any, url: str) -> dict[str, bytes]:
    """Below a URL, as `contents` gives a folder's files."""
    root = url.removeprefix("memory:/")
    return {name.removeprefix(f"{root}/"): system.cat(name) for name in system.find(root)}


def rows() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((50, 5), dtype=np.float32)


def write(where: places.Place, values: NDArray[Any]) -> None:
    with places.replacing(where) as partial:
        arrays.write(partial, [values], shape=values.shape, dtype=values.dtype, fingerprint="f")


def test_a_url_stays_one_and_anything_else_is_a_path(tmp_path: Path) -> None:
    assert places.place("s3://bucket/a.zarr/") == "s3://bucket/a.zarr"
    assert places.place("data/a.zarr") == Path("data/a.zarr")
    assert places.absolute("s3://bucket/a.zarr") == "s3://bucket/a.zarr"
    assert places.absolute(tmp_path / "x" / ".." / "a") == tmp_path / "a"


def test_the_objects_are_the_files_that_a_folder_would_hold(tmp_path: Path, bucket: Any) -> None:
    values = rows()
    for where in (URL, tmp_path / "rows.zarr"):
        write(where, values)
        arrays.write_digests(where, np.zeros((50, 32), np.uint8))
    assert objects(bucket, URL) == contents(tmp_path / "rows.zarr")
    opened = arrays.StoredArray(URL, "f")
    np.testing.assert_array_equal(opened.read(0, 50), values)
    np.testing.assert_array_equal(opened.digests, np.zeros((50, 32), np.uint8))


def test_a_block_that_fails_keeps_what_stood_there(bucket: Any) -> None:
    write(URL, rows())
    before = objects(bucket, "memory://bucket")
    with pytest.raises(ValueError, match="expected 60 rows"), places.replacing(URL) as partial:
        arrays.write(partial, [rows()], shape=(60, 5), dtype="float32", fingerprint="g")
    assert objects(bucket, "memory://bucket") == before


def test_a_new_array_takes_the_place_of_all_objects_of_the_previous_one(bucket: Any) -> None:
    bucket.pipe("/bucket/rows.zarr/c/9/0", b"of a longer one")
    write(URL, rows())
    assert "c/9/0" not in objects(bucket, URL)
    assert len(arrays.StoredArray(URL)) == 50


def test_what_a_killed_run_left_is_removed_and_other_names_are_not(bucket: Any) -> None:
    stray, other = f".partial-{TAG}rows.zarr", f".partial-{TAG}others.zarr"
    for folder in (stray, other):
        bucket.pipe(f"/bucket/{folder}/c/0/0", b"late")
    write(URL, rows())
    left = {name.partition("/")[0] for name in objects(bucket, "memory://bucket")}
    assert left == {"rows.zarr", other}


def test_a_lost_object_is_refused(bucket: Any) -> None:
    write(URL, rows())
    bucket.pipe("/bucket/rows.zarr/c/0/0", b"")
    with pytest.raises(UserError) as refused:
        arrays.StoredArray(URL)
    assert str(refused.value) == (
        f"{URL}: expected 1 shards, got 1 missing or empty, the first is 0; remove {URL} and run "
        "`dvc repro` again"
    )


def test_nothing_at_a_url_is_told_with_the_stage_that_writes_it() -> None:
    with pytest.raises(UserError) as refused:
        places.require(URL, "extract@VGG16")
    assert str(refused.value) == (
        f"{URL}: expected the output of `extract@VGG16`, got nothing at that URL; write it first "
        "by `python -m stages.extract`, which tells its arguments"
    )


def test_a_scheme_that_no_package_reads_is_told() -> None:
    with pytest.raises(UserError, match="got 'Protocol not known: nowhere'; install it"):
        places.require("nowhere://bucket/rows.zarr", "resize")


def test_a_store_that_cannot_be_reached_is_told(
    monkeypatch: pytest.MonkeyPatch, bucket: Any
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(type(bucket), "exists", refuse)
    with pytest.raises(UserError) as refused:
        places.require(URL, "resize")
    assert str(refused.value) == (
        f"{URL}: expected a store that can be reached, got 'no route to host'; check the address, "
        "the network and the credentials"
    )


def test_a_path_is_required_and_replaced_as_files_do(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    with pytest.raises(UserError, match="run `dvc repro resize` first"):
        places.require(path, "resize")
    with places.replacing(path) as partial:
        assert partial == path.with_name(".partial-rows.zarr")
        assert isinstance(partial, Path)
        partial.write_bytes(b"rows")
    assert places.require(path, "resize") == path
    assert atomic_files.sha256(path) == atomic_files.sha256(places.require(path, "resize"))  # type: ignore[arg-type]


class TestStages:
    """`resize` and `extract` by hand, from one URL to the other."""

    PIXELS, OUT = "memory://bucket/resized.zarr", "memory://bucket/features/convnet.zarr"

    @pytest.fixture
    def album(self, album: Album) -> Album:
        album.split()
        album.fetch_weights()
        return album

    def run(self, album: Album, *words: str) -> None:
        album.run("resize", LEDGER, self.PIXELS, *words)
        printed = album.run("extract", "convnet", self.PIXELS, WEIGHTS, self.OUT, *words)
        assert computed(printed) + known(printed) == 18 * 2

    def compare(self, album: Album, bucket: Any) -> None:
        album.resize()
        album.extract()
        assert objects(bucket, self.PIXELS) == contents(RESIZED)
        assert objects(bucket, self.OUT) == contents(FEATURES)
        below = {name.partition("/")[0] for name in objects(bucket, "memory://bucket")}
        assert below == {"resized.zarr", "features"}

    def test_they_write_the_bytes_of_folders(self, album: Album, bucket: Any) -> None:
        self.run(album)
        self.compare(album, bucket)

    @pytest.mark.skipif(NEEDED[0].args[0], reason="the package distributed is not installed")
    @pytest.mark.xdist_group("cluster")
    def test_a_cluster_does_too(self, album: Album, bucket: Any) -> None:
        with local_cluster() as address:
            self.run(album, "--cluster", address)
        self.compare(album, bucket)

    def test_a_stage_that_fails_leaves_no_object(self, album: Album, bucket: Any) -> None:
        (Path("data/raw/train") / next(iter(album.pictures))).write_bytes(b"another")
        told = album.fails("resize", LEDGER, self.PIXELS)
        assert "expected the bytes that `split` judged" in told
        assert bucket.find("/bucket") == []
