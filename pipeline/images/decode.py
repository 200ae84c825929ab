"""Decode image bytes to an upright RGB image, or raise `Unreadable` with the reason.

Pure. An image is accepted if all of it decodes, whatever its name or first bytes. Color profiles
(ICC) are ignored: values are taken as sRGB, which the networks were trained on. Of an animation or
a file of several pages, the first image counts.
"""

import math
import re
import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # no other parser can be reached
MAX_PIXELS = 100_000_000  # the largest cameras; a file of 48 KB can declare 400 megapixels
MAX_PIXELS_OF = {"WEBP": 50_000_000}  # libwebp holds four images of 4 bytes a pixel at a time
MAX_SIDE = 100_000  # JPEG and TIFF hold 65,535; Pillow takes 8 bytes a row beside its pixels

Image.MAX_IMAGE_PIXELS = None  # its own limit is lower and only warns; `_open` has another
# Of the odd bytes that Pillow warns about, an `Unreadable` reports what matters.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_UPRIGHT = {  # EXIF orientation -> the operation that undoes it (Exif 3.0, tag 0x0112)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FACTORS = (8, 4, 2, 1)  # by which libjpeg can reduce (libjpeg-turbo's libjpeg.txt, "scaling")


class Unreadable(Exception):  # noqa: N818  a result about one file, not an error of the run
    """A file that gives no image; the message is a short reason, the same in every run."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright RGB image at 1/factor of its sides; the last column or row may stand for less."""

    image: Image.Image  # transparent parts on white
    original_size: tuple[int, int]  # width, height, in pixels, upright, before the reduction
    factor: int  # one of `_FACTORS`; 1: not reduced
    mode: str  # Pillow's, as stored


def decode(content: bytes, min_side: int | None = None) -> Decoded:
    """Decode an image file's bytes; raise `Unreadable`.

    With `min_side` (1 or more), a JPEG is reduced while it is decoded: by the largest factor that
    leaves both sides at least `min_side` pixels. This saves a third of the decoding, and most of
    the memory and the resampling after it; `resize.min_side` documents the effect on the pixels.
    """
    try:
        return _decode(content, min_side)
    except Unreadable:  # a lossless JPEG cannot be reduced, and perhaps others cannot
        if min_side is None:
            raise
        return _decode(content, None)


def _decode(content: bytes, min_side: int | None) -> Decoded:
    if not content:
        raise Unreadable("empty file")
    try:
        image = _open(content)
        mode, size = image.mode, image.size
        factor = 1 if min_side is None else _reduce(image, min_side)
        image.load()
        orientation = _orientation(image)
        upright = _rgb(image)
        if orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[orientation])
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # Pillow's own fuzz test lists ten types, all faults of the bytes
        raise Unreadable(_reason(error)) from error
    if factor == 1:
        size = upright.size
    elif orientation in (5, 6, 7, 8):  # which swap the sides
        size = size[1], size[0]
    return Decoded(upright, size, factor, mode)


def _open(content: bytes) -> Image.Image:
    image = Image.open(BytesIO(content), formats=FORMATS)
    pixels = image.width * image.height
    limit = MAX_PIXELS_OF.get(image.format or "", MAX_PIXELS)
    if pixels > limit:
        raise Unreadable(f"{pixels / 1e6:.1f} megapixels declared, at most {limit // 1_000_000}")
    if max(image.size) > MAX_SIDE:
        raise Unreadable(f"a side of {max(image.size):,} pixels declared, at most {MAX_SIDE:,}")
    return image


def _reduce(image: Image.Image, min_side: int) -> int:
    """Configure `image` to decode at 1/factor of its sides, if it can; return the factor."""
    if image.format not in ("JPEG", "MPO"):  # "MPO": a phone's JPEG with a second image behind it
        return 1
    factor = next((f for f in _FACTORS if min(image.size) >= f * min_side), 1)
    if _orientation(image) in _UPRIGHT:  # a last column of fewer pixels would become the first
        factor = math.gcd(factor, *image.size)
    size = (image.width // factor, image.height // factor)
    return factor if factor > 1 and image.draft(None, size) else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _gray_from_16_bits(image)
    if image.mode in ("F", "LAB"):
        raise Unreadable(f"pixels of mode {image.mode!r}, which stand for no certain RGB value")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    white, transparent = Image.new("RGB", image.size, "white"), image.convert("RGBA")
    white.paste(transparent, mask=transparent)
    return white


def _gray_from_16_bits(image: Image.Image) -> Image.Image:
    """Map 0..65535 to 0..255; `convert` would saturate all values above 255."""
    gray = np.asarray(image)  # (height, width), uint16 or int32
    if gray.min() < 0 or gray.max() > 65535:
        raise Unreadable("grey values outside 0 to 65535")
    # In place, and clipped so that no sum exceeds 65535: these arrays are large.
    scaled = np.minimum(gray, 65407)
    scaled += 128
    scaled //= 257  # 65535 = 255 * 257, rounded to the nearest
    if "transparency" in image.info:  # PNG's one transparent gray value
        scaled[gray == image.info["transparency"]] = 255
    return Image.fromarray(scaled.astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """Return 1 to 8; with a broken EXIF block 1, as viewers do."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels are intact, only the metadata is not
        return 1


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of a known format ({', '.join(FORMATS)})"
    message = " ".join(re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "", str(error)).split())
    if isinstance(error, EOFError) or "truncated" in message.lower():
        return "truncated image"
    return f"damaged image: {message[:120] or type(error).__name__}"
