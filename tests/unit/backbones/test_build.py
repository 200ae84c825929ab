"""Shapes of backbones, their preprocessing, and what training may change in them."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones import build
from pipeline.runtime.errors import UserError

# A pixel of red 10, green 20, blue 255, as each backbone's paper or code wants it.
PREPROCESSED = {
    "convnet": (10 / 255, 20 / 255, 1.0),
    "gabor": (10 / 255, 20 / 255, 1.0),
    "VGG16": (255 - 103.939, 20 - 116.779, 10 - 123.68),  # blue, green, red less their means
    "MobileNetV2": (10 / 127.5 - 1, 20 / 127.5 - 1, 1.0),
    "DenseNet121": ((10 / 255 - 0.485) / 0.229, (20 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225),
    "EfficientNetV2B0": (10.0, 20.0, 255.0),  # has layers of its own for that
}


def images(n: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def convnet(size: int) -> keras.Model:
    return build.network("convnet", size, include_top=False, weights=None)


def set_statistics(model: keras.Model) -> None:
    """Give batch norms statistics as after training: no mean is 0, no variance 1."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights([rng.uniform(0.5, 1.5, shape) for _ in range(4)])


def trunk_of(extractor: keras.Model) -> keras.Model:
    return extractor.get_layer("trunk").model


def test_the_convnet_is_that_of_its_book() -> None:
    """F. Chollet, "Deep Learning with Python" (2017), section 5.2: 3,453,121 for 150 pixels."""
    base = convnet(150)
    assert {it.activation.__name__ for it in base.layers if "conv" in it.name} == {"relu"}
    extractor = build.extractor(base, "convnet", None, "flatten")
    assert extractor.output_shape == (None, 6272)
    head = 6272 * 512 + 512 + 512 + 1  # dense layers of 512 units and of 1
    assert extractor.count_params() + head == 3_453_121


@pytest.mark.parametrize("name", PREPROCESSED)
@pytest.mark.parametrize("preprocessing", ["backbone", "rescale"])
def test_preprocessing_gives_these_values(name: str, preprocessing: str) -> None:
    pixel = np.array([[[[10, 20, 255]]]], np.uint8)
    values = np.asarray(build.Preprocess(name, preprocessing)(pixel))
    assert values.dtype == np.float32
    expected = PREPROCESSED["convnet" if preprocessing == "rescale" else name]
    assert_allclose(values.ravel(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layer", "preprocessing"),
    [
        ("VGG16", "block1_conv1", "backbone"),
        ("VGG16", "block1_conv1", "rescale"),
        ("MobileNetV2", None, "backbone"),
    ],
)
def test_an_extractor_is_the_bare_network_on_preprocessed_images(
    name: str, layer: str | None, preprocessing: str
) -> None:
    keras.utils.set_random_seed(0)
    base = build.network(name, 32, include_top=False, weights=None)
    set_statistics(base)
    bare = keras.Model(base.input, base.get_layer(layer).output) if layer else base
    preprocessed = np.asarray(build.Preprocess(name, preprocessing)(images(3, 32)))
    expected = np.asarray(bare(preprocessed, training=False)).reshape(3, -1)
    extractor = build.extractor(base, name, layer, "flatten", preprocessing=preprocessing)
    features = extractor.predict_on_batch(images(3, 32))
    assert features.dtype == np.float32
    assert len(np.unique(features)) > 100
    assert_allclose(features, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize("layer", [None, "conv3"])
@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_features_are_pooled_from_the_last_or_the_named_layer(
    pooling: str, layer: str | None
) -> None:
    base = convnet(64)
    model = keras.Model(base.inputs, base.get_layer(layer or "pool4").output)
    output = model.predict_on_batch(images(3, 64).astype(np.float32) / 255)
    expected = {
        "avg": output.mean(axis=(1, 2)),
        "max": output.max(axis=(1, 2)),
        "flatten": output.reshape(3, -1),
    }[pooling]
    features = build.extractor(base, "convnet", layer, pooling).predict_on_batch(images(3, 64))
    assert_allclose(features, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "channels"), [("MobileNetV2", 1280), ("MobileNet", 1024)])
def test_with_its_classifier_a_backbone_is_still_cut_at_its_last_feature_map(
    name: str, channels: int
) -> None:
    base = build.network(name, 64, include_top=True, weights=None)
    features = build.extractor(base, name, None, "flatten")
    assert features.output_shape == (None, 2 * 2 * channels)
    probability = build.extractor(base, name, base.layers[-1].name, "avg")  # without height, width
    assert probability.output_shape == (None, 1000)


def predictions(base: keras.Model, name: str, n: int) -> list[NDArray[np.float32]]:
    """Probabilities and log-probabilities, float32 (n, 1000)."""
    poolings = ("predictions", "log_predictions")
    found = [np.asarray(build.extractor(base, name, None, it)(images(n, 32))) for it in poolings]
    assert all((str(it.dtype), it.shape) == ("float32", (n, 1000)) for it in found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "last"), [("MobileNetV2", "predictions"), ("MobileNet", "conv_preds")]
)
def test_predictions_are_the_probabilities_of_the_classifier(name: str, last: str) -> None:
    """MobileNet's last layer is the activation, MobileNetV2's a dense layer with its own."""
    keras.utils.set_random_seed(0)
    base = build.network(name, 32, include_top=True, weights=None, logits=True)
    plain = build.network(name, 32, include_top=True, weights=None)
    plain.set_weights(base.get_weights())
    expected = np.asarray(build.extractor(plain, name, "predictions", "avg")(images(3, 32)))
    probability, log_probability = predictions(base, name, 3)
    assert_allclose(probability, expected, rtol=1e-4)
    assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    assert_allclose(log_probability, np.log(expected), rtol=1e-4)
    *kernels, bias = base.get_layer(last).get_weights()
    bias[0] = 1000  # a probability of e-1000 is 0 in float32; its logarithm is a number
    base.get_layer(last).set_weights([*map(np.zeros_like, kernels), bias])
    probability, log_probability = predictions(base, name, 1)
    assert_array_equal(probability, [[1.0] + [0.0] * 999])
    assert_array_equal(log_probability, [[0.0] + [-1000.0] * 999])


