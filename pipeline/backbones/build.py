"""Build backbones, and extractors from RGB images (n, size, size, 3), values 0 to 255, to features.

Each backbone's own preprocessing is part of the extractor. The backbone always runs in inference
mode, also while its layers are trained: batch norms use their moving statistics, dropout is off.
"""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from pipeline.backbones import batch_norm_folding, gabor, weights_file
from pipeline.backbones.resize_layer import Resize
from pipeline.runtime.errors import UserError, nearest

CONVNET = "convnet"
BUILT_IN = (CONVNET, gabor.NAME)  # not of keras.applications: no classifier, no ImageNet weights
CONVNET_FILTERS = (32, 64, 128, 128)
PREDICTIONS = {"predictions": "softmax", "log_predictions": "log_softmax"}
TOKENS = ("cls", "mean", "cls_and_mean")
CHANNELS = 3
POOLINGS = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}


class Scaling(NamedTuple):
    """The map value * scale + offset, of red, green and blue from 0 to 255."""

    scale: list[float]
    offset: list[float]


def names() -> list[str]:
    """Return all backbones: `convnet`, `gabor` and the Keras name of every Keras application."""
    return [*BUILT_IN, *sorted(_applications())]


def network(
    name: str, size: int | None, include_top: bool, weights: Path | None, logits: bool = False
) -> keras.Model:
    """Build a backbone for images of `size` x `size` pixels; None for its default.

    Args:
        include_top: with the application's classifier of 1,000 ImageNet classes.
        weights: a file for `weights_file.load`; None draws from Keras' global seed.
        logits: omit the softmax of the classifier.

    Raises:
        UserError: no such backbone, a size it does not take, or weights that do not fit it.
    """
    require_name(name)
    if name in BUILT_IN and include_top:
        raise UserError(
            f"params.yaml: backbones.{name}.include_top: expected false, got true; "
            f"{name} has no classifier of its own"
        )
    try:
        if name in BUILT_IN:
            model = _convnet(size) if name == CONVNET else gabor.network(size)
        else:
            model = getattr(keras.applications, name)(
                weights=None,
                include_top=include_top,
                input_shape=(size, size, 3) if size else None,
                **({"classifier_activation": None} if include_top and logits else {}),
            )
    except ValueError as error:
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        raise UserError(
            f"params.yaml: resize.size: expected an image size that {name} takes, got {size} "
            f"({reason}); change resize.size or the backbone"
        ) from None
    if weights is not None:
        expected = f"weights of {name} {'with' if include_top else 'without'} its classifier"
        remedy = f"remove or replace that file, or correct backbones.{name}"
        weights_file.load(model, weights, expected, remedy)
    return model


def require_name(name: str) -> None:
    """Raise a `UserError` with the nearest names unless `name` is one of `names()`."""
    if name not in names():
        raise UserError(
            "params.yaml: backbones: expected convnet, gabor or the name of a Keras application, "
            f"got {name!r}; the nearest are {nearest(name, names())}"
        )


def extractor(
    base: keras.Model,
    name: str,
    layer: str | None,
    pooling: str,
    fold_for: str | None = None,
    preprocessing: str | Scaling = "backbone",
    pixels: int | None = None,
    tokens: int = 0,
) -> keras.Model:
    """Put preprocessing before and pooling after a base.

    Args:
        base: from `network`; with `logits` if `pooling` is one of `PREDICTIONS`.
        layer: its output is pooled; None for the last feature map (n, height, width, c), or the
            output of a network with a `Scaling`.
        pooling: over height and width: "avg", "max", or "flatten" for none; of tokens (n, k, c):
            "cls", "mean", "cls_and_mean"; or "predictions", "log_predictions": the classifier's
            probabilities or their logarithms.
        fold_for: precision of inference for which batch norms are folded; None leaves them.
        preprocessing: "backbone" for its own, "rescale" for pixels / 255, or a linear map.
        tokens: number of tokens before the patches, the class token first; 0 for none.
        pixels: height and width of the images, which are resized to those of the base; None for
            the same.

    Returns:
        Model from images (n, pixels, pixels, 3) to features (n, d) float32.
    """
    if pooling in PREDICTIONS:
        last = base.layers[-1].output
    elif layer:
        last = find_layer(base, layer, f"backbones.{name}.layer").output
    elif isinstance(preprocessing, Scaling):
        last = base.outputs[0]
    else:
        last = last_feature_map(base).output
    trunk = keras.Model(base.inputs, last, name=name)
    if fold_for:
        trunk = batch_norm_folding.fold(trunk, fold_for)
    size = base.input_shape[1]
    images = keras.Input((pixels or size, pixels or size, 3), name="images")
    resized = pixels not in (None, size)
    preprocess = Preprocess(name, preprocessing, size if resized else None)
    features = InferenceMode(trunk)(preprocess(images))
    options = {"name": "pooling", "dtype": "float32"}  # also after a network in bfloat16
    if pooling in PREDICTIONS:
        pool = keras.layers.Activation(PREDICTIONS[pooling], **options)
    elif pooling in POOLINGS and len(features.shape) == 4:
        pool = POOLINGS[pooling](**options)
    elif len(features.shape) == 3 or pooling in TOKENS:
        possible = [one for one in TOKENS if tokens or one == "mean"]
        if pooling not in possible or len(features.shape) != 3:
            fits = {2: ["flatten"], 3: possible, 4: [*POOLINGS, "flatten"]}[len(features.shape)]
            raise UserError(
                f"params.yaml: backbones.{name}.pooling: expected {' or '.join(fits)}, as the "
                f"output has the shape {tuple(features.shape)}, got {pooling!r}; change it"
            )
        pool = Tokens(pooling, tokens)
    else:
        pool = keras.layers.Flatten(**options)
    return keras.Model(images, pool(features), name=f"{name}_extractor")


