"""A split network gives the outputs of the joined one, and shares its weights."""

from collections.abc import Sequence

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.backbones import build
from pipeline.runtime.errors import UserError
from pipeline.training import loop, network_split


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


def assert_split_as_joined(
    extractors: list[keras.Model], layers: Sequence[str | None], size: int
) -> keras.Model:
    """Return the rest of the split network."""
    classifier = head(sum(made.output_shape[-1] for made in extractors))
    joined = network_split.join(extractors, classifier, (size, size, 3))
    frozen, rest = network_split.split(extractors, layers, classifier)
    images = pictures(size)
    activations = [part.predict_on_batch(images) for part in frozen]
    assert {array.ndim for array in activations} == {2}
    expected = joined.predict_on_batch(images)
    found = rest.predict_on_batch(np.concatenate(activations, axis=-1))
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    trained = {id(weight) for weight in rest.trainable_weights}
    assert trained == {id(weight) for weight in joined.trainable_weights}
    return rest


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("convnet", "conv3", 64),
        pytest.param("MobileNetV2", "block_13_expand", 64, marks=pytest.mark.slow),
    ],
)
def test_both_parts_give_the_logits_of_the_joined_network(name: str, layer: str, size: int) -> None:
    rest = assert_split_as_joined([extractor(name, size, layer)], [layer], size)
    assert len(rest.trainable_weights) > 4


@pytest.mark.parametrize("frozen", [False, True])
def test_of_two_backbones_side_by_side_one_may_stay_frozen(frozen: bool) -> None:
    first, second = extractor("VGG16", 48, "block5_conv1"), extractor("convnet", 48, "conv3")
    if frozen:
        first.trainable = False
    layers = [None if frozen else "block5_conv1", "conv3"]
    rest = assert_split_as_joined([first, second], layers, 48)
    trained = {id(weight) for weight in rest.trainable_weights}
    assert trained.isdisjoint(id(weight) for weight in first.weights) is frozen


@pytest.mark.slow
def test_training_the_rest_trains_the_joined_network_and_leaves_batch_norms_bit_for_bit() -> None:
    made = extractor("MobileNetV2", 32, "block_16_expand")
    trunk = made.get_layer("trunk").model
    norms = [part for part in trunk.layers if isinstance(part, keras.layers.BatchNormalization)]
    before = [part.get_weights() for part in norms]
    classifier = head(1280)
    joined = network_split.join([made], classifier, (32, 32, 3))
    (frozen,), rest = network_split.split([made], ["block_16_expand"], classifier)
    images, label = pictures(32), np.array([0, 1, 0])
    activations, untrained = frozen.predict_on_batch(images), joined.predict_on_batch(images)
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
    trained = joined.predict_on_batch(images)
    assert np.abs(trained - untrained).max() > 1e-2
    assert_allclose(rest.predict_on_batch(activations), trained, rtol=1e-4, atol=1e-5)
    for part, weights in zip(norms, before, strict=True):
        for found, expected in zip(part.get_weights(), weights, strict=True):
            assert_array_equal(found, expected)


def test_a_bypassed_layer_is_refused_with_the_nearest_that_fit() -> None:
    layer = "block_15_depthwise"  # inside a residual block
    made = extractor("MobileNetV2", 32, layer)
    with pytest.raises(UserError, match=r"got 'block_15_depthwise', where 2 tensors enter; the "):
        network_split.split([made], [layer], head(1280))


@pytest.mark.slow
def test_in_bfloat16_weights_stay_float32_and_outputs_are_near() -> None:
    exact, rough = (extractor("MobileNetV2", 64, "Conv_1", p) for p in network_split.POLICIES)
    assert keras.config.dtype_policy().name == "float32"
    assert {weight.dtype for weight in rough.weights} == {"float32"}
    images = pictures(64)
    expected, found = (made.predict_on_batch(images) for made in (exact, rough))
    assert found.dtype == np.float32
    assert not np.array_equal(found, expected)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
