"""Weights come from a seed, a file or a download; those of another network are refused."""

import hashlib
from pathlib import Path

import keras
import pytest
from numpy.testing import assert_array_equal

from pipeline.backbones import build, weights
from pipeline.runtime.errors import UserError


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def mobilenet() -> keras.Model:
    return weights.random("MobileNetV2", False, 5)


def saved(model: keras.Model) -> tuple[Path, str]:
    """A file of a model's weights in the working folder, and its sha256."""
    path = Path("mine.weights.h5")
    model.save_weights(path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def assert_same(first: keras.Model, second: keras.Model) -> None:
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        assert_array_equal(one, other)


def test_random_weights_depend_on_their_seed_alone_and_a_digest_covers_them() -> None:
    first, same, other = (weights.random("convnet", False, seed) for seed in (1, 1, 2))
    assert_same(first, same)
    expected = hashlib.sha256()
    for array in first.get_weights():
        expected.update(f"{array.shape} float32\n".encode() + array.tobytes())
    assert weights.digest(same) == expected.hexdigest() != weights.digest(other)


def test_a_file_gives_its_weights_at_every_image_size(mobilenet: keras.Model) -> None:
    path, sha256 = saved(mobilenet)
    assert_same(weights.from_file("MobileNetV2", False, path, sha256), mobilenet)
    assert_same(build.network("MobileNetV2", 46, False, path), mobilenet)


def test_a_missing_file_or_another_hash_is_refused() -> None:
    path, other = Path("weights.h5"), hashlib.sha256(b"other").hexdigest()
    with pytest.raises(UserError, match=r"VGG16\.path: .* nothing at 'weights\.h5'; put it there"):
        weights.from_file("VGG16", False, path, other)
    path.write_bytes(b"other")
    with pytest.raises(UserError, match=rf"VGG16\.sha256\), got {other}; get the right file"):
        weights.from_file("VGG16", False, path, "0" * 64)


@pytest.mark.parametrize(
    ("source", "name", "include_top"),
    [
        ("convnet", "MobileNetV2", False),
        ("VGG19", "VGG16", False),
        ("MobileNetV2", "convnet", False),
        ("MobileNetV2", "MobileNetV2", True),
    ],
)
def test_weights_of_another_network_are_refused(
    source: str, name: str, include_top: bool, mobilenet: keras.Model
) -> None:
    model = mobilenet if source == "MobileNetV2" else weights.random(source, False, 0)
    classifier = "with" if include_top else "without"
    sentence = (
        rf"^mine\.weights\.h5: expected weights of {name} {classifier} its classifier, got a file "
        rf"that does not fit \([^\n]+[^.\s]\); remove or replace .*, or correct backbones\.{name}$"
    )
    with pytest.raises(UserError, match=sentence):
        weights.from_file(name, include_top, *saved(model))


def test_a_backbone_without_published_weights_is_refused() -> None:
    sentence = r"gabor\.weights: expected random or file, got 'imagenet'; there are no ImageNet"
    with pytest.raises(UserError, match=sentence):
        weights.published("gabor", False)


def test_keras_has_the_address_and_the_hash_of_its_files() -> None:
    vgg16 = weights.published("VGG16", False)
    assert vgg16.url.startswith("https://storage.googleapis.com/")
    assert vgg16.name == "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert vgg16.hash == "6d6bbae143d832006294945121d1f1fc"
    assert weights.class_index().name == "imagenet_class_index.json"
