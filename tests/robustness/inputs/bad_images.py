"""Image files that are damaged, hostile, odd, or not images."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from bad_inputs import table
from PIL import Image

INTRO = "One more file in a class. An accepted one has this mode, width and height."


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(width: int, height: int, depth: int, color: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, content) for kind, content in (header, *chunks, (b"IEND", b""))
    )


def lossless_jpeg(width: int, height: int) -> bytes:
    """Return a gray lossless JPEG (ITU-T T.81, annex H): without blocks, all differences 0."""
    frame = b"\xff\xc3" + struct.pack(">HBHHB3B", 11, 8, height, width, 1, 1, 0x11, 0)
    table = b"\xff\xc4" + struct.pack(">HB16BB", 20, 0, 1, *[0] * 15, 0)
    scan = b"\xff\xda" + struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8" + frame + table + scan + bytes(width * height // 8) + b"\xff\xd9"


def exif_jpeg(exif: bytes) -> bytes:
    return encoded(noise(8, 6), "JPEG", exif=exif)


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue", "lime")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def webp_canvas(width: int, height: int) -> bytes:
    """Return an animated WebP that declares other sides (RFC 9649, 2.7): 24 bits each, less one."""
    content = bytearray(animated("WEBP"))
    at = content.index(b"VP8X") + 12
    content[at : at + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(content)


def half(kind: str) -> bytes:
    content = encoded(noise(64, 48), kind)
    return content[: len(content) // 2]


def exif_orientation(number: int) -> bytes:
    entry = b"\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([number, 0, 0, 0]) + bytes(4)
    return exif_jpeg(b"Exif\0\0II*\0\x08\0\0\0" + entry)


def text_bomb() -> bytes:
    text = (b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))
    return png(1, 1, 8, 0, text, (b"IDAT", zlib.compress(b"\0\0")))


def bad_huffman(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xc4") + 5
    return jpeg[:at] + b"\xff" * 16 + jpeg[at + 16 :]


def zeros_inside(jpeg: bytes) -> bytes:
    middle = len(jpeg) // 2
    return jpeg[:middle] + bytes(200) + jpeg[middle + 200 :]


def damaged_png() -> bytes:
    content = bytearray(encoded(noise(64, 48), "PNG"))
    content[content.index(b"IDAT") + 100] ^= 0xFF
    return bytes(content)


GREY16 = Image.fromarray(np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16))
PSD = b"8BPS\0\x01" + bytes(6) + b"\0\x03" + struct.pack(">IIHH", 4, 4, 8, 3) + bytes(64)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
HEIC = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic")
KB_OF_ZEROS = (b"IDAT", zlib.compress(bytes(1000)))

# Those that are not bytes are made from a good JPEG of 64 x 48 pixels.
INPUTS = table(
    {
        "rejected: empty file": {"no byte": b""},
        "rejected: not an image of a known format ... ": {
            "a text named .jpg": b"a cat, in words\n" * 20,
            "an HTML page, as failed downloads leave it": b"<!DOCTYPE html><html>404",
        },
        **{
            f"rejected: {kind} is not read; convert it to JPEG or PNG": {name: content}
            for kind, name, content in (
                ("Photoshop", "a Photoshop file named .jpg", PSD),
                ("PostScript", "PostScript named .jpg; nothing is run", EPS),
                ("SVG", "a drawing in SVG", SVG),
                ("PDF", "a PDF named .jpg", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n"),
                ("HEIC", "a HEIC of a phone", HEIC + bytes(100)),
                ("JPEG 2000", "a JPEG 2000 named .jpg", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100)),
            )
        },
        "rejected: truncated image": {
            "half a JPEG": lambda jpeg: jpeg[: len(jpeg) // 2],
            "a JPEG without its last two bytes, which mark its end": lambda jpeg: jpeg[:-2],
            "half a PNG": half("PNG"),
            "half a GIF": half("GIF"),
            "half a TIFF": half("TIFF"),
            "a PNG of 1 KB that declares 9,000 x 9,000 pixels": png(
                9_000, 9_000, 8, 2, KB_OF_ZEROS
            ),
        },
        "rejected: damaged image: could not create decoder object": {"half a WebP": half("WEBP")},
        "rejected: damaged image: cannot load this image": {
            "a JPEG up to its first scan": lambda jpeg: jpeg[: jpeg.index(b"\xff\xda")]
        },
        "rejected: damaged image: broken data stream when reading image file": {
            "a JPEG with too many codes in its Huffman table": bad_huffman,
            "a PNG with a byte of its pixels changed": damaged_png(),
        },
        "rejected: damaged image: Decompressed data too large ... ": {
            "a PNG with a text that expands to 80 MB": lambda _: text_bomb()
        },
        "rejected: 400.0 megapixels declared, at most 100": {
            "a PNG of 1 KB that declares 20,000 x 20,000 pixels": png(
                20_000, 20_000, 8, 2, KB_OF_ZEROS
            )
        },
        "rejected: a side of 16,711,684 pixels declared, at most 100,000": {
            "a PNG that declares 4 x 16,711,684 pixels": png(
                4, 16_711_684, 8, 3, (b"PLTE", bytes(3)), (b"IDAT", b"")
            )
        },
        "rejected: 64.0 megapixels declared, at most 50": {
            "a WebP that declares 8,000 x 8,000 pixels": webp_canvas(8_000, 8_000)
        },
        "rejected: a TIFF with ... samples; save it with unsigned samples of 8 bits": {
            "a gray TIFF of signed numbers of 32 bits": encoded(
                Image.fromarray(np.array([[65536]], dtype=np.int32)), "TIFF"
            ),
            "a gray TIFF of floating-point numbers": encoded(Image.new("F", (2, 2)), "TIFF"),
        },
        "rejected: pixels of mode ... , which stand for no certain RGB value": {
            "a TIFF in L*a*b* colors": encoded(Image.new("LAB", (2, 2)), "TIFF"),
        },
        "accepted: RGB, 64 x 48": {
            "a JPEG with 1,000 more bytes behind its end": lambda jpeg: jpeg + bytes(1000),
            "a JPEG with zeros in its scan, which only the CRC of a zip notices": zeros_inside,
        },
        "accepted: RGB, 1 x 1": {"a PNG of 1 x 1 pixel": encoded(noise(1, 1), "PNG")},
        "accepted: RGB, 8 x 6": {
            "a PNG named .jpg": encoded(noise(8, 6), "PNG"),
            "a JPEG with half an EXIF block": exif_jpeg(b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"),
            "a JPEG with the unknown orientation 99": exif_orientation(99),
            "a JPEG with a broken color profile, which is ignored": encoded(
                noise(8, 6), "JPEG", icc_profile=b"no profile"
            ),
        },
        "accepted: RGB, 6 x 8": {
            "a JPEG with EXIF orientation 6, turned upright": exif_orientation(6)
        },
        "accepted: CMYK, 8 x 8": {"a JPEG in CMYK": encoded(Image.new("CMYK", (8, 8)), "JPEG")},
        "accepted: I;16, 16 x 16": {"a gray PNG of 16 bits, scaled to 8": encoded(GREY16, "PNG")},
        "accepted: RGBA, 4 x 4": {
            "a transparent PNG, composited on white": encoded(Image.new("RGBA", (4, 4)), "PNG")
        },
        "accepted: P, 4 x 4": {
            "a palette PNG with a transparent color, composited on white": encoded(
                Image.new("P", (4, 4)), "PNG", transparency=0
            ),
            "a GIF of three images; the first counts": animated("GIF"),
        },
        "accepted: 1, 4 x 4": {"a PNG of 1 bit per pixel": encoded(Image.new("1", (4, 4)), "PNG")},
        "accepted: L, 64 x 64": {"a lossless JPEG": lossless_jpeg(64, 64)},
        "accepted: RGB, 4 x 4": {
            "a WebP of three images; the first counts": animated("WEBP"),
            "a TIFF of three pages; the first counts": animated("TIFF"),
        },
    }
)
