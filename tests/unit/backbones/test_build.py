"""Backbones: their shapes, their preprocessing, and what training may change in them."""

import os
import re
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones import batch_norm_folding, build
from pipeline.runtime.errors import UserError
from pipeline.training import loop
from pipeline.training.head import Head

CONVNET_SHAPES = {
    150: {
        "input": (150, 150, 3),
        "conv1": (148, 148, 32),
        "pool1": (74, 74, 32),
        "conv2": (72, 72, 64),
        "pool2": (36, 36, 64),
        "conv3": (34, 34, 128),
        "pool3": (17, 17, 128),
        "conv4": (15, 15, 128),
        "pool4": (7, 7, 128),
    },
    64: {
        "input": (64, 64, 3),
        "conv1": (62, 62, 32),
        "pool1": (31, 31, 32),
        "conv2": (29, 29, 64),
        "pool2": (14, 14, 64),
        "conv3": (12, 12, 128),
        "pool3": (6, 6, 128),
        "conv4": (4, 4, 128),
        "pool4": (2, 2, 128),
    },
}
# A pixel of red 10, green 20, blue 255, as each backbone's paper or code wants it.
PREPROCESSED = {
    "convnet": (10 / 255, 20 / 255, 1.0),
    "gabor": (10 / 255, 20 / 255, 1.0),
    "VGG16": (255 - 103.939, 20 - 116.779, 10 - 123.68),  # blue, green, red less their means
    "ResNet50": (255 - 103.939, 20 - 116.779, 10 - 123.68),
    "MobileNetV2": (10 / 127.5 - 1, 20 / 127.5 - 1, 1.0),
    "ResNet50V2": (10 / 127.5 - 1, 20 / 127.5 - 1, 1.0),
    "DenseNet121": (
        (10 / 255 - 0.485) / 0.229,
        (20 / 255 - 0.456) / 0.224,
        (1.0 - 0.406) / 0.225,
    ),
    "EfficientNetV2B0": (10.0, 20.0, 255.0),  # it has layers of its own for that
    "MobileNetV3Small": (10.0, 20.0, 255.0),
}


