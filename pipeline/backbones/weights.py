"""Where a backbone's weights come from: Keras' download, a file, or a seed.

Each function gives the backbone with its weights, for a stage to save as `.weights.h5`. They do not
depend on the image size. Whole models and pickles are never read.
"""

import hashlib
from pathlib import Path

import keras
import numpy as np

from pipeline.backbones import build, weights_file
from pipeline.backbones import published as keras_files
from pipeline.backbones.published import Published
from pipeline.runtime.errors import UserError


def random(name: str, include_top: bool, seed: int) -> keras.Model:
    """Untrained weights, drawn by Keras' initialisers from `seed`."""
    keras.utils.set_random_seed(seed)
    return build.build(name, None, include_top, None)


def from_file(name: str, include_top: bool, path: Path, sha256: str) -> keras.Model:
    """Weights from a `.weights.h5` or a legacy Keras `.h5` file with that hash.

    Raises:
        UserError: no such file, another hash, or weights of another network.
    """
    if not path.is_file():
        raise UserError(
            f"params.yaml: fetch_weights.{name}.path: expected a weights file, got nothing at "
            f"{str(path)!r}; put it there or correct the path"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise UserError(
            f"{path}: expected sha256 {sha256} (fetch_weights.{name}.sha256), got {found}; "
            "get the right file, or correct the hash if you trust this one"
        )
    return build.build(name, None, include_top, path)


def published(name: str, include_top: bool) -> Published:
    """The file of a backbone's ImageNet weights, by Keras.

    Raises:
        UserError: no such backbone, or one that has none.
    """
    if name in build.OWN:
        raise UserError(
            f"params.yaml: fetch_weights.{name}.source: expected random or file, got 'imagenet'; "
            f"nobody has published ImageNet weights for {name}"
        )
    build.require_known(name)
    return keras_files.weights(name, include_top)


def from_download(name: str, include_top: bool, path: Path) -> keras.Model:
    """Weights of a published file that lies in Keras' folder.

    Raises:
        UserError: it is damaged, as one that another program was killed over.
    """
    model = build.build(name, None, include_top, None)
    try:
        weights_file.load(model, path)
    except weights_file.Unfit as error:
        raise UserError(
            f"fetch_weights {name}: expected a whole download in {path.parent}, got a damaged file "
            f"({error}); remove {path} and run again"
        ) from None
    return model


def digest(model: keras.Model) -> str:
    """A sha256 in hex over all weights: shapes, dtypes and values, in the model's order."""
    found = hashlib.sha256()
    for array in model.get_weights():
        found.update(f"{array.shape} {array.dtype}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
