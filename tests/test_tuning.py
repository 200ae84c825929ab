"""A network that is cut in two gives what the whole one gives, and shares its weights."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.backbones import build
from pipeline.runtime.errors import UserError
from pipeline.training import loop, network_split

CASES = [
    ("convnet", "conv3", 64),
    ("MobileNetV2", "block_13_expand", 64),
    ("VGG16", "block5_conv1", 48),
]


def extractor(name: str, size: int, layer: str, precision: str = "float32") -> keras.Model:
    """With random weights and statistics of batch norms, trainable from a layer on."""
    keras.utils.set_random_seed(0)
    with network_split.arithmetic(precision):
        base = build.network(name, size, False, None)
        made = build.extractor(base, name, None, "avg")
    rng = np.random.default_rng(0)
    for part in base.layers:
        if isinstance(part, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = part.get_weights()
            shift, spread = rng.normal(0, 0.1, mean.shape), rng.uniform(0.5, 1.5, variance.shape)
            part.set_weights([gamma, beta, shift, spread])
    build.unfreeze_from(made, layer)
    return made


def head(n_features: int) -> keras.Model:
    keras.utils.set_random_seed(1)
    return loop.dense_head(n_features, [8], 2, input_dropout=0.0, dropout=0.0, seed=0)


def pictures(size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    drawn = np.random.default_rng(3).integers(0, 256, (3, size, size, 3))
    return drawn.astype(np.float32)


@pytest.mark.parametrize(("name", "layer", "size"), CASES, ids=[name for name, _, _ in CASES])
def test_both_parts_give_the_logits_of_the_whole(name: str, layer: str, size: int) -> None:
    made = extractor(name, size, layer)
    classifier = head(made.output_shape[-1])
    whole = network_split.whole([made], classifier, (size, size, 3))
    (frozen,), rest = network_split.cut([made], [layer], classifier)
    images = pictures(size)
    activations = frozen.predict_on_batch(images)
    assert activations.ndim == 2
    expected = whole.predict_on_batch(images)
    assert_allclose(rest.predict_on_batch(activations), expected, rtol=1e-4, atol=1e-5)
    assert {id(weight) for weight in rest.trainable_weights} == {
        id(weight) for weight in whole.trainable_weights
    }
    assert len(rest.trainable_weights) > 4


def test_two_backbones_stand_side_by_side() -> None:
    layers = ["conv3", "block5_conv1"]
    both = [extractor("convnet", 48, layers[0]), extractor("VGG16", 48, layers[1])]
    classifier = head(128 + 512)
    whole = network_split.whole(both, classifier, (48, 48, 3))
    frozen, rest = network_split.cut(both, layers, classifier)
    images = pictures(48)
    joined = np.concatenate([part.predict_on_batch(images) for part in frozen], axis=-1)
    features = np.concatenate([part.predict_on_batch(images) for part in both], axis=-1)
    expected = whole.predict_on_batch(images)
    assert_allclose(classifier.predict_on_batch(features), expected, rtol=1e-4, atol=1e-5)
    assert_allclose(rest.predict_on_batch(joined), expected, rtol=1e-4, atol=1e-5)


def test_of_two_backbones_one_may_stay_frozen_and_is_computed_up_to_its_features() -> None:
    frozen, tuned = extractor("VGG16", 48, "block5_conv1"), extractor("convnet", 48, "conv3")
    frozen.trainable = False
    classifier = head(512 + 128)
    whole = network_split.whole([frozen, tuned], classifier, (48, 48, 3))
    parts, rest = network_split.cut([frozen, tuned], [None, "conv3"], classifier)
    images = pictures(48)
    activations = [part.predict_on_batch(images) for part in parts]
    assert_allclose(activations[0], frozen.predict_on_batch(images), rtol=1e-4, atol=1e-5)
    assert_allclose(
        rest.predict_on_batch(np.concatenate(activations, axis=-1)),
        whole.predict_on_batch(images),
        rtol=1e-4,
        atol=1e-5,
    )
    trained = {id(weight) for weight in rest.trainable_weights}
    assert trained == {id(weight) for weight in whole.trainable_weights}
    assert trained.isdisjoint(id(weight) for weight in frozen.weights)


def test_training_one_part_trains_the_whole_and_leaves_batch_norms_bit_for_bit() -> None:
    made = extractor("MobileNetV2", 32, "block_16_expand")
    trunk = made.get_layer("trunk").model
    norms = [part for part in trunk.layers if isinstance(part, keras.layers.BatchNormalization)]
    before = [part.get_weights() for part in norms]
    classifier = head(1280)
    whole = network_split.whole([made], classifier, (32, 32, 3))
    (frozen,), rest = network_split.cut([made], ["block_16_expand"], classifier)
    images, label = pictures(32), np.array([0, 1, 0])
    activations, untrained = frozen.predict_on_batch(images), whole.predict_on_batch(images)
    loop.fit(
        rest,
        loop.Schedule("adam", 0.01, 2, 3),
        lambda: [(activations, label)],
        lambda: (rest.predict_on_batch(activations), label),
        None,
        "fine_tune",
        lambda rows: None,
        images=3,
    )
    trained = whole.predict_on_batch(images)
    assert np.abs(trained - untrained).max() > 1e-2
    assert_allclose(rest.predict_on_batch(activations), trained, rtol=1e-4, atol=1e-5)
    for part, weights in zip(norms, before, strict=True):
        for found, expected in zip(part.get_weights(), weights, strict=True):
            assert_array_equal(found, expected)


def test_a_layer_that_something_passes_by_is_refused_with_those_that_serve() -> None:
    layer = "block_15_depthwise"  # inside a residual block
    made = extractor("MobileNetV2", 32, layer)
    with pytest.raises(UserError) as told:
        network_split.cut([made], [layer], head(1280))
    assert str(told.value).startswith(
        "params.yaml: fine_tune.unfreeze_from: expected a layer that everything passes, as "
        "fine_tune.cache_frozen is true, got 'block_15_depthwise', which 2 tensors pass; the "
        "nearest that serve are block_"
    )


def test_in_bfloat16_weights_stay_float32_and_outputs_are_near() -> None:
    exact, rough = (extractor("MobileNetV2", 64, "Conv_1", p) for p in network_split.POLICIES)
    assert keras.config.dtype_policy().name == "float32"
    assert {weight.dtype for weight in rough.weights} == {"float32"}
    images = pictures(64)
    expected, found = (made.predict_on_batch(images) for made in (exact, rough))
    assert found.dtype == np.float32
    assert not np.array_equal(found, expected)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