def images(n: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def convnet(size: int) -> keras.Model:
    return build.network("convnet", size, include_top=False, weights=None)


def give_statistics(model: keras.Model) -> None:
    """Batch norms as after training: no mean is 0, no variance 1."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights([rng.uniform(0.5, 1.5, shape) for _ in range(4)])


def refusal(name: str, size: int | None, include_top: bool = False) -> str:
    with pytest.raises(UserError) as told:
        build.network(name, size, include_top, None)
    return str(told.value)


def test_names_are_our_own_and_every_keras_application() -> None:
    names = build.names()
    assert names[:2] == ["convnet", "gabor"]
    assert names[2:] == sorted(
        name for name in dir(keras.applications) if callable(getattr(keras.applications, name))
    )
    assert {
        "VGG16",
        "VGG19",
        "ResNet50",
        "ResNet50V2",
        "MobileNet",
        "MobileNetV2",
        "MobileNetV3Small",
        "InceptionV3",
        "Xception",
        "DenseNet121",
        "EfficientNetB0",
        "EfficientNetV2B0",
        "NASNetMobile",
        "ConvNeXtTiny",
    } < set(names)


@pytest.mark.parametrize("size", CONVNET_SHAPES)
def test_the_convnet_has_these_layers(size: int) -> None:
    layers = convnet(size).layers
    assert {layer.name: layer.output.shape[1:] for layer in layers} == CONVNET_SHAPES[size]
    assert {layer.activation.__name__ for layer in layers if "conv" in layer.name} == {"relu"}


def test_the_convnet_has_the_parameters_of_its_book() -> None:
    """F. Chollet, "Deep Learning with Python" (2017), section 5.2: 3,453,121 for 150 pixels."""
    base = convnet(150)
    assert base.count_params() == 240_832
    extractor = build.extractor(base, "convnet", None, "flatten")
    assert extractor.output_shape == (None, 6272)
    classifier = loop.dense_head(6272, [512], 1, input_dropout=0.5, dropout=0.0, seed=0)
    assert extractor.count_params() + classifier.count_params() == 3_453_121


@pytest.mark.parametrize("name", PREPROCESSED)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_preprocessing_gives_these_values(name: str, dtype: type[np.generic]) -> None:
    pixel = np.array([[[[10, 20, 255]]]]).astype(dtype)
    found = np.asarray(build.Preprocess(name)(pixel))
    assert found.dtype == np.float32
    assert_allclose(found.ravel(), PREPROCESSED[name], rtol=1e-6, atol=1e-6)
    rescaled = np.asarray(build.Preprocess(name, "rescale")(pixel))
    assert rescaled.dtype == np.float32
    assert_allclose(rescaled.ravel(), [10 / 255, 20 / 255, 1], rtol=1e-6)


@pytest.mark.parametrize("preprocessing", ["backbone", "rescale"])
def test_an_extractor_preprocesses_as_it_is_told(preprocessing: str) -> None:
    base = build.network("VGG16", 32, include_top=False, weights=None)
    pixels = images(2, 32)
    given = np.asarray(build.Preprocess("VGG16", preprocessing)(pixels))
    extractor = build.extractor(
        base, "VGG16", "block1_conv1", "flatten", preprocessing=preprocessing
    )
    first = keras.Model(base.inputs, base.get_layer("block1_conv1").output)
    expected = first.predict_on_batch(given).reshape(2, -1)
    found = extractor.predict_on_batch(pixels)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("VGG16", keras.applications.vgg16),
        ("MobileNetV2", keras.applications.mobilenet_v2),
        ("ResNet50V2", keras.applications.resnet_v2),
    ],
)
def test_an_extractor_is_the_bare_model_on_preprocessed_images(name: str, module: Any) -> None:
    """Up to float32 rounding, as one of the two preprocesses in numpy."""
    keras.utils.set_random_seed(0)
    base = build.network(name, 32, include_top=False, weights=None)
    give_statistics(base)
    pictures = images(3, 32)
    bare = base.predict_on_batch(module.preprocess_input(pictures.astype(np.float32)))
    found = build.extractor(base, name, None, "flatten").predict_on_batch(pictures)
    assert found.dtype == np.float32
    assert len(np.unique(found)) > 100
    expected = bare.reshape(3, -1)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_features_are_pooled_from_the_last_convolutional_output(pooling: str) -> None:
    base = convnet(64)
    pictures = images(3, 64)
    output = base.predict_on_batch(pictures.astype(np.float32) / 255)  # (3, 2, 2, 128)
    expected = {
        "avg": output.mean(axis=(1, 2)),
        "max": output.max(axis=(1, 2)),
        "flatten": output.reshape(3, -1),
    }[pooling]
    found = build.extractor(base, "convnet", None, pooling).predict_on_batch(pictures)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_named_layer_gives_the_features() -> None:
    base = convnet(64)
    named = build.extractor(base, "convnet", "conv3", "max")
    output = keras.Model(base.inputs, base.get_layer("conv3").output).predict_on_batch(
        images(2, 64) / np.float32(255)
    )
    expected = output.max(axis=(1, 2))
    assert_allclose(named.predict_on_batch(images(2, 64)), expected, rtol=1e-4, atol=1e-6)


def test_a_layer_without_height_and_width_is_not_pooled() -> None:
    keras.utils.set_random_seed(0)
    base = build.network("MobileNetV2", 32, include_top=True, weights=None)
    found = build.extractor(base, "MobileNetV2", "predictions", "avg")
    probability = found.predict_on_batch(images(2, 32))
    assert probability.shape == (2, 1000)
    assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    assert build.extractor(base, "MobileNetV2", None, "avg").output_shape == (None, 1280)


@pytest.mark.parametrize("name", ["MobileNetV2", "MobileNet"])
@pytest.mark.slow
def test_predictions_are_the_probabilities_of_the_classifier(name: str) -> None:
    """MobileNet's last layer is the activation, MobileNetV2's a dense layer with its own."""
    keras.utils.set_random_seed(0)
    base = build.network(name, 32, include_top=True, weights=None, logits=True)
    plain = build.network(name, 32, include_top=True, weights=None)
    plain.set_weights(base.get_weights())
    expected = np.asarray(build.extractor(plain, name, "predictions", "avg")(images(3, 32)))
    found = predictions(base, name, images(3, 32))
    assert_allclose(found["predictions"], expected, rtol=1e-4)
    assert_allclose(found["predictions"].sum(axis=1), 1, rtol=1e-5)
    assert_allclose(found["log_predictions"], np.log(expected), rtol=1e-4)
    classifier = base.layers[-1] if name == "MobileNetV2" else base.get_layer("conv_preds")
    *kernels, bias = classifier.get_weights()
    bias[0] = 1000  # a probability of e-1000 is 0 in float32; its logarithm is a number
    classifier.set_weights([*map(np.zeros_like, kernels), bias])
    found = predictions(base, name, images(1, 32))
    assert_array_equal(found["predictions"], [[1.0] + [0.0] * 999])
    assert_array_equal(found["log_predictions"], [[0.0] + [-1000.0] * 999])


def predictions(base: keras.Model, name: str, pictures: NDArray[np.uint8]) -> dict[str, Any]:
    """Of each pooling, float32 (n, 1000)."""
    found = {
        pooling: np.asarray(build.extractor(base, name, None, pooling)(pictures))
        for pooling in ("predictions", "log_predictions")
    }
    assert {(features.dtype, features.shape) for features in found.values()} == {
        (np.dtype(np.float32), (len(pictures), 1000))
    }
    return found


@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_features_are_float32_behind_a_network_in_bfloat16(pooling: str) -> None:
    found = build.extractor(
        convnet(46),
        "convnet",
        None,
        pooling,
        lambda trunk: batch_norm_folding.fold(trunk, "bfloat16"),
    )
    assert found.get_layer("trunk").model.get_layer("conv1").compute_dtype == "bfloat16"
    assert np.asarray(found(images(1, 46))).dtype == np.float32


def test_predictions_are_float32_behind_a_network_in_bfloat16() -> None:
    """Which itself tells no more than 8 bits of a number apart."""
    inputs = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    base = keras.Model(inputs, keras.layers.Dense(5, name="logits")(pooled))
    found = build.extractor(
        base,
        "convnet",
        None,
        "log_predictions",
        lambda trunk: batch_norm_folding.fold(trunk, "bfloat16"),
    )
    assert found.get_layer("trunk").model.get_layer("logits").compute_dtype == "bfloat16"
    log_probability = np.asarray(found(images(4, 8)))
    assert log_probability.dtype == np.float32
    assert_allclose(np.exp(log_probability).sum(axis=1), 1, rtol=1e-6)


def test_a_change_is_made_to_the_network_between_preprocessing_and_pooling() -> None:
    base = convnet(46)
    seen: list[keras.Model] = []

    def change(trunk: keras.Model) -> keras.Model:
        seen.append(trunk)
        return keras.Model(trunk.inputs, trunk.output + 1000)

    plain = build.extractor(base, "convnet", None, "avg").predict_on_batch(images(2, 46))
    found = build.extractor(base, "convnet", None, "avg", change)
    assert [trunk.name for trunk in seen] == ["convnet"]
    assert_allclose(found.predict_on_batch(images(2, 46)), plain + 1000, rtol=1e-5)


def test_an_unknown_backbone_is_told_with_the_nearest_names() -> None:
    assert refusal("mobilenetv2", 64) == (
        "params.yaml: extract.backbones: expected convnet, gabor or the name of a Keras "
        "application, got 'mobilenetv2'; the nearest are MobileNetV2, MobileNet, MobileNetV3Small"
    )


@pytest.mark.parametrize("name", ["VGG16", "MobileNetV2", "InceptionV3", "convnet", "gabor"])
def test_a_size_that_is_too_small_is_told_with_the_words_of_keras(name: str) -> None:
    assert re.fullmatch(
        rf"params\.yaml: resize\.size: expected an image size that {name} takes, got 16 "
        r"\([^\n]+[^.\s]\); change resize\.size or the backbone",
        refusal(name, 16),
    )


def test_an_unknown_layer_is_told_with_the_nearest_names() -> None:
    with pytest.raises(UserError) as told:
        build.extractor(convnet(64), "convnet", "conv9", "avg")
    assert str(told.value) == (
        "params.yaml: extract.layer: expected the name of a layer that the features come through, "
        "got 'conv9'; the nearest are conv4, conv3, conv2"
    )


def test_an_unknown_first_layer_to_train_is_told_with_the_nearest_names() -> None:
    extractor = build.extractor(convnet(64), "convnet", "pool2", "avg")
    with pytest.raises(UserError) as told:
        build.unfreeze_from(extractor, "conv3")
    assert str(told.value) == (
        "params.yaml: fine_tune.unfreeze_from: expected the name of a layer that the features come "
        "through, got 'conv3'; the nearest are conv2, conv1, pool2"
    )


def small_network() -> keras.Model:
    """A convolution, a batch norm and heavy dropout."""
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.9, name="dropout")(x)
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="last")(x))
    give_statistics(model)
    return model


def in_training(wrapped: bool) -> tuple[keras.Model, keras.Model]:
    """The small network inside a model with a classifier, and the small network."""
    network = small_network()
    inputs = keras.Input((8, 8, 3))
    x = (build.InferenceMode(network) if wrapped else network)(inputs)
    logits = keras.layers.Dense(2)(keras.layers.Flatten()(x))
    model = keras.Model(inputs, logits)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, network


@pytest.mark.parametrize("wrapped", [True, False], ids=["inference mode", "for contrast, plain"])
def test_a_base_runs_as_in_inference_inside_a_model_that_trains(wrapped: bool) -> None:
    pictures = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    model, network = in_training(wrapped)
    training_output = np.asarray(model(pictures, training=True))
    assert np.array_equal(training_output, np.asarray(model(pictures, training=False))) is wrapped
    norm, conv = network.get_layer("norm"), network.get_layer("conv")
    statistics = [np.asarray(norm.moving_mean), np.asarray(norm.moving_variance)]
    kernel = np.asarray(conv.kernel)
    for _ in range(3):
        model.train_on_batch(pictures, np.array([0, 1, 0, 1]))
    after = [np.asarray(norm.moving_mean), np.asarray(norm.moving_variance)]
    assert all(map(np.array_equal, statistics, after)) is wrapped
    assert not np.array_equal(np.asarray(conv.kernel), kernel)


@pytest.fixture(scope="module")
def unfrozen() -> tuple[keras.Model, keras.Model]:
    """MobileNetV2 unfrozen from its last block's end on: the extractor, and its trunk."""
    keras.utils.set_random_seed(0)
    base = build.network("MobileNetV2", 32, include_top=False, weights=None)
    give_statistics(base)
    extractor = build.extractor(base, "MobileNetV2", None, "avg")
    build.unfreeze_from(extractor, "block_16_project")
    return extractor, extractor.get_layer("trunk").model


def test_only_layers_from_the_named_one_on_are_trained_and_no_batch_norm(
    unfrozen: tuple[keras.Model, keras.Model],
) -> None:
    extractor, trunk = unfrozen
    assert [layer.name for layer in trunk.layers if layer.trainable_weights] == [
        "block_16_project",
        "Conv_1",
    ]
    assert len(extractor.trainable_weights) == 2
    after = [layer.name for layer in trunk.layers][-6:]
    assert after == [
        "block_16_depthwise_relu",
        "block_16_project",
        "block_16_project_BN",
        "Conv_1",
        "Conv_1_bn",
        "out_relu",
    ]


def test_gradient_steps_change_those_layers_and_leave_all_others_bit_for_bit(
    unfrozen: tuple[keras.Model, keras.Model],
) -> None:
    extractor, trunk = unfrozen
    before = {layer.name: layer.get_weights() for layer in trunk.layers}
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(1280, 2)).astype(np.float32)
    classifier = loop.head_model(
        Head((kernel,), (np.zeros(2, np.float32),)), input_dropout=0.0, dropout=0.0, seed=0
    )
    model = loop.stack([extractor, classifier], (32, 32, 3), "model")
    pictures, label = images(4, 32).astype(np.float32), np.array([0, 1, 0, 1])
    loop.fit(
        model,
        loop.Schedule("adam", 0.01, 2, 4),
        lambda: [(pictures, label)],
        lambda: (model.predict_on_batch(pictures), label),
        None,
        "fine_tune",
        lambda rows: None,
        images=4,
    )
    changed = {
        layer.name
        for layer in trunk.layers
        if not all(map(np.array_equal, layer.get_weights(), before[layer.name]))
    }
    assert changed == {"block_16_project", "Conv_1"}
    assert not np.array_equal(loop.head_arrays(classifier).kernels[0], kernel)


