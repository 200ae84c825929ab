"""An RGB picture of any size to a square array. Pure.

Promises uint8, shape (size, size, 3), RGB. An image that already has the right size comes back
with its own values: no filter touches it.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FITS = ("squash", "crop", "pad")
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


def resize(image: Image.Image, size: int, fit: str, interpolation: str) -> NDArray[np.uint8]:
    """Fit an RGB `image` into `size` by `size` pixels; returns an array of shape (size, size, 3).

    `fit` is one of `FITS`: "squash" scales both sides to `size`, whatever the proportions;
    "crop" scales the shorter side and keeps the centre of the longer one; "pad" scales the longer
    side and centres the picture on black. `interpolation` is a key of `INTERPOLATIONS`; all but
    "nearest" widen their filter when they shrink, so nothing aliases.
    """
    if image.mode != "RGB":
        raise ValueError(f"resize: expected an image of mode 'RGB', got {image.mode!r}")
    filter_ = INTERPOLATIONS[interpolation]
    if fit == "squash":
        fitted = image.resize((size, size), filter_)
    elif fit == "crop":
        fitted = image.resize((size, size), filter_, box=_centre(image.width, image.height))
    elif fit == "pad":
        fitted = _pad(image, size, filter_)
    else:
        raise ValueError(f"resize: expected a fit of {FITS}, got {fit!r}")
    return np.array(fitted, dtype=np.uint8)


def _centre(width: int, height: int) -> tuple[int, int, int, int]:
    """The middle square, as (left, top, right, bottom).

    It begins on a whole pixel, at most half a pixel off centre: between two pixels, even an image
    that needs no scaling would be blurred.
    """
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _pad(image: Image.Image, size: int, filter_: Image.Resampling) -> Image.Image:
    longer = max(image.size)
    width, height = (max(1, (side * size + longer // 2) // longer) for side in image.size)
    square = Image.new("RGB", (size, size))  # black
    square.paste(
        image.resize((width, height), filter_), ((size - width) // 2, (size - height) // 2)
    )
    return square
