"""Extractors as `params.yaml` describes them. `keras_setup.start` comes first."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.backbones import build, keras_setup
from pipeline.schema import Backbone, Params


def extractor(
    params: Params, backbone: str, size: int, weights: Path, fold_for: str | None = None
) -> keras.Model:
    """Build the network with its weights, and `build.extractor` on it, `fold_for` passed on.

    Images have `size`; the network may have another.

    Raises:
        UserError: a backbone, layer or weights that do not fit.
    """
    settings = params.backbones[backbone]
    if not isinstance(settings, Backbone):
        raise TypeError(f"{backbone} is not of Keras")
    logits = settings.pooling in build.PREDICTIONS
    own = settings.size or size
    base = build.network(backbone, own, settings.include_top, weights, logits=logits)
    return build.extractor(
        *(base, backbone, settings.layer, settings.pooling, fold_for, settings.preprocessing),
        pixels=size,
    )


def features_function(
    params: Params, backbone: str, size: int, weights: Path
) -> tuple[Callable[[NDArray[np.uint8], bool], keras_setup.Wait], int]:
    """Return a function that starts Keras on images or their mirror images; number of features.

    The device mirrors them.
    """
    options = params.extract
    model = extractor(params, backbone, size, weights, keras_setup.dtype(options.precision))
    images = keras.Input(model.input_shape[1:], name="images")
    mirrored = keras.Model(images, model(keras.ops.flip(images, axis=2)))
    starters = [keras_setup.starter(one, options.batch_size) for one in (model, mirrored)]
    return lambda images, mirror: starters[mirror](images), int(model.output_shape[-1])