def test_a_frozen_extractor_computes_the_same_before_and_after_unfreezing() -> None:
    extractor = build.extractor(convnet(46), "convnet", None, "avg")
    before = extractor.predict_on_batch(images(2, 46))
    build.unfreeze_from(extractor, "conv4")
    assert_array_equal(extractor.predict_on_batch(images(2, 46)), before)


def test_with_its_classifier_a_backbone_is_still_taken_at_its_last_feature_map() -> None:
    base = build.network("MobileNet", 64, False, None)
    with_top = keras.applications.MobileNet(weights=None, input_shape=(64, 64, 3))
    shapes = [
        build.extractor(model, "MobileNet", None, "flatten").output_shape
        for model in (base, with_top)
    ]
    assert shapes == [(None, 2 * 2 * 1024)] * 2


def test_a_first_layer_behind_which_nothing_is_to_train_is_refused() -> None:
    extractor = build.extractor(convnet(64), "convnet", None, "avg")
    with pytest.raises(UserError) as told:
        build.unfreeze_from(extractor, "pool4")
    assert str(told.value) == (
        "params.yaml: fine_tune.unfreeze_from: expected a layer from which on there are weights "
        "to train, got 'pool4'; name an earlier one"
    )


@pytest.mark.parametrize("name", ["convnet", "gabor"])
def test_a_backbone_of_our_own_with_a_classifier_is_refused(name: str) -> None:
    assert refusal(name, 64, include_top=True) == (
        f"params.yaml: fetch_weights.{name}.include_top: expected false, got true; "
        f"{name} has no classifier of its own"
    )
