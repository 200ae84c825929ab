"""Load weights from an HDF5 file after checking everything that it declares.

An HDF5 file can name other files, declare terabytes that it does not hold, and unpack a few bytes
to any number. Weights need none of that, nor what Keras 3.15 still accepts: it reads arrays of
another shape before it refuses them, and makes up to 4 GiB that are not there.
"""

import math
import mmap
import struct
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras

from pipeline.backbones import keras_private
from pipeline.runtime.errors import of_the_machine

MAX_OBJECTS = 100_000  # groups and arrays; the largest network of keras.applications has 5,000
HEAP = b"GCOL\1\0\0\0"  # signature of a global heap, version 1
LAYOUTS = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)  # not VIRTUAL

Arrays = Mapping[str, Any]  # by path: h5py.Dataset, or another object with a shape and a dtype


class WeightsFileError(ValueError):
    """The reason why a file is refused, worded to follow "got" in a sentence."""


def load(model: keras.Model, path: Path, with_top: Callable[[], keras.Model] | None = None) -> None:
    """Fill a built model with the weights of a `.weights.h5` or a legacy Keras `.h5` file.

    Args:
        with_top: builds the same network with its classifier, if `model` lacks it; the classifier's
            weights in a `.weights.h5` file are then ignored.

    Raises:
        WeightsFileError: not such a file, or not of this network: a weight is missing, surplus, or
            has another shape or kind of number; or the file has features that weights do not need.
    """
    try:
        with h5py.File(path, "r") as file:
            arrays = _arrays(file)
            if path.name.endswith(".weights.h5"):
                _require_variables(arrays, keras_private.saved_variables(model), with_top)
            elif path.suffix in (".h5", ".hdf5"):
                _require_finite_heaps(file, path)
                _require_legacy_layers(file, model)
            else:
                raise WeightsFileError("a name that ends in neither .weights.h5 nor .h5")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # one a layer, and then an error
            model.load_weights(path)
    except WeightsFileError:
        raise
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        if of_the_machine(error, path):
            raise
        first_sentence = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        raise WeightsFileError(first_sentence) from None


def _arrays(file: h5py.File) -> Arrays:
    """Return all arrays of a file by path, read from declarations only; follow no links."""
    arrays: dict[str, Any] = {}
    seen = {h5py.h5o.get_info(file.id).addr}
    groups = [("", file)]
    while groups:
        parent, group = groups.pop()
        for name in group:
            path = f"{parent}/{name}".removeprefix("/")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise WeightsFileError(f"a link to elsewhere, {path!r}")
            kind = group.get(name, getclass=True)
            if kind not in (h5py.Group, h5py.Dataset):
                raise WeightsFileError(f"neither a group nor an array, {path!r}")
            item = group[name]
            if (address := h5py.h5o.get_info(item.id).addr) in seen:
                raise WeightsFileError(f"two names for one object, the second is {path!r}")
            seen.add(address)
            if len(seen) > MAX_OBJECTS:
                raise WeightsFileError(f"more than {MAX_OBJECTS:,} groups and arrays")
            if kind is h5py.Group:
                groups.append((path, item))
            else:
                _require_plain(path, item)
                arrays[path] = item
    return arrays


def _require_plain(path: str, array: h5py.Dataset) -> None:
    """Require plain numbers, all of them in this file."""
    properties, kind = array.id.get_create_plist(), array.id.get_type()
    size = kind.get_size()
    declared = math.prod(array.shape or ()) * size
    numbers = type(kind) in (h5py.h5t.TypeFloatID, h5py.h5t.TypeIntegerID)
    # Filters unpack to any size; Keras writes none.
    faults = {
        "an array made up of other files' arrays": properties.get_layout() not in LAYOUTS,
        "an array that lies in another file": properties.get_external_count(),
        "a packed array": properties.get_nfilters(),
        "an array of something else than numbers": not numbers,
        "an array without a shape": array.shape is None,
        f"{declared:,} bytes that are declared but not there": (
            array.id.get_storage_size() < declared
        ),
        "chunks larger than their array": (
            array.chunks and math.prod(array.chunks) * size > declared + 2**20
        ),
    }
    for fault, present in faults.items():
        if present:
            raise WeightsFileError(f"{fault}, {path!r}")


