"""Keras internals without a public equivalent, as of Keras 3.15.1.

Only this module imports `keras.src` or `keras_hub.src`, or touches attributes of Keras that begin
with an underscore.
"""

import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
from keras.src.saving import saving_lib
from keras.src.utils import file_utils


def saved_variables(model: keras.Model) -> dict[str, Any]:
    """Return a model's variables by the paths that `save_weights` would write; none is copied."""
    recorder = _Recorder()
    saving_lib._save_state(model, recorder, None, "", set())
    return recorder.variables


class _Recorder(saving_lib.H5IOStore):  # type: ignore[misc]
    """Record what Keras would write to a file."""

    def __init__(self) -> None:
        self.variables: dict[str, Any] = {}
        self._path = ""

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: object = None) -> "_Recorder":
        self._path = f"{path}/vars" if path else "vars"
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        self.variables[f"{self._path}/{key}"] = value


class Published(NamedTuple):
    """A file that Keras publishes."""

    name: str  # in Keras' folder
    url: str
    hash: str | None  # md5 or sha256 in hex; Keras has none for MobileNet and MobileNetV2


class _Requested(Exception):  # noqa: N818  ends a function of Keras once it has asked for a file
    pass


def requested_file(function: Callable[[], object]) -> Published:
    """Return the file for which a function of Keras calls `get_file`; download nothing."""

    def record(fname: str, origin: str, *, file_hash: str | None = None, **_: Any) -> None:
        raise _Requested(fname, origin, file_hash)

    original = file_utils.get_file
    file_utils.get_file = record
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # MobileNets warn that no size is set
            function()
    except _Requested as request:
        return Published(*request.args)
    finally:
        file_utils.get_file = original
    raise RuntimeError("Keras no longer requests its files through get_file")


def preset_file(preset: str, name: str) -> str:
    """Return the path of a file of a KerasHub preset, which is downloaded unless it is here."""
    utilities = importlib.import_module("keras_hub.src.utils.preset_utils")
    return str(utilities.get_file(preset, name))


def operation_of(tensor: Any) -> Any:
    """Return the operation that made a symbolic tensor."""
    return tensor._keras_history.operation


def producers(call: Any) -> Iterator[str]:
    """Yield the names of the operations that made the tensors in a call's serialized arguments."""
    if isinstance(call, dict):
        if "keras_history" in call:
            yield call["keras_history"][0]
        call = list(call.values())
    if isinstance(call, (list, tuple)):
        for argument in call:
            yield from producers(argument)
