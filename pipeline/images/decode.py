"""Bytes to an upright RGB picture, or `Unreadable` with the reason.

Pure: no files. An image is judged by decoding the whole of it, never by its name or its
first bytes. `inspect` and `decode` take the same path, so what one accepts the other decodes;
`decode_reduced` takes it too wherever its shorter path does not arrive.

Colour profiles (ICC) are ignored: the numbers in the file are taken as sRGB, as the networks were
trained on. Of an animation or a file of several pages, the first picture counts.
"""

import math
import re
import threading
import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # all other parsers stay out of reach
MAX_PIXELS = (
    100_000_000  # the largest cameras; 300 MB as RGB, while 48 KB can declare 400 megapixels
)

MAX_SIDE = 100_000  # JPEG and TIFF hold 65,535; Pillow takes 8 bytes a line beside its pixels
MAX_PIXELS_OF = {"WEBP": 50_000_000}  # libwebp holds four pictures of 4 bytes a pixel at a time
STRIP = 2**22  # pixels that are laid on white at a time
MAX_SCANS = 64  # of the largest progressive JPEG, more of smaller ones; ten are usual

# Pillow's own limit is lower, cannot be given per call, and warns where it should refuse;
# `_open` holds the declared size against MAX_PIXELS before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None

_UPRIGHT = {  # EXIF orientation -> what undoes it (Exif 3.0, tag 0x0112)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)  # those that swap width and height
_FACTORS = (8, 4, 2, 1)  # by which libjpeg can reduce (libjpeg-turbo's libjpeg.txt, "scaling")
_MAX_REASON = 120  # characters of Pillow's own words that a reason keeps


class Unreadable(Exception):  # noqa: N818  it is a finding about one file, not an error of the run
    """One file that gives no image; the message is a short reason, the same on every run."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What `inspect` finds: pixels as shown (after orientation), Pillow's mode as stored."""

    width: int
    height: int
    mode: str
    format: str  # one of FORMATS


@dataclass(frozen=True, slots=True)
class Reduced:
    """RGB and upright; one pixel of `image` stands for `factor` by `factor` of the picture's.

    Where `factor` does not divide a side, the last column or row of `image` stands for fewer.
    """

    image: Image.Image
    whole: tuple[int, int]  # width, height of the picture as shown, before it was reduced
    factor: int  # one of `_FACTORS`; 1: nothing was reduced


def inspect(content: bytes) -> Facts:
    """Decode the whole image and tell its facts; raises `Unreadable`."""
    return _decode(content)[0]


def inspect_and_decode(content: bytes) -> tuple[Facts, Image.Image]:
    """Both at once."""
    facts, decoded = _decode(content)
    return facts, decoded.image


def decode(content: bytes) -> Image.Image:
    """The image as RGB, upright, transparent parts on white; raises `Unreadable`."""
    return _decode(content)[1].image


def decode_reduced(content: bytes, at_least: int | None) -> Reduced:
    """What `decode` gives, a JPEG possibly at 1/2, 1/4 or 1/8 of its sides; raises `Unreadable`.

    A JPEG is reduced while it is decoded, by the largest factor that leaves both sides `at_least`
    (1 or more) pixels; with `at_least` None nothing is. It saves a third of the decoding, and most
    of the memory and of the resampling after it; `resize.enough` tells what it costs.
    """
    if at_least is None:
        return _decode(content)[1]
    try:
        return _decode(content, at_least)[1]
    except Unreadable:  # a lossless JPEG cannot be reduced, and perhaps others cannot
        return _decode(content)[1]


def _decode(content: bytes, at_least: int | None = None) -> tuple[Facts, Reduced]:
    if not content:
        raise Unreadable("empty file")
    _silence_pillow()
    try:
        image = _open(content)
        mode, kind, stored = image.mode, image.format or "", image.size
        factor = 1 if at_least is None else _reduce(image, at_least)
        image.load()
        orientation = _orientation(image)
        shown = _upright(_rgb(image), orientation)
    except (Unreadable, MemoryError):
        raise
    # Parsers of hostile bytes raise what they trip over (Pillow's fuzz test lists ten types), and
    # whatever decoding raises is a fault of these bytes.
    except Exception as error:
        raise Unreadable(_reason(error)) from error
    whole = shown.size
    if factor > 1:
        whole = stored if orientation not in _TURNED else (stored[1], stored[0])
    # A phone's JPEG with a second picture behind it is "MPO" to Pillow.
    facts = Facts(*whole, mode, "JPEG" if kind == "MPO" else kind)
    return facts, Reduced(shown, whole, factor)


def _open(content: bytes) -> Image.Image:
    image = Image.open(BytesIO(content), formats=FORMATS)
    pixels = image.width * image.height
    limit = MAX_PIXELS_OF.get(image.format or "", MAX_PIXELS)
    if pixels > limit:
        raise Unreadable(f"{pixels / 1e6:.1f} megapixels declared, at most {limit // 1_000_000}")
    if max(image.size) > MAX_SIDE:
        raise Unreadable(f"a side of {max(image.size):,} pixels declared, at most {MAX_SIDE:,}")
    if pixels <= 0:
        raise Unreadable("no pixels declared")
    if image.info.get("progressive"):
        # Every scan passes over all pixels, and a few bytes can be a scan: minutes in a megabyte.
        scans, most = content.count(b"\xff\xda"), MAX_SCANS * MAX_PIXELS // pixels
        if scans > most:
            raise Unreadable(f"{scans:,} scans of {pixels / 1e6:.1f} megapixels, at most {most:,}")
    return image


def _reduce(image: Image.Image, at_least: int) -> int:
    """Have `image` decoded at 1/factor of its sides, if it can be; returns the factor."""
    if image.format not in ("JPEG", "MPO"):
        return 1
    factor = next((f for f in _FACTORS if min(image.size) >= f * at_least), 1)
    if _orientation(image) in _UPRIGHT:  # a last column of fewer pixels would become the first
        factor = math.gcd(factor, *image.size)
    size = (image.width // factor, image.height // factor)
    return factor if factor > 1 and image.draft(None, size) else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _grey_of_16_bits(image)
    if image.mode in ("F", "LAB"):
        raise Unreadable(f"pixels of mode {image.mode!r}, which stand for no certain RGB value")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    white, rows = Image.new("RGB", image.size, "white"), max(1, STRIP // image.width)
    for top in range(0, image.height, rows):  # a whole copy more would be of 4 bytes a pixel
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white.paste(strip, (0, top), mask=strip)
    return white


def _grey_of_16_bits(image: Image.Image) -> Image.Image:
    """0..65535 to 0..255; `convert` would saturate all above 255."""
    grey = np.asarray(image)  # (height, width), uint16 or int32
    if grey.min() < 0 or grey.max() > 65535:
        raise Unreadable("grey values outside 0 to 65535")
    scaled = np.minimum(grey, 65407)  # in place from here, and no sum above 65535: these are large
    scaled += 128
    scaled //= 257  # 65535 = 255 * 257, to the nearest
    if "transparency" in image.info:  # PNG's one grey value that is not shown
        scaled[grey == image.info["transparency"]] = 255
    return Image.fromarray(scaled.astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """1 to 8; where the EXIF block is broken the picture is shown as stored, as viewers do."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the picture is whole; only the note about it is not
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation not in _UPRIGHT:
        return image
    return image.transpose(_UPRIGHT[orientation])


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of a known format ({', '.join(FORMATS)})"
    told = " ".join(re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "", str(error)).split())
    if isinstance(error, EOFError) or "truncated" in told.lower():
        return "truncated image"
    return f"damaged image: {told[:_MAX_REASON] or type(error).__name__}"


_FILTER_LOCK = threading.Lock()
_FILTER = ("ignore", None, UserWarning, re.compile(r"PIL\."), 0)


def _silence_pillow() -> None:
    """Keep Pillow's remarks about odd metadata out of the logs; a reason says what matters.

    `warnings.catch_warnings` swaps the filters of the whole process, which threads cannot share.
    This filter is put in front once and stays. It meets only warnings that Pillow's modules raise
    about the bytes they read: Pillow's deprecations are laid to the calling module and still show.
    It is looked for at each call because others (pytest, for each test) reset the list.
    """
    with _FILTER_LOCK:
        if _FILTER not in warnings.filters:
            warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