def _require_variables(
    arrays: Arrays, variables: Arrays, with_top: Callable[[], keras.Model] | None
) -> None:
    """Require one array for each variable, at the path where Keras looks for it."""
    # TensorFlow 2.13 wrote `layers` under another name, which Keras still reads.
    legacy = "_layer_checkpoint_dependencies/"
    arrays = {path.replace(legacy, "layers/", 1): array for path, array in arrays.items()}
    for path, variable in variables.items():
        if path not in arrays:
            raise WeightsFileError(f"no {path!r}")
        _require_same(path, arrays[path], variable)
    # A compiled model also saves its optimizer, which is not read.
    surplus = {path for path in arrays if not path.startswith("optimizer/")} - variables.keys()
    if surplus and with_top is not None:
        surplus -= keras_private.saved_variables(with_top()).keys()
    if surplus:
        raise WeightsFileError(f"a weight that the network does not have, {min(surplus)!r}")


def _require_finite_heaps(file: h5py.File, path: Path) -> None:
    """Refuse free space of size 0 in a heap, at which HDF5 1.14 hangs (HDFGroup/hdf5#1707).

    The layout is that of the HDF5 file format, version 3.0, III.E, "Disk Format: Level 1E - Global
    Heap", with lengths of 8 bytes.
    """
    if file.id.get_create_plist().get_sizes() != (8, 8):
        raise WeightsFileError("addresses and lengths of another size than 8 bytes")
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        heap = data.find(HEAP)
        while heap >= 0:
            at = heap + 16
            end = min(heap + int.from_bytes(data[heap + 8 : at], "little"), len(data))
            while at + 16 <= end:
                index, size = struct.unpack_from("<H6xQ", data, at)
                if index == size == 0:
                    raise WeightsFileError("texts that never end")
                at += 16 + (size + 7) // 8 * 8 if index else size
            heap = data.find(HEAP, heap + 1)


def _require_legacy_layers(file: h5py.File, model: keras.Model) -> None:
    """Require the network's layers and weights in its order, under any names."""
    root = file if "layer_names" in file.attrs else file.get("model_weights", file)
    layers = [
        (layer, names)
        for layer in keras_private.legacy_names(root, "layer_names")
        if (names := keras_private.legacy_names(root[layer], "weight_names"))
    ]
    arrays = [(f"{layer}/{name}", root[layer][name]) for layer, names in layers for name in names]
    expected = [
        [*layer.trainable_weights, *layer.non_trainable_weights]
        for layer in model.layers
        if layer.weights
    ]
    variables = [variable for of_layer in expected for variable in of_layer]
    if [len(names) for _, names in layers] != [len(of_layer) for of_layer in expected]:
        raise WeightsFileError(
            f"{len(arrays)} weights in {len(layers)} layers, not {len(variables)} in "
            f"{len(expected)}"
        )
    for (path, array), variable in zip(arrays, variables, strict=True):
        _require_same(path, array, variable)
    present: set[str] = set()
    root.visititems(lambda _, x: present.add(x.name) if isinstance(x, h5py.Dataset) else None)
    if surplus := present - {array.name for _, array in arrays}:
        raise WeightsFileError(f"a weight that belongs to no layer, {min(surplus)!r}")


def _require_same(path: str, array: Any, variable: Any) -> None:
    if not isinstance(array, h5py.Dataset) or tuple(array.shape) != tuple(variable.shape):
        raise WeightsFileError(
            f"{path!r} of shape {getattr(array, 'shape', 'none')}, not {tuple(variable.shape)}"
        )
    if "float" in str(variable.dtype) and array.dtype.kind != "f":
        raise WeightsFileError(f"{path!r} of {array.dtype}, not of {variable.dtype}")
