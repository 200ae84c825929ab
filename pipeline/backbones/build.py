"""Convolutional networks without their classifier: images in, one feature vector an image out.

Input: RGB images, uint8 or float, values 0 to 255, shape (n, size, size, 3). Each backbone's own
preprocessing is part of the model. The base always runs in inference mode, so that batch norms use
their moving statistics and dropout is off, also while its layers are trained.
"""

import difflib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from pipeline.backbones import gabor, weights_file
from pipeline.runtime.errors import UserError

CONVNET = "convnet"
OWN = (CONVNET, gabor.NAME)  # not of keras.applications: no classifier, no ImageNet weights
CONVNET_FILTERS = (32, 64, 128, 128)
PREDICTIONS = {"predictions": "softmax", "log_predictions": "log_softmax"}


def names() -> list[str]:
    """All backbones: `convnet`, `gabor` and every Keras application, by its Keras name."""
    return [*OWN, *sorted(_applications())]


def build(
    name: str,
    size: int | None,
    include_top: bool,
    weights: Path | None,
    logits: bool = False,
) -> keras.Model:
    """Build a backbone for images of `size` x `size`.

    Args:
        name: one of `names()`.
        size: in pixels; None for the backbone's own choice.
        include_top: with the application's classifier of 1,000 ImageNet classes.
        weights: a `.weights.h5` or Keras' legacy `.h5` file, or None for random weights by Keras'
            global seed.
        logits: leave the softmax of the classifier off.

    Raises:
        UserError: no such backbone, a size it does not take, or weights that do not fit it.
    """
    require_known(name)
    if name in OWN and include_top:
        raise UserError(
            f"params.yaml: fetch_weights.{name}.include_top: expected false, got true; "
            f"{name} has no classifier of its own"
        )
    try:
        if name == CONVNET:
            model = _convnet(size)
        elif name == gabor.NAME:
            model = gabor.build(size)
        else:
            model = getattr(keras.applications, name)(
                weights=None,
                include_top=include_top,
                input_shape=(size, size, 3) if size else None,
                **({"classifier_activation": None} if include_top and logits else {}),
            )
    except ValueError as error:
        raise UserError(
            f"params.yaml: resize.size: expected an image size that {name} takes, got {size} "
            f"({_first_sentence(error)}); change resize.size or the backbone"
        ) from None
    if weights is not None:
        whole = None if include_top or name in OWN else lambda: build(name, None, True, None)
        try:
            weights_file.load(model, weights, whole)
        except weights_file.Unfit as error:
            raise UserError(
                f"{weights}: expected weights of {name} {'with' if include_top else 'without'} its "
                f"classifier, got a file that does not fit ({error}); correct fetch_weights.{name}"
            ) from None
    return model


