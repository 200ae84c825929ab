"""What `extract` assembles from a part-filled row cache is what a fresh run writes."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # as `engine.start` would

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from album import (
    FEATURES,
    HAPPENINGS,
    LEDGER,
    RESIZED,
    ROWS,
    WEIGHTS,
    Album,
    computed,
    contents,
    damage,
    known,
    segments,
)
from local_cluster import NEEDED, local_cluster

from pipeline.backbones import build, views
from pipeline.storage import arrays, ledger
from stages import extract

FRESH = Path("data/fresh.zarr")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the convnet."""
    path = tmp_path_factory.mktemp("weights") / "convnet.weights.h5"
    build.network("convnet", None, False, None).save_weights(path)
    return path


@pytest.fixture
def album(album: Album, weights: Path) -> Album:
    """In batches of 4."""
    WEIGHTS.parent.mkdir()
    shutil.copyfile(weights, WEIGHTS)
    return album


def prepare(album: Album) -> None:
    album.split()
    album.resize()


def again(album: Album) -> int:
    """Run split, resize and extract; how many rows were computed. The output is a fresh run's."""
    prepare(album)
    printed = album.extract()
    assert contents(FEATURES) == album.fresh("extract", FRESH)
    assert (
        computed(printed) + known(printed) == len(album.hashes()) * album.params["extract"]["views"]
    )
    return computed(printed)


def test_the_output_is_whole_and_each_view_is_the_networks_of_that_view(album: Album) -> None:
    album.change({"extract": {"views": 3}})
    assert again(album) == 18 * 3
    rows = arrays.Rows(FEATURES, ledger.fingerprint(ledger.read_ledger(LEDGER)))
    assert rows.shape == (18, 3, 128)
    assert rows.dtype == np.float32
    pixels = arrays.Rows(RESIZED)
    base = build.network("convnet", 48, False, WEIGHTS)
    network = build.extractor(base, "convnet", None, "flatten")
    ranges = dict(album.params["extract"]["augment"])
    seed = ranges.pop("seed")
    keys = [digest.tobytes() for digest in pixels.digests]
    for view in range(3):
        seen = views.make(pixels.read(0, 18), keys, view, views.Ranges(**ranges), seed)
        expected = np.asarray(network(seen))
        found = rows.read(0, 18)[:, view]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        assert len(np.unique(found, axis=0)) == 18


def test_names_and_order_cost_nothing_new_pictures_their_views(album: Album) -> None:
    assert again(album) == 18 * 2
    album.rename(album.of("cat")[:5])
    album.shuffle()
    assert again(album) == 0
    gone = {name: album.pictures.pop(name) for name in album.of("dog")[:3]}
    assert again(album) == 0
    album.pictures |= gone
    album.add("cat", 3)
    assert again(album) == 3 * 2
    content = album.picture()
    album.pictures |= {"cat.2000.png": content, "cat.2001.png": content, "dog.2000.png": content}
    assert again(album) == 1 * 2
    name = next(name for name in album.of("cat") if name.endswith(".png"))
    album.pictures[name] = album.picture()
    assert again(album) == 1 * 2


def test_more_views_cost_the_new_ones_and_other_ranges_those_that_are_augmented(
    album: Album,
) -> None:
    album.change({"extract": {"views": 1}})
    assert again(album) == 18
    album.change({"extract": {"views": 4}})
    assert again(album) == 18 * 3
    album.change({"extract": {"views": 2}})
    assert again(album) == 0
    album.change({"extract": {"views": 3}})
    assert again(album) == 0
    augment = album.params["extract"]["augment"]
    for changed in ({"rotation": 5}, {"seed": 1}):
        album.change({"extract": {"augment": {**augment, **changed}}})
        assert again(album) == 18
    album.change({"extract": {"augment": augment}})
    assert again(album) == 0


@pytest.mark.parametrize(
    "changed",
    [{"layer": "conv3"}, {"pooling": "max"}, {"dtype": "float16"}, {"batch_size": 3}],
    ids=str,
)
def test_another_setting_computes_all(changed: dict[str, object], album: Album) -> None:
    album.change({"extract": {"views": 1}})
    prepare(album)
    assert computed(album.extract()) == 18
    album.change({"extract": changed})
    assert again(album) == 18


def test_other_weights_compute_all(album: Album) -> None:
    album.change({"extract": {"views": 1}})
    prepare(album)
    assert computed(album.extract()) == 18
    network = build.network("convnet", None, False, WEIGHTS)
    kernel, bias = network.get_layer("conv4").get_weights()
    network.get_layer("conv4").set_weights([kernel, bias + 1])
    network.save_weights(WEIGHTS)
    assert again(album) == 18


