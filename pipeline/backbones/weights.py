"""Get a backbone's weights from Keras' download, a file or a seed.

`random`, `from_file` and `from_download` return the backbone with its weights, which do not depend
on the image size. Whole models and pickles are never read.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras.applications import imagenet_utils

from pipeline.backbones import build, keras_private, weights_file
from pipeline.backbones.download import Published
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError


def random(name: str, include_top: bool, seed: int) -> keras.Model:
    """Return a backbone with the random weights of Keras' initializers for `seed`."""
    keras.utils.set_random_seed(seed)
    return build.network(name, None, include_top, None)


def from_file(name: str, include_top: bool, path: Path, sha256: str) -> keras.Model:
    """Return a backbone with the weights of a `.weights.h5` or a legacy Keras `.h5` file."""
    if not path.is_file():
        raise UserError(
            f"params.yaml: backbones.{name}.path: expected a weights file, got nothing at "
            f"{str(path)!r}; put it there or correct the path"
        )
    actual = atomic_files.sha256(path)
    if actual != sha256:
        raise UserError(
            f"{path}: expected sha256 {sha256} (backbones.{name}.sha256), got {actual}; "
            "get the right file, or correct the hash if you trust this one"
        )
    return build.network(name, None, include_top, path)


def from_download(name: str, include_top: bool, path: Path) -> keras.Model:
    """Return a backbone with the weights of a published file; raise `UserError` if damaged."""
    model = build.network(name, None, include_top, None)
    try:
        weights_file.load(model, path)
    except weights_file.WeightsFileError as error:
        raise UserError(
            f"fetch_weights {name}: expected a complete download in {path.parent}, got a damaged "
            f"file ({error}); remove {path} and run again"
        ) from None
    return model


def digest(model: keras.Model) -> str:
    """Return a sha256 in hex of shapes, dtypes and values of all weights, in the model's order."""
    sha256 = hashlib.sha256()
    for array in model.get_weights():
        sha256.update(f"{array.shape} {array.dtype}\n".encode())
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def published(name: str, include_top: bool) -> Published:
    """Return the file of a backbone's ImageNet weights; raise `UserError` if there is none."""
    if name in build.BUILT_IN:
        raise UserError(
            f"params.yaml: backbones.{name}.weights: expected random or file, got 'imagenet'; "
            f"there are no ImageNet weights for {name}"
        )
    build.require_name(name)
    application = getattr(keras.applications, name)
    return _requested(lambda: application(weights="imagenet", include_top=include_top))


def class_index() -> Published:
    """Return the file with the names of the 1,000 ImageNet classes."""
    return _requested(lambda: imagenet_utils.decode_predictions(np.zeros((1, 1000))))


def _requested(function: Callable[[], object]) -> Published:
    return Published(*keras_private.requested_file(function))
