"""Resize an RGB image of any size to a square array, uint8 (size, size, 3), RGB. Pure.

An image that already has the right size keeps its values: no filter touches it.

The filters are Pillow's, computed by `cykooz.resizer` in a third of the time, with the same
integers on every kind of processor. On 400 photos, bicubic, Pillow's own values differ by 1 of 255
levels in a seventh of the values, and by more in one of 10,000, beside hard edges: 26 at most.
"""

import threading

import numpy as np
from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer
from numpy.typing import NDArray
from PIL import Image

from pipeline.images import decode

FITS = ("squash", "crop", "pad")
INTERPOLATIONS = {
    "nearest": ResizeAlg.nearest(),
    "bilinear": ResizeAlg.convolution(FilterType.bilinear),
    "bicubic": ResizeAlg.convolution(FilterType.catmull_rom),  # Keys, a = -1/2, as in Pillow
    "lanczos": ResizeAlg.convolution(FilterType.lanczos3),
    "box": ResizeAlg.convolution(FilterType.box),
}
_EXACT = ("nearest", "box")  # one pixel more or less changes their result much

_thread = threading.local()  # its `resizer` keeps buffers, for one image at a time


def min_side(size: int, interpolation: str) -> int | None:
    """Return how many pixels a side must keep when an image is reduced before `resize`.

    That is twice `size`, as in Pillow's `Image.thumbnail` (`reducing_gap`), or None: all of them.
    652 photos at 64 pixels, against those from the full image, differ by 0.3 of 255 levels on
    average, 99 % of the values by 2 at most; "box" would differ by 0.6 to 2.5 on average.
    """
    return None if interpolation in _EXACT else 2 * size


def decode_and_resize(content: bytes, size: int, fit: str, interpolation: str) -> NDArray[np.uint8]:
    """Return the pixels, (size, size, 3), of an image file's bytes; raise `decode.Unreadable`."""
    found = decode.decode(content, min_side(size, interpolation))
    return resize(found.image, size, fit, interpolation, found.original_size, found.factor)


def resize(
    image: Image.Image,
    size: int,
    fit: str,
    interpolation: str,
    original_size: tuple[int, int] | None = None,
    factor: int = 1,
) -> NDArray[np.uint8]:
    """Fit an RGB `image` into a read-only array of shape (size, size, 3).

    Args:
        fit: "squash" scales both sides to `size` and ignores the proportions; "crop" scales the
            shorter side and keeps the center of the longer one; "pad" scales the longer side and
            centers the image on black.
        interpolation: a key of `INTERPOLATIONS`; all but "nearest" widen their filter when they
            shrink, so that nothing aliases.
        original_size: width and height before `image` was reduced by `factor`; the same part of
            the image is taken as without the reduction, to a fraction of a pixel.
    """
    width, height = original_size or image.size
    left, top, across, down = 0, 0, width, height
    target = size, size
    if fit == "crop":
        # On a pixel border: between two pixels, even an unscaled image would be blurred.
        across = down = min(width, height)
        left, top = (width - across) // 2, (height - down) // 2
    elif fit == "pad":
        longer = max(width, height)
        scaled = [(side * size + longer // 2) // longer for side in (width, height)]  # rounded
        target = max(1, scaled[0]), max(1, scaled[1])
    box = CropBox(left / factor, top / factor, across / factor, down / factor)
    if not hasattr(_thread, "resizer"):
        _thread.resizer = Resizer()
    fitted = Image.new("RGB", target)
    options = ResizeOptions(INTERPOLATIONS[interpolation], crop_box=box)
    _thread.resizer.resize_pil(image, fitted, options)
    if target != (size, size):
        square = Image.new("RGB", (size, size))  # black
        square.paste(fitted, ((size - target[0]) // 2, (size - target[1]) // 2))
        fitted = square
    return np.asarray(fitted)