@pytest.mark.parametrize("kind", ["a file", "rubbish", "segments of nothing"])
def test_no_state_of_the_row_cache_fails_a_run(kind: str, album: Album) -> None:
    prepare(album)
    album.extract()
    if kind == "a file":
        shutil.rmtree(ROWS)
        ROWS.write_bytes(b"rows")
    for path in segments():
        path.write_bytes(b"rubbish" * 100 if kind == "rubbish" else b"")
    assert again(album) == 18 * 2


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow
def test_after_any_history_the_output_is_that_of_a_fresh_run(
    seed: int, album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts are those of distinct pictures that were never seen, while no file was damaged."""
    rng = album.rng = np.random.default_rng(seed)
    sure: set[tuple[int, str]] = set()  # views of bytes that are certainly known
    unsure: set[tuple[int, str]] = set()  # that may have been lost
    for _ in range(6):
        for kind in rng.choice([*HAPPENINGS, "views", "damage"], 3):
            album.happen(kind)
            if kind == "views":
                album.change({"extract": {"views": int(rng.integers(1, 4))}})
            elif kind == "damage" and segments():
                for path in rng.choice(np.array(segments(), dtype=object), 2, replace=False):
                    damage(rng, path)
                unsure |= sure
                sure = set()
        at_once = int(rng.integers(1, 3))
        monkeypatch.setattr(extract, "SHARDS_AT_ONCE", at_once)
        prepare(album)
        wanted = [
            (view, key)
            for view in range(album.params["extract"]["views"])
            for key in album.hashes()
        ]
        printed = album.extract()
        assert contents(FEATURES) == album.fresh("extract", FRESH)
        lacking = [row for row in wanted if row not in sure]
        most = len(lacking) if at_once > 1 else len(set(lacking))
        assert len(set(lacking) - unsure) <= computed(printed) <= most
        assert computed(printed) + known(printed) == len(wanted)
        sure |= set(wanted)
        unsure -= sure


def test_features_beyond_the_range_of_their_type_stop_the_run(
    album: Album,
) -> None:
    network = build.network("convnet", None, False, WEIGHTS)
    kernel, bias = network.get_layer("conv4").get_weights()
    network.get_layer("conv4").set_weights([np.zeros_like(kernel), bias + 70_000])
    network.save_weights(WEIGHTS)
    album.change({"extract": {"dtype": "float16"}})
    prepare(album)
    assert album.fails("extract", "convnet", RESIZED, WEIGHTS, FEATURES) == (
        "error: extract: expected features that fit into float16, got values up to 70000; "
        "set extract.dtype: float32, or check the weights\n"
    )
    assert not FEATURES.exists()
    assert [path.name for path in FEATURES.parent.iterdir()] == [".convnet.zarr.lock"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A scheduler with a worker of two threads."""
    with local_cluster() as address:
        yield address


class TestOnACluster:
    pytestmark = NEEDED

    def test_it_gives_the_same_bytes(self, cluster: str, album: Album) -> None:
        prepare(album)
        printed = album.extract(FEATURES, "--cluster", cluster)
        assert computed(printed) == 18 * 2
        assert contents(FEATURES) == album.fresh("extract", FRESH)

    def test_workers_that_live_on_see_the_pictures_of_the_next_run(
        self, cluster: str, album: Album
    ) -> None:
        prepare(album)
        album.extract(FEATURES, "--cluster", cluster)
        album.shuffle()
        prepare(album)
        printed = album.extract(FEATURES, "--cluster", cluster)
        assert computed(printed) == 0
        assert contents(FEATURES) == album.fresh("extract", FRESH)

    def test_workers_with_other_code_are_refused(
        self,
        cluster: str,
        album: Album,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        prepare(album)
        kinds = extract.Extraction._kinds
        calls = iter([False, True, True])
        monkeypatch.setattr(
            extract.Extraction,
            "_kinds",
            lambda self: [kind + "0" * next(calls, True) for kind in kinds(self)],
        )
        arguments = ["convnet", RESIZED, WEIGHTS, FEATURES, "--cluster", cluster]
        assert album.fails("extract", *arguments) == (
            "error: cluster: expected workers with the same code, packages and kind of processor "
            "as here, got others; bring them into line and restart them\n"
        )
        assert not FEATURES.exists()
