"""Where Keras publishes its ImageNet weights, and the hashes that it knows of them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras.applications import imagenet_utils
from keras.src.utils import file_utils


@dataclass(frozen=True)
class Published:
    """A file for everybody.

    Attributes:
        name: in Keras' folder.
        url: where it is.
        hash: md5 or sha256 in hex; None for MobileNet and MobileNetV2, of which Keras gives none.
    """

    name: str
    url: str
    hash: str | None


def weights(name: str, include_top: bool) -> Published:
    """The ImageNet weights of one of `keras.applications`."""
    return _asked_for(
        lambda: getattr(keras.applications, name)(weights="imagenet", include_top=include_top)
    )


def class_index() -> Published:
    """The names of the 1,000 ImageNet classes."""
    return _asked_for(lambda: imagenet_utils.decode_predictions(np.zeros((1, 1000))))


class _Asked(Exception):  # noqa: N818  it ends a function of Keras once that has told
    def __init__(self, file: Published) -> None:
        super().__init__(file)
        self.file = file


def _asked_for(function: Callable[[], Any]) -> Published:
    """The file for which a function of Keras calls `get_file`: only there it tells the address."""

    def stand_in(fname: str, origin: str, *, file_hash: str | None = None, **_: Any) -> None:
        raise _Asked(Published(fname, origin, file_hash))

    own = file_utils.get_file
    file_utils.get_file = stand_in
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of MobileNets, that no size is given
            function()
    except _Asked as told:
        return told.file
    finally:
        file_utils.get_file = own
    raise RuntimeError("Keras asks for its files in another way now")
