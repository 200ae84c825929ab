"""The exported model: images of any size in, calibrated probabilities out.

Input: uint8 (n, height, width, 3), RGB and upright, values 0 to 255, any height and width. Output:
float32 (n, n_classes), each row with sum 1. Resizing, preprocessing, the mirror view and the
temperature are included, so a caller needs nothing of this project.
"""

import importlib
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from pipeline.backbones import keras_setup
from pipeline.backbones.resize_layer import Resize
from pipeline.runtime import atomic_files

FORMATS = {"saved_model": "model", "openvino": "model.xml"}  # the file of each format


def model(
    network: keras.Model, fit: str, interpolation: str, views: int, temperature: float
) -> keras.Model:
    """Build the exported model around a network from images (n, size, size, 3) to logits.

    `views` is 1 or 2: the image, or the mean probability of the image and its mirror image.
    """
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    resized = Resize(network.input_shape[1], fit, interpolation)(images)
    probability = ops.softmax(network(resized))
    if views > 1:
        probability = (probability + ops.softmax(network(ops.flip(resized, axis=2)))) / 2
    tiny = float(np.finfo(np.float32).tiny)
    calibrated = ops.softmax(ops.log(ops.maximum(probability, tiny)) / temperature)
    return keras.Model(images, calibrated, name="served")


def write(served: keras.Model, folder: Path, form: str) -> None:
    """Write a `model` into an existing folder, in one of `FORMATS`; an `OSError` on a full disk."""
    signature = [keras.InputSpec("uint8", (None, None, None, 3), name="images")]
    if form == "openvino":
        keras_setup.silence_openvino()
    try:
        path = str(folder / FORMATS[form])
        served.export(
            path, format=form.replace("saved", "tf_saved"), verbose=False, input_signature=signature
        )
    except Exception:
        atomic_files.require_room(folder / "probe", 4 * served.count_params() + 2**20)
        raise


def read(folder: Path, form: str) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return the model that `write` wrote as a function of images."""
    path = str(folder / FORMATS[form])
    if form == "openvino":
        keras_setup.silence_openvino()
        core = importlib.import_module("openvino").Core()
        compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda images: np.asarray(compiled([images])[0])
    layer = keras.layers.TFSMLayer(path, call_endpoint="serve")
    return lambda images: np.asarray(ops.convert_to_numpy(layer(images)))