@pytest.mark.parametrize("pooling", ["avg", "max", "flatten", "log_predictions"])
def test_features_are_float32_after_a_network_in_bfloat16(pooling: str) -> None:
    """bfloat16 itself has only 8 significant bits."""
    x = inputs = keras.Input((8, 8, 3))
    if pooling == "log_predictions":
        x = keras.layers.Flatten()(x)
    base = keras.Model(inputs, keras.layers.Dense(5, name="logits")(x))
    extractor = build.extractor(base, "convnet", None, pooling, "bfloat16")
    assert trunk_of(extractor).get_layer("logits").compute_dtype == "bfloat16"
    features = np.asarray(extractor(images(4, 8)))
    assert features.dtype == np.float32
    if pooling == "log_predictions":
        assert_allclose(np.exp(features).sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("name", ["VGG16", "MobileNetV2", "InceptionV3", "convnet", "gabor"])
def test_images_that_are_too_small_are_refused(name: str) -> None:
    sentence = (
        rf"^params\.yaml: resize\.size: expected an image size that {name} takes, got 16 "
        r"\([^\n]+[^.\s]\); change resize\.size or the backbone$"
    )
    with pytest.raises(UserError, match=sentence):
        build.network(name, 16, False, None)


def test_unknown_networks_and_layers_are_refused_with_the_nearest_names() -> None:
    nearest = "the nearest are MobileNetV2, MobileNet, MobileNetV3Small"
    sentence = f"backbones: expected convnet, gabor or .*, got 'mobilenetv2'; {nearest}$"
    with pytest.raises(UserError, match=sentence):
        build.network("mobilenetv2", 64, False, None)
    with pytest.raises(UserError, match=r"convnet\.layer: .* nearest are conv4, conv3, conv2$"):
        build.extractor(convnet(64), "convnet", "conv9", "avg")
    with pytest.raises(UserError, match=r"gabor\.include_top: expected false, got true; "):
        build.network("gabor", 64, True, None)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ("conv4", "the features come through, got 'conv4'; .* conv3, conv2, conv1"),
        ("pool3", "weights to train from there on, got 'pool3'; name an earlier one"),
    ],
)
def test_a_layer_that_cannot_be_unfrozen_is_refused(layer: str, sentence: str) -> None:
    extractor = build.extractor(convnet(64), "convnet", "pool3", "avg")
    with pytest.raises(UserError, match=rf"backbones\.convnet\.unfreeze_from: .* {sentence}$"):
        build.unfreeze_from(extractor, layer)


@pytest.mark.parametrize("wrapped", [True, False])
def test_only_inference_mode_keeps_statistics_and_dropout_out_of_training(wrapped: bool) -> None:
    conv, norm = keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()
    network = keras.Sequential(
        [keras.Input((8, 8, 3)), conv, norm, keras.layers.Dropout(0.9), keras.layers.Flatten()]
    )
    set_statistics(network)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, (build.InferenceMode(network) if wrapped else network)(inputs))
    pixels = images(4, 8) / np.float32(255)
    same = np.array_equal(model(pixels, training=True), model(pixels, training=False))
    mean, kernel = np.asarray(norm.moving_mean), np.asarray(conv.kernel)
    model.compile("sgd", "mse")
    model.train_on_batch(pixels, np.zeros((4, 144)))
    assert same is np.array_equal(norm.moving_mean, mean) is wrapped
    assert not np.array_equal(conv.kernel, kernel)  # it does train


@pytest.mark.slow
def test_training_changes_layers_from_the_named_one_on_and_no_batch_norm() -> None:
    keras.utils.set_random_seed(0)
    base = build.network("MobileNetV2", 32, include_top=False, weights=None)
    set_statistics(base)
    extractor = build.extractor(base, "MobileNetV2", None, "avg")
    features = extractor.predict_on_batch(images(2, 32))
    build.unfreeze_from(extractor, "block_16_project")
    assert_array_equal(extractor.predict_on_batch(images(2, 32)), features)
    layers = trunk_of(extractor).layers
    last = ["block_16_project", "block_16_project_BN", "Conv_1", "Conv_1_bn", "out_relu"]
    assert [layer.name for layer in layers][-5:] == last
    before = {layer.name: layer.get_weights() for layer in layers}
    extractor.compile("adam", "mse")
    extractor.train_on_batch(images(4, 32).astype(np.float32), np.ones((4, 1280)))
    changed = {
        layer.name
        for layer in layers
        if not all(map(np.array_equal, layer.get_weights(), before[layer.name]))
    }
    assert changed == {"block_16_project", "Conv_1"}