def trunk(extractor: keras.Model) -> keras.Model:
    """Return the backbone's own layers, up to the feature map that is pooled."""
    return extractor.get_layer("trunk").model


def find_layer(model: keras.Model, layer: str, key: str) -> keras.layers.Layer:
    """Return the layer of that name, or raise a `UserError` about `key` with the nearest names."""
    layers = {candidate.name: candidate for candidate in model.layers}
    if layer not in layers:
        raise UserError(
            f"params.yaml: {key}: expected the name of a layer that the features come through, "
            f"got {layer!r}; the nearest are {nearest(layer, layers)}"
        )
    return layers[layer]


def last_feature_map(base: keras.Model) -> keras.layers.Layer:
    """Return the last layer with an output that has height and width.

    In a base with its classifier, the last one before the global pooling, since some classifiers
    are convolutions themselves (MobileNet's).
    """
    layers = list(base.layers)
    if len(base.output_shape) == 2:
        kinds = tuple(POOLINGS.values())
        poolings = [index for index, layer in enumerate(layers) if isinstance(layer, kinds)]
        layers = layers[: poolings[-1]] if poolings else layers
    return next(layer for layer in reversed(layers) if len(layer.output.shape) == 4)


def unfreeze_from(model: keras.Model, layer: str) -> None:
    """Make an `extractor` trainable from `layer` on, except for its batch norms."""
    trunk = model.get_layer("trunk").model
    key = f"backbones.{trunk.name}.unfreeze_from"
    first = trunk.layers.index(find_layer(trunk, layer, key))
    trunk.trainable = True
    for index, part in enumerate(trunk.layers):
        batch_norm = isinstance(part, keras.layers.BatchNormalization)
        part.trainable = index >= first and not batch_norm
    if not trunk.trainable_weights:
        raise UserError(
            f"params.yaml: {key}: expected a layer with weights to train from there on, "
            f"got {layer!r}; name an earlier one"
        )


class InferenceMode(keras.layers.Layer):  # type: ignore[misc]
    """A model in inference mode, also inside a model that is being trained.

    There `model(x, training=False)` is not enough: Keras 3 replaces the argument by that of the
    outer call (`operation_fn` in keras/src/models/functional.py).
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name="trunk")
        self.model = model

    def call(self, images: Any) -> Any:
        return self.model(images, training=False)


class Tokens(keras.layers.Layer):  # type: ignore[misc]
    """Pool tokens (n, k, c): the class token, the mean of the patches, or both side by side."""

    def __init__(self, pooling: str, before_patches: int) -> None:
        super().__init__(name="pooling", dtype="float32", trainable=False)
        self._pooling, self._before = pooling, before_patches

    def call(self, tokens: Any) -> Any:
        first = tokens[:, 0]
        mean = keras.ops.mean(tokens[:, self._before :], axis=1)
        parts = {"cls": [first], "mean": [mean], "cls_and_mean": [first, mean]}[self._pooling]
        return keras.ops.concatenate(parts, axis=-1)


class Preprocess(keras.layers.Layer):  # type: ignore[misc]
    """Turn RGB values 0 to 255 (n, size, size, 3) into what a backbone was trained on, float32.

    `convnet`, `gabor` and every backbone with `preprocessing` "rescale" take pixels / 255. With a
    `size`, images of another size are resized to it first.
    """

    def __init__(
        self, backbone: str, preprocessing: str | Scaling = "backbone", size: int | None = None
    ) -> None:
        super().__init__(name="preprocess", dtype="float32", trainable=False)
        self._resize = Resize(size, "squash", "bicubic") if size else None
        if isinstance(preprocessing, Scaling):
            scale, offset = (np.array(values, np.float32) for values in preprocessing)
            self._function: Callable[[Any], Any] = lambda images: images * scale + offset
        elif preprocessing == "rescale" or backbone in BUILT_IN:
            self._function = lambda images: images / 255.0
        else:
            self._function = _applications()[backbone].preprocess_input

    @property
    def size(self) -> int | None:
        """Height and width to which images are resized; None if they are not."""
        return self._resize.size if self._resize else None

    def call(self, images: Any) -> Any:
        return self.scaled(self._resize(images) if self._resize else images)

    def scaled(self, images: Any) -> Any:
        """Return images in their own size; the gradient of resizing, which rounds, is 0."""
        return self._function(keras.ops.cast(images, "float32"))

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self._resize.compute_output_shape(shape) if self._resize else shape


def _applications() -> dict[str, types.ModuleType]:
    """Return each Keras application's name, and the module with its `preprocess_input`."""
    return {
        name: getattr(keras.applications, function.__module__.rpartition(".")[2])
        for name, function in vars(keras.applications).items()
        if name[0].isupper() and callable(function)
    }


def _convnet(size: int | None) -> keras.Model:
    """Build the small network of F. Chollet, "Deep Learning with Python" (2017), section 5.2."""
    x = images = keras.Input((size, size, 3), name="input")
    for number, filters in enumerate(CONVNET_FILTERS, start=1):
        convolution = keras.layers.Conv2D(filters, 3, activation="relu", name=f"conv{number}")
        x = keras.layers.MaxPooling2D(2, name=f"pool{number}")(convolution(x))
    return keras.Model(images, x, name=CONVNET)
