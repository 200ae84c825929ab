"""Weights from an HDF5 file, whose declarations are all checked before a weight is read.

An HDF5 file can name other files, declare terabytes that it does not hold, and unpack a few bytes
to any number. A file of weights needs none of that, nor what Keras 3.15 still lets pass: arrays of
another shape are read before they are refused, and up to 4 GiB that are not there are made up.
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
from keras.src.legacy.saving.legacy_h5_format import load_attributes_from_hdf5_group
from keras.src.saving import saving_lib

from pipeline.runtime.errors import of_the_machine

MOST_OBJECTS = 100_000  # groups and arrays; the largest network of keras.applications has 5,000
HEAP = b"GCOL\1\0\0\0"  # how a heap of texts begins, version 1
LAYOUTS = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)  # not VIRTUAL

Arrays = Mapping[str, Any]  # by path: an h5py.Dataset, or what has a shape and a dtype like one


class Unfit(ValueError):  # noqa: N818  it is caught, and told as a UserError
    """Why a file is refused, to stand in a sentence after "got"."""


def load(model: keras.Model, path: Path, with_top: Callable[[], keras.Model] | None = None) -> None:
    """Fill a built model with the weights of a `.weights.h5` or a legacy Keras `.h5` file.

    Args:
        with_top: the network of which `model` is the part before the classifier, if it is one. Of
            a `.weights.h5` file of that network the rest is left aside.

    Raises:
        Unfit: not such a file, or not of this network: a weight lacks, is one too many, or has
            another shape or kind of number; or anything in it that weights have no need of.
    """
    try:
        with h5py.File(path, "r") as file:
            found = _arrays(file)
            if path.name.endswith(".weights.h5"):
                _require_those(_old_names(found), saved_as(model), with_top)
            elif path.suffix in (".h5", ".hdf5"):
                _require_heaps_that_end(file, path)
                _require_layers(file, model)
            else:
                raise Unfit("a name that ends in neither .weights.h5 nor .h5")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # one a layer, and then an error
            model.load_weights(path)
    except Unfit:
        raise
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        if of_the_machine(error, path):
            raise
        raise Unfit(" ".join(str(error).split()).split(". ")[0].rstrip(".")) from None


def saved_as(model: keras.Model) -> Arrays:
    """The variables of a model by the paths at which `save_weights` writes them; none is copied."""
    names = _Names()
    saving_lib._save_state(model, names, None, "", set())
    return names.variables


class _Names(saving_lib.H5IOStore):  # type: ignore[misc]
    """In place of a file: keeps what it is given. Keras has no public way to ask for the paths."""

    def __init__(self) -> None:
        self.variables: dict[str, Any] = {}
        self._path = ""

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: object = None) -> "_Names":
        self._path = f"{path}/vars" if path else "vars"
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        self.variables[f"{self._path}/{key}"] = value


def _arrays(file: h5py.File) -> Arrays:
    """All arrays of a file by their paths, from declarations alone; no link is followed unseen."""
    arrays: dict[str, Any] = {}
    seen = {_address(file)}
    groups = [("", file)]
    while groups:
        above, group = groups.pop()
        for name in group:
            path = f"{above}/{name}".removeprefix("/")
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise Unfit(f"a link to elsewhere, {path!r}")
            kind = group.get(name, getclass=True)
            if kind not in (h5py.Group, h5py.Dataset):
                raise Unfit(f"neither a group nor an array, {path!r}")
            found = group[name]
            if (address := _address(found)) in seen:
                raise Unfit(f"two names for one thing, the second is {path!r}")
            seen.add(address)
            if len(seen) > MOST_OBJECTS:
                raise Unfit(f"more than {MOST_OBJECTS:,} groups and arrays")
            if kind is h5py.Group:
                groups.append((path, found))
            else:
                _require_plain(path, found)
                arrays[path] = found
    return arrays


def _address(found: Any) -> tuple[int, int]:
    told = h5py.h5o.get_info(found.id)
    return told.fileno, told.addr


def _require_plain(path: str, array: h5py.Dataset) -> None:
    """Numbers, all of them in this file, as they are."""
    made = array.id.get_create_plist()
    if made.get_layout() not in LAYOUTS:
        raise Unfit(f"an array made up of other files' arrays, {path!r}")
    if made.get_external_count():
        raise Unfit(f"an array that lies in another file, {path!r}")
    if made.get_nfilters():  # they unpack as much as they like; Keras writes none
        raise Unfit(f"a packed array, {path!r}")
    if type(array.id.get_type()) not in (h5py.h5t.TypeFloatID, h5py.h5t.TypeIntegerID):
        raise Unfit(f"an array of something else than numbers, {path!r}")
    if array.shape is None:
        raise Unfit(f"an array without a shape, {path!r}")
    item = array.id.get_type().get_size()
    declared = math.prod(array.shape) * item
    if array.id.get_storage_size() < declared:
        raise Unfit(f"{declared:,} bytes that are declared but not there, {path!r}")
    if array.chunks and math.prod(array.chunks) * item > declared + 2**20:
        raise Unfit(f"chunks larger than their array, {path!r}")


def _old_names(arrays: Arrays) -> Arrays:
    """As TensorFlow 2.13 wrote it, `layers` had another name, which Keras still reads."""
    old = "_layer_checkpoint_dependencies/"
    return {path.replace(old, "layers/", 1): array for path, array in arrays.items()}


def _require_those(
    found: Arrays, wanted: Arrays, with_top: Callable[[], keras.Model] | None
) -> None:
    for path, variable in wanted.items():
        if path not in found:
            raise Unfit(f"no {path!r}")
        _require_same(path, found[path], variable)
    # What a compiled model leaves of its optimizer is not read.
    more = {path for path in found if not path.startswith("optimizer/")} - wanted.keys()
    if more and with_top is not None:
        more -= saved_as(with_top()).keys()
    if more:
        raise Unfit(f"a weight that the network does not have, {min(more)!r}")


def _require_heaps_that_end(file: h5py.File, path: Path) -> None:
    """Free space of no size in a heap of texts keeps HDF5 1.14 busy for ever (HDFGroup/hdf5#1707).

    The layout is that of the HDF5 file format, version 3.0, III.E, "Disk Format: Level 1E - Global
    Heap", with lengths of 8 bytes.
    """
    if file.id.get_create_plist().get_sizes() != (8, 8):
        raise Unfit("addresses and lengths of another size than 8 bytes")
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as read:
        heap = read.find(HEAP)
        while heap >= 0:
            at = heap + 16
            end = min(heap + int.from_bytes(read[heap + 8 : at], "little"), len(read))
            while at + 16 <= end:
                index, size = struct.unpack_from("<H6xQ", read, at)
                if index == size == 0:
                    raise Unfit("texts that never end")
                at += 16 + (size + 7) // 8 * 8 if index else size
            heap = read.find(HEAP, heap + 1)


def _require_layers(file: h5py.File, model: keras.Model) -> None:
    """The legacy format: layers and their weights in the network's order, by any names."""
    root = file if "layer_names" in file.attrs else file.get("model_weights", file)
    layers = [
        (name, names)
        for name in load_attributes_from_hdf5_group(root, "layer_names")
        if (names := load_attributes_from_hdf5_group(root[name], "weight_names"))
    ]
    found = [(f"{layer}/{name}", root[layer][name]) for layer, names in layers for name in names]
    wanted = [_in_legacy_order(layer) for layer in model.layers if layer.weights]
    variables = [variable for of_layer in wanted for variable in of_layer]
    if [len(names) for _, names in layers] != [len(of_layer) for of_layer in wanted]:
        raise Unfit(
            f"{len(found)} weights in {len(layers)} layers, not {len(variables)} in {len(wanted)}"
        )
    for (path, array), variable in zip(found, variables, strict=True):
        _require_same(path, array, variable)
    used = {array.name for _, array in found}
    every: list[str] = []
    root.visititems(
        lambda _, each: every.append(each.name) if isinstance(each, h5py.Dataset) else None
    )
    if more := set(every) - used:
        raise Unfit(f"a weight that belongs to no layer, {min(more)!r}")


def _in_legacy_order(layer: keras.layers.Layer) -> list[Any]:
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _require_same(path: str, array: Any, variable: Any) -> None:
    if not isinstance(array, h5py.Dataset) or tuple(array.shape) != tuple(variable.shape):
        raise Unfit(
            f"{path!r} of shape {getattr(array, 'shape', 'none')}, not {tuple(variable.shape)}"
        )
    if "float" in str(variable.dtype) and array.dtype.kind != "f":
        raise Unfit(f"{path!r} of {array.dtype}, not of {variable.dtype}")
