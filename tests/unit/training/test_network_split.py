"""A split network gives the outputs of the joined one, and shares its weights."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from pipeline.backbones import build
from pipeline.runtime.errors import UserError
from pipeline.training import loop, network_split


def extractor(name: str, size: int, layer: str | None) -> keras.Model:
    """With random weights and statistics of batch norms, trainable from a layer on."""
    keras.utils.set_random_seed(0)
    base = build.network(name, size, False, None)
    made = build.extractor(base, name, None, "avg")
    rng = np.random.default_rng(0)
    for part in base.layers:
        if isinstance(part, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = part.get_weights()
            shift, spread = rng.normal(0, 0.1, mean.shape), rng.uniform(0.5, 1.5, variance.shape)
            part.set_weights([gamma, beta, shift, spread])
    if layer is None:
        made.trainable = False
    else:
        build.unfreeze_from(made, layer)
    return made


def head(n_features: int) -> keras.Model:
    keras.utils.set_random_seed(1)
    return loop.dense_head(n_features, [8], 2)


@pytest.mark.parametrize(
    "layers",
    [
        {"convnet": "conv3"},
        pytest.param({"MobileNetV2": "block_13_expand"}, marks=pytest.mark.slow),
        pytest.param({"VGG16": "block5_conv1", "convnet": "conv3"}, marks=pytest.mark.slow),
        {"VGG16": None, "convnet": "conv3"},
    ],
    ids=str,
)
def test_both_parts_give_the_logits_of_the_joined_network(layers: dict[str, str | None]) -> None:
    extractors = [extractor(name, 64, layer) for name, layer in layers.items()]
    classifier = head(sum(made.output_shape[-1] for made in extractors))
    joined = network_split.join(extractors, classifier, (64, 64, 3))
    frozen, rest = network_split.split(extractors, [*layers.values()], classifier)
    images = np.random.default_rng(3).integers(0, 256, (3, 64, 64, 3)).astype(np.float32)
    activations = frozen.predict_on_batch(images)
    assert activations.shape == (3, rest.input_shape[-1])
    expected = joined.predict_on_batch(images)
    assert_allclose(rest.predict_on_batch(activations), expected, rtol=1e-4, atol=1e-5)
    trained = {id(weight) for weight in rest.trainable_weights}
    assert trained == {id(weight) for weight in joined.trainable_weights}
    for made, layer in zip(extractors, layers.values(), strict=True):
        assert trained.isdisjoint(id(weight) for weight in made.weights) is (layer is None)


def test_a_bypassed_layer_is_refused_with_the_nearest_that_fit() -> None:
    layer = "block_15_depthwise"  # inside a residual block
    made = extractor("MobileNetV2", 32, layer)
    with pytest.raises(UserError, match=r"got 'block_15_depthwise', where 2 tensors enter; the "):
        network_split.split([made], [layer], head(1280))
