"""Decode image bytes to an upright RGB image, or raise `Unreadable` with the reason.

Pure. An image is accepted if all of it decodes, whatever its name or first bytes. Color profiles
(ICC) are ignored: values are taken as sRGB, which the networks were trained on. Of an animation or
a file of several pages, the first image of full size counts.
"""

import math
import re
import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.images import tiff
from pipeline.runtime.errors import Unreadable as Unreadable  # which callers catch

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
_OTHERS = {  # first bytes, after as many others -> format (the formats' own specifications)
    "HEIC": [(4, b"ftyp" + brand) for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")],
    "AVIF": [(4, b"ftypavif"), (4, b"ftypavis")],
    "JPEG XL": [(0, b"\xff\n"), (4, b"JXL \r\n")],
    "JPEG 2000": [(4, b"jP  \r\n"), (0, b"\xffO\xffQ")],
    "DICOM": [(128, b"DICM")],
    "FITS": [(0, b"SIMPLE  =")],
    "PDF": [(0, b"%PDF")],
    "PostScript": [(0, b"%!PS")],
    "Photoshop": [(0, b"8BPS")],
    "SVG": [(0, b"<svg"), (0, b"<?xml")],
    "a kind of TIFF": [(0, b"II*\0"), (0, b"MM\0*"), (0, b"II+\0"), (0, b"MM\0+")],
}
_ARCHIVES = {
    "a zip": [(0, b"PK\3\4")],
    "a RAR archive": [(0, b"Rar!")],
    "a 7-Zip archive": [(0, b"7z\xbc\xaf\x27\x1c")],
    "a tar.gz archive": [(0, b"\x1f\x8b")],
    "a tar.bz2 archive": [(0, b"BZh")],
    "a tar.xz archive": [(0, b"\xfd7zXZ")],
    "a tar.zst archive": [(0, b"\x28\xb5\x2f\xfd")],
    "a tar archive": [(257, b"ustar")],
}
_FACTORS = (8, 4, 2, 1)  # by which libjpeg can reduce (libjpeg-turbo's libjpeg.txt, "scaling")


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
        mode, size, canvas = image.mode, image.size, image.size
        box = image.tile[0][1] if image.format == "GIF" else None  # of the first frame
        factor = 1 if min_side is None else _reduce(image, min_side)
        image.load()
        orientation = _orientation(image)
        upright = _rgb(image)
        if box not in (None, (0, 0, *canvas)):  # nothing was drawn beside the frame
            frame, upright = upright.crop(box), Image.new("RGB", canvas, "white")
            upright.paste(frame, box)
        if orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[orientation])
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # Pillow's own fuzz test lists ten types, all faults of the bytes
        raise Unreadable(_reason(error, content)) from error
    if factor == 1:
        size = upright.size
    elif orientation in (5, 6, 7, 8):  # which swap the sides
        size = size[1], size[0]
    return Decoded(upright, size, factor, mode)


def _open(content: bytes) -> ImageFile.ImageFile:
    image = Image.open(BytesIO(content), formats=FORMATS)
    if isinstance(image, TiffImageFile):
        tiff.select_page(image)
        tiff.require_readable(image)
    elif image.format == "PNG" and isinstance(key := image.info.get("transparency"), int | tuple):
        bits = content[24]  # of a sample: in the header, 8 + 4 + 4 + 4 + 4 bytes from the start
        if image.mode == "L" and bits < 8:  # Pillow scales the pixels, but not this value
            image.info["transparency"] = key * 255 // (2**bits - 1)
        elif bits == 16 and image.mode == "RGB":
            raise Unreadable("a PNG of 16 bits with a transparent color; save it with 8 bits")
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
    if image.mode.startswith("I;16"):
        image = _gray_from_16_bits(image)
    if image.mode in ("I", "F", "LAB"):
        raise Unreadable(f"pixels of mode {image.mode!r}, which stand for no certain RGB value")
    invisible = (
        image.format == "BMP"
        and image.mode == "RGBA"
        and not any(image.getchannel("A").getextrema())
    )
    if invisible or not image.has_transparency_data:  # such a BMP has no use for its fourth byte
        return image if image.mode == "RGB" else image.convert("RGB")
    white, transparent = Image.new("RGB", image.size, "white"), image.convert("RGBA")
    white.paste(transparent, mask=transparent)
    return white


def _gray_from_16_bits(image: Image.Image) -> Image.Image:
    """Map 0..limit to 0..255; `convert` would saturate all values above 255."""
    gray = np.asarray(image)  # (height, width), uint16
    limit, inverted = tiff.gray_range(image) if isinstance(image, TiffImageFile) else (65535, False)
    if gray.max() > limit:
        raise Unreadable(f"gray values above {limit:,}, which it declares as the largest one")
    levels = (np.arange(limit + 1) * 255 + limit // 2) // limit  # rounded to the nearest
    if inverted:
        levels = levels[::-1]
    scaled = levels.astype(np.uint8)[gray]
    if "transparency" in image.info:  # PNG's one transparent gray value
        scaled[gray == image.info["transparency"]] = 255
    return Image.fromarray(scaled)


def _orientation(image: Image.Image) -> int:
    """Return 1 to 8; with a broken EXIF block 1, as viewers do."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels are intact, only the metadata is not
        return 1


def _reason(error: Exception, content: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        if kind := archive_kind(content):
            return f"{kind}, no image; unpack it and give the folder"
        if kind := _kind(content, _OTHERS):
            return f"{kind} is not read; convert it to JPEG or PNG"
        return f"not an image of a known format ({', '.join(FORMATS)})"
    message = " ".join(re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "", str(error)).split())
    if isinstance(error, EOFError) or "truncated" in message.lower():
        return "truncated image"
    return f"damaged image: {message[:120] or type(error).__name__}"


def archive_kind(content: bytes) -> str | None:
    """Return which archive a file is by its first 512 bytes, if it is one."""
    return _kind(content, _ARCHIVES)


def _kind(content: bytes, kinds: dict[str, list[tuple[int, bytes]]]) -> str | None:
    for kind, starts in kinds.items():
        if any(content.startswith(start, after) for after, start in starts):
            return kind
    return None
