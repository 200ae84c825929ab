"""Extractors as `params.yaml` describes them. `keras_setup.start` comes first."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline import paths
from pipeline.backbones import build, keras_setup, preset
from pipeline.runtime import atomic_files
from pipeline.schema import OnnxFile, Params, Preset


def extractor(
    params: Params,
    backbone: str,
    size: int,
    weights: Path,
    fold_for: str | None = None,
    described: preset.Preset | None = None,
) -> keras.Model:
    """Build the network with its weights, and `build.extractor` on it, `fold_for` passed on.

    Images have `size`; the network may have another. A preset is `described`, or read from what
    `fetch_weights` has stored.

    Raises:
        UserError: a backbone, layer or weights that do not fit.
    """
    settings = params.backbones[backbone]
    if isinstance(settings, OnnxFile):
        raise TypeError(f"{backbone} is not of Keras")
    if isinstance(settings, Preset):
        where = f"params.yaml: backbones.{backbone}.path"
        stage = f"fetch_weights@{backbone}"
        if described is None:
            described = preset.stored(atomic_files.require(paths.preset(backbone), stage))
        own = settings.size or described.size or size
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(fold_for or policy)
        try:
            base = preset.load(described, own, weights, where)
        finally:
            keras.config.set_dtype_policy(policy)
        return build.extractor(
            *(base, backbone, settings.layer, settings.pooling, fold_for, described.scaling),
            pixels=size,
            tokens=described.tokens,
        )
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
    """Return a function that starts Keras on images, and the number of features.

    Its second argument tells whether the device mirrors the images first.
    """
    options = params.extract
    model = extractor(params, backbone, size, weights, keras_setup.dtype(options.precision))
    images = keras.Input(model.input_shape[1:], name="images")
    mirrored = keras.Model(images, model(keras.ops.flip(images, axis=2)))
    starters = [keras_setup.starter(one, options.batch_size) for one in (model, mirrored)]
    return lambda images, mirror: starters[mirror](images), int(model.output_shape[-1])
