"""Where a backbone's weights come from: Keras' download, a file, or a seed.

Each function gives the backbone with its weights, for a stage to save as `.weights.h5`. They do not
depend on the image size. Whole models and pickles are never read.
"""

import hashlib
import os
import warnings
from pathlib import Path

import keras
import numpy as np

from stages.errors import UserError
from stages.models import backbone

DOWNLOAD_FAILED = "URL fetch failure on"  # the words of keras.utils.get_file


def random(name: str, include_top: bool, seed: int) -> keras.Model:
    """Untrained weights, drawn by Keras' initialisers from `seed`."""
    keras.utils.set_random_seed(seed)
    return backbone.build(name, None, include_top, None)


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
    return backbone.build(name, None, include_top, path)


def imagenet(name: str, include_top: bool) -> keras.Model:
    """Keras' own ImageNet weights, downloaded once to its folder (`KERAS_HOME`).

    Raises:
        UserError: no network, a damaged download, or a backbone that has none.
    """
    if name in backbone.OWN:
        raise UserError(
            f"params.yaml: fetch_weights.{name}.source: expected random or file, got 'imagenet'; "
            f"nobody has published ImageNet weights for {name}"
        )
    home = os.environ.get("KERAS_HOME", "~/.keras")
    remedy = (
        f"connect once, or set fetch_weights.{name} to `source: file` with path and sha256 of a "
        "file that you have"
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of MobileNets, that no size is given
            return backbone.build(name, None, include_top, "imagenet")
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f"fetch_weights {name}: expected a whole download in {home}/models, got a damaged "
            f"file ({' '.join(str(error).split())}); remove it and run again"
        ) from None
    except Exception as error:  # get_file raises a bare Exception
        if DOWNLOAD_FAILED not in str(error):
            raise
        raise UserError(
            f"fetch_weights {name}: expected to download ImageNet weights, got no connection; "
            f"{remedy}"
        ) from None


def digest(model: keras.Model) -> str:
    """A sha256 in hex over all weights: shapes, dtypes and values, in the model's order."""
    found = hashlib.sha256()
    for array in model.get_weights():
        found.update(f"{array.shape} {array.dtype}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
