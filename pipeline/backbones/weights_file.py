"""Load weights from an HDF5 file that has exactly those of a network.

Keras 3.15 refuses links, external storage, virtual datasets and gigabytes that are declared but not
there. It ignores additional weights, and some that are missing.
"""

import warnings
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from pipeline.backbones import keras_private
from pipeline.runtime.errors import UserError, of_the_machine


def load(model: keras.Model, path: Path, expected: str, remedy: str) -> None:
    """Fill a built model with the weights of a `.weights.h5` or a legacy Keras `.h5` file.

    Raise a `UserError`, with `expected` and `remedy`, for a weight that is missing, surplus, or has
    another shape or kind of number.
    """
    try:
        if path.suffix not in (".h5", ".hdf5"):
            raise ValueError("a name that ends in neither .weights.h5 nor .h5")
        if path.name.endswith(".weights.h5"):
            _require_variables(path, model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # one a layer, and then an error
            model.load_weights(path)
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        if of_the_machine(error, path):
            raise
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        raise UserError(
            f"{path}: expected {expected}, got a file that does not fit ({reason}); {remedy}"
        ) from None


def _require_variables(path: Path, model: keras.Model) -> None:
    """Require one array for each variable, at the path where Keras looks for it."""
    arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer/"):  # is not read
            arrays[name] = item.shape, item.dtype

    with h5py.File(path, "r") as file:
        file.visititems(note)  # does not follow links
    variables = keras_private.saved_variables(model)
    for name, variable in variables.items():
        if name not in arrays:
            raise ValueError(f"no {name!r}")
        shape, dtype = arrays[name]
        if shape != tuple(variable.shape):
            raise ValueError(f"{name!r} of shape {shape}, not {tuple(variable.shape)}")
        if "float" in str(variable.dtype) and dtype.kind != "f":
            raise ValueError(f"{name!r} of {dtype}, not of {variable.dtype}")
    if surplus := arrays.keys() - variables.keys():
        raise ValueError(f"a weight that the network does not have, {min(surplus)!r}")
