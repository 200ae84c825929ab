"""What `extract` assembles from a partly filled row cache is what a fresh run writes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from album import (
    AUGMENT,
    FEATURES,
    LEDGER,
    RESIZED,
    TRAIN,
    WEIGHTS,
    Album,
    computed,
    contents,
    known,
)
from dvc_cache import cached, linked
from local_cluster import local_cluster

from pipeline import config
from pipeline.backbones import build, from_params
from pipeline.images import views
from pipeline.storage import arrays, ledger


@pytest.fixture
def album(album: Album) -> Album:
    """18 images, in batches of 4, and random weights."""
    album.change({"extract": {"augment": AUGMENT}})
    WEIGHTS.parent.mkdir()
    build.network("convnet", None, False, None).save_weights(WEIGHTS)
    return album


def prepare(album: Album) -> None:
    album.split()
    album.resize()


def again(album: Album) -> int:
    """Run all stages; return the number of computed rows. The output is a fresh run's."""
    prepare(album)
    printed = album.extract()
    assert contents(FEATURES) == album.fresh("extract")
    views = album.params["extract"]["views"]
    assert computed(printed) + known(printed) == len(album.hashes()) * views
    return computed(printed)


def test_each_view_has_the_networks_features_of_that_view(album: Album) -> None:
    album.change({"extract": {"views": 3}})
    assert again(album) == 18 * 3
    rows = arrays.StoredArray(FEATURES, ledger.fingerprint(ledger.read_ledger(LEDGER)))
    assert rows.shape == (18, 3, 128)
    assert rows.dtype == np.float32
    params, pixels = config.read(), arrays.StoredArray(RESIZED)
    network = from_params.extractor(params, "convnet", 48, WEIGHTS)
    digests = [digest.tobytes() for digest in pixels.digests]
    for view in range(3):
        expected = network(views.view(params.extract, pixels.read(0, 18), digests, view))
        features = rows.read(0, 18)[:, view]
        np.testing.assert_allclose(features, np.asarray(expected), rtol=1e-4, atol=1e-6)
        assert len(np.unique(features, axis=0)) == 18


def test_what_dvc_keeps_in_its_cache_is_read_and_replaced_but_never_written(album: Album) -> None:
    prepare(album)
    album.extract()
    before = contents(Path("data"))
    linked(TRAIN, LEDGER, RESIZED, WEIGHTS, FEATURES)
    for stage in (album.extract, album.resize, lambda: album.run("split")):
        stage()
    assert contents(Path("data")) == before
    assert not any(path.is_symlink() for path in (LEDGER, *RESIZED.rglob("*")))
    assert len(cached(Path(".dvc/cache"))) > 18


def test_names_and_order_cost_nothing_and_new_images_their_views(album: Album) -> None:
    assert again(album) == 18 * 2
    album.rename(album.of("cat")[:5])
    album.shuffle()
    assert again(album) == 0
    content = album.picture()
    album.pictures |= {"cat.2000.png": content, "cat.2001.png": content, "dog.2000.png": content}
    album.add("cat", 3)
    assert again(album) == 4 * 2


def test_more_views_cost_the_new_ones_and_other_ranges_the_augmented_ones(album: Album) -> None:
    for count, expected in ((1, 18), (4, 18 * 3), (2, 0), (3, 0)):
        album.change({"extract": {"views": count}})
        assert again(album) == expected
    for changed in ({"rotation": 5}, {"seed": 1}):
        album.change({"extract": {"augment": {**AUGMENT, **changed}}})
        assert again(album) == 18
    album.change({"extract": {"augment": AUGMENT}})
    assert again(album) == 0


def change_weights(scale: float, shift: float) -> None:
    network = build.network("convnet", None, False, WEIGHTS)
    kernel, bias = network.get_layer("conv4").get_weights()
    network.get_layer("conv4").set_weights([kernel * scale, bias + shift])
    network.save_weights(WEIGHTS)


def test_another_setting_or_other_weights_compute_all(album: Album) -> None:
    album.change({"extract": {"views": 1}})
    assert again(album) == 18
    for section, changed in (
        ("backbones.convnet", {"layer": "conv3"}),
        ("backbones.convnet", {"pooling": "max"}),
        ("extract", {"dtype": "float16"}),
        ("extract", {"batch_size": 3}),
    ):
        album.change({section: changed})
        assert again(album) == 18
    change_weights(1, 1)
    assert again(album) == 18


def test_features_beyond_the_range_of_their_dtype_stop_the_run(album: Album) -> None:
    change_weights(0, 70_000)
    album.change({"extract": {"dtype": "float16"}})
    prepare(album)
    assert album.fails("extract", "convnet") == (
        "error: extract: expected features that fit into float16, got values up to 70000; "
        "set extract.dtype: float32, or check the weights\n"
    )
    assert [path.name for path in FEATURES.parent.iterdir()] == [".convnet.zarr.lock"]


class TestByOpenVINO:
    @pytest.fixture(autouse=True)
    def _fetched(self, album: Album) -> None:
        album.change({"extract": {"engine": "openvino"}})
        album.fetch_weights()

    def test_features_are_those_of_keras_and_cached_by_view(self, album: Album) -> None:
        for count, expected in ((2, 18 * 2), (3, 18), (1, 0), (3, 0)):
            album.change({"extract": {"views": count}})
            assert again(album) == expected
        features = arrays.StoredArray(FEATURES).read(0, 18)
        album.change({"extract": {"engine": "keras"}})
        prepare(album)
        album.extract()
        by_keras = arrays.StoredArray(FEATURES).read(0, 18)
        assert len(np.unique(by_keras.reshape(-1, 128), axis=0)) == 18 * 3
        np.testing.assert_allclose(features, by_keras, rtol=1e-4, atol=1e-6)

    def test_it_runs_without_weights_in_any_batch_size_until_the_network_changes(
        self, album: Album
    ) -> None:
        assert again(album) == 18 * 2
        WEIGHTS.unlink()
        album.change({"extract": {"batch_size": 3}})
        assert again(album) == 0
        for changed in ({"layer": "conv3"}, {"pooling": "max"}):
            album.change({"backbones.convnet": changed})
            assert again(album) == 0
            album.fetch_weights()
            assert again(album) == 18 * 2

    def test_a_network_that_is_not_there_or_not_wanted_names_its_stage(self, album: Album) -> None:
        prepare(album)
        album.change({"extract": {"engine": "keras"}})
        album.fetch_weights()
        album.change({"extract": {"engine": "openvino"}})
        wrong = "data/networks/convnet: expected a converted network, as it was written, got"
        assert wrong in album.fails("extract", "convnet")
        shutil.rmtree("data/networks/convnet")
        assert "the output of `fetch_weights@convnet`" in album.fails("extract", "convnet")


class TestOnACluster:
    pytestmark = pytest.mark.xdist_group("cluster")

    def test_workers_give_the_same_bytes_also_for_the_images_of_the_next_run(
        self, album: Album, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with local_cluster() as address:
            for expected in (18 * 2, 0):
                prepare(album)
                with monkeypatch.context() as changed:
                    changed.setenv("STAGES_CLUSTER", address)
                    assert computed(album.extract()) == expected
                assert contents(FEATURES) == album.fresh("extract")
                album.shuffle()