def require_known(name: str) -> None:
    """Refuse a name that is none of `names()`, with the nearest ones."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4) or names()[:3]
        raise UserError(
            "params.yaml: extract.backbones: expected convnet, gabor or the name of a Keras "
            f"application, got {name!r}; the nearest are {', '.join(near)}"
        )


def extractor(
    base: keras.Model,
    name: str,
    layer: str | None,
    pooling: str,
    change: Callable[[keras.Model], keras.Model] = lambda trunk: trunk,
    preprocessing: str = "backbone",
) -> keras.Model:
    """Put preprocessing before and pooling behind a base.

    Args:
        base: from `build`; with `logits` if `pooling` is one of `PREDICTIONS`.
        name: of the backbone, for its preprocessing.
        layer: whose output is taken; None for the last convolutional one (n, height, width, c).
        pooling: of that output over height and width: "avg", "max", or "flatten" for none; or
            "predictions", "log_predictions": the classifier's probabilities or their logarithms.
        change: made to the network between preprocessing and pooling, as `folding.fold` does.
        preprocessing: "backbone" for its own, "rescale" for pixels / 255.

    Returns:
        Model from images (n, size, size, 3) to features (n, d) float32.

    Raises:
        UserError: no such layer.
    """
    if pooling in PREDICTIONS:
        chosen = base.layers[-1]
    elif layer:
        chosen = find_layer(base, layer, "extract.layer")
    else:
        chosen = last_convolutional(base)
    trunk = InferenceMode(change(keras.Model(base.inputs, chosen.output, name=name)))
    images = keras.Input(base.input_shape[1:], name="images")
    features = trunk(Preprocess(name, preprocessing)(images))
    if pooling in PREDICTIONS or len(features.shape) == 4:
        features = _pooling_layer(pooling)(features)
    else:
        features = keras.layers.Flatten(name="pooling", dtype="float32")(features)
    return keras.Model(images, features, name=f"{name}_extractor")


def find_layer(model: keras.Model, layer: str, key: str) -> keras.layers.Layer:
    """The layer of that name; a `UserError` that names `key` and the nearest names if none is."""
    known = {known.name: known for known in model.layers}
    if layer not in known:
        near = difflib.get_close_matches(layer, list(known), n=3, cutoff=0)
        raise UserError(
            f"params.yaml: {key}: expected the name of a layer that the features come through, "
            f"got {layer!r}; the nearest are {', '.join(near)}"
        )
    return known[layer]


def last_convolutional(base: keras.Model) -> keras.layers.Layer:
    """The last layer whose output still has height and width.

    In a base with its classifier, the last one before the pooling over the whole image, since some
    classifiers are convolutions themselves (MobileNet's).
    """
    layers = list(base.layers)
    if len(base.output_shape) == 2:
        kinds = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
        pooled = [place for place, layer in enumerate(layers) if isinstance(layer, kinds)]
        layers = layers[: pooled[-1]] if pooled else layers
    return next(layer for layer in reversed(layers) if len(layer.output.shape) == 4)


def unfreeze_from(model: keras.Model, layer: str) -> None:
    """Make an `extractor` trainable from `layer` on, its batch norms never.

    Raises:
        UserError: it has no such layer.
    """
    trunk = model.get_layer("trunk").model
    first = trunk.layers.index(find_layer(trunk, layer, "fine_tune.unfreeze_from"))
    trunk.trainable = True
    for place, part in enumerate(trunk.layers):
        batch_norm = isinstance(part, keras.layers.BatchNormalization)
        part.trainable = place >= first and not batch_norm
    if not trunk.trainable_weights:
        raise UserError(
            "params.yaml: fine_tune.unfreeze_from: expected a layer from which on there are "
            f"weights to train, got {layer!r}; name an earlier one"
        )


class InferenceMode(keras.layers.Layer):  # type: ignore[misc]
    """A model that behaves as in inference, also inside a model that is being trained.

    `model(x, training=False)` in a functional model does not do that: Keras 3 replaces the
    argument by that of the outer call (`operation_fn` in keras/src/models/functional.py).
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name="trunk")
        self.model = model

    def call(self, images: Any) -> Any:
        return self.model(images, training=False)


class Preprocess(keras.layers.Layer):  # type: ignore[misc]
    """From pixel values 0 to 255, RGB, to what a backbone was trained on.

    Input and output shape (n, size, size, 3), output float32. `convnet` and `gabor` take
    pixels / 255; so does every backbone if `preprocessing` is "rescale" and not "backbone".
    """

    def __init__(self, backbone: str, preprocessing: str = "backbone") -> None:
        super().__init__(name="preprocess", dtype="float32", trainable=False)
        if preprocessing == "rescale" or backbone in OWN:
            self._function: Callable[[Any], Any] = lambda images: images / 255.0
        else:
            self._function = _applications()[backbone].preprocess_input

    def call(self, images: Any) -> Any:
        return self._function(keras.ops.cast(images, "float32"))

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return shape


def _applications() -> dict[str, types.ModuleType]:
    """Each Keras application's name, and the module that holds its `preprocess_input`."""
    return {
        name: getattr(keras.applications, build.__module__.rpartition(".")[2])
        for name, build in vars(keras.applications).items()
        if name[0].isupper() and callable(build)
    }


def _convnet(size: int | None) -> keras.Model:
    """Convolutions of 32, 64, 128, 128 filters, 3 x 3, each followed by 2 x 2 max pooling.

    The small network of F. Chollet, "Building powerful image classification models using very
    little data" (2016) and "Deep Learning with Python" (2017), section 5.2.
    """
    x = images = keras.Input((size, size, 3), name="input")
    for number, filters in enumerate(CONVNET_FILTERS, start=1):
        convolution = keras.layers.Conv2D(filters, 3, activation="relu", name=f"conv{number}")
        x = keras.layers.MaxPooling2D(2, name=f"pool{number}")(convolution(x))
    return keras.Model(images, x, name=CONVNET)


def _pooling_layer(pooling: str) -> keras.layers.Layer:
    """In float32 also behind a network that computes in another type."""
    named = {"name": "pooling", "dtype": "float32"}
    if pooling == "avg":
        return keras.layers.GlobalAveragePooling2D(**named)
    if pooling == "max":
        return keras.layers.GlobalMaxPooling2D(**named)
    if pooling in PREDICTIONS:
        return keras.layers.Activation(PREDICTIONS[pooling], **named)
    return keras.layers.Flatten(**named)


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")
