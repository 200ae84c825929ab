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


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def looped_tiff() -> bytes:
    """Return a TIFF with a first directory that names itself as the next."""
    content = encoded(noise(8, 6), "TIFF")
    (directory,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, directory)
    at = directory + 2 + 12 * count
    return content[:at] + content[4:8] + content[at + 4 :]


def fits(_: bytes) -> bytes:
    cards = ["SIMPLE  =                    T", "BITPIX  =                    8"]
    cards += ["NAXIS   =                    2", "NAXIS1  =                    4"]
    cards += ["NAXIS2  =                    4", "END"]
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode() + bytes(2880)


def heic(_: bytes) -> bytes:
    brand = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic")
    return brand + struct.pack(">I4s", 100, b"meta") + bytes(92)


GREY16 = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
PSD = b"8BPS\0\x01" + bytes(6) + b"\0\x03" + struct.pack(">IIHH", 4, 4, 8, 3) + bytes(64)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
ICO = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, 1128, 22) + bytes(1128)


def half(kind: str, **options: Any) -> bytes:
    content = encoded(noise(64, 48), kind, **options)
    return content[: len(content) // 2]


def exif_orientation(number: int) -> bytes:
    entry = b"\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([number, 0, 0, 0]) + bytes(4)
    return exif_jpeg(b"Exif\0\0II*\0\x08\0\0\0" + entry)


def declaring(jpeg: bytes, offset: int, size: bytes) -> bytes:
    """Return a JPEG with other bytes in its frame header, where height and width are."""
    at = jpeg.index(b"\xff\xc0") + offset
    return jpeg[:at] + size + jpeg[at + len(size) :]


def unknown_compression() -> bytes:
    old, new = (struct.pack("<HHIHH", 259, 3, 1, number, 0) for number in (1, 999))
    return encoded(noise(8, 6), "TIFF").replace(old, new)


def text_bomb() -> bytes:
    text = (b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))
    return png(1, 1, 8, 0, text, (b"IDAT", zlib.compress(b"\0\0")))


def header_last() -> bytes:
    pixels, header = zlib.compress(b"\0\0"), struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    chunks = chunk(b"IDAT", pixels) + chunk(b"IHDR", header) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def bad_huffman(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xc4") + 5
    return jpeg[:at] + b"\xff" * 16 + jpeg[at + 16 :]


def zeros_inside(jpeg: bytes) -> bytes:
    middle = len(jpeg) // 2
    return jpeg[:middle] + bytes(200) + jpeg[middle + 200 :]


def damaged_png() -> bytes:
    content = encoded(noise(64, 48), "PNG")
    return flipped(content, content.index(b"IDAT") + 100)


KB_OF_ZEROS = (b"IDAT", zlib.compress(bytes(1000)))

# Each is made from a good JPEG of 64 x 48 pixels.
INPUTS = table(
    {
        "rejected: empty file": {"no byte": lambda jpeg: b""},
        "rejected: not an image of a known format ... ": {
            "1,000 zero bytes": lambda jpeg: bytes(1000),
            "a text named .jpg": lambda jpeg: b"a cat, in words\n" * 20,
            "an HTML page, as failed downloads leave it": lambda jpeg: b"<!DOCTYPE html><html>404",
            "the first four bytes of a JPEG": lambda jpeg: jpeg[:4],
            "a JPEG behind a line break": lambda jpeg: b"\n" + jpeg,
            "a PNG sent as text, so that CR LF became LF": lambda jpeg: encoded(
                noise(64, 48), "PNG"
            ).replace(b"\r\n", b"\n"),
            "a JPEG that declares a width of 0": lambda jpeg: declaring(jpeg, 7, b"\0\0"),
            "a TIFF with the unknown compression 999": lambda jpeg: unknown_compression(),
            "a Photoshop file named .jpg": lambda jpeg: PSD,
            "PostScript named .jpg; nothing is run": lambda jpeg: EPS,
            "a FITS file named .jpg": fits,
            "a drawing in SVG": lambda jpeg: SVG,
            "a PDF named .jpg": lambda jpeg: b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
            "a HEIC of a phone, which needs another decoder": heic,
            "a PPM named .jpg": lambda jpeg: b"P6 1 1 255\n\xff\0\0",
            "an icon named .jpg": lambda jpeg: ICO,
            "a JPEG 2000 named .jpg": lambda jpeg: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
        },
        "rejected: truncated image": {
            "the first 100 bytes of a JPEG": lambda jpeg: jpeg[:100],
            "half a JPEG": lambda jpeg: jpeg[: len(jpeg) // 2],
            "a JPEG without its last 40 bytes": lambda jpeg: jpeg[:-40],
            "a JPEG without its last two bytes, which mark its end": lambda jpeg: jpeg[:-2],
            "half a progressive JPEG": lambda jpeg: half("JPEG", progressive=True),
            "half a PNG": lambda jpeg: half("PNG"),
            "half a GIF": lambda jpeg: half("GIF"),
            "half a BMP": lambda jpeg: half("BMP"),
            "half a TIFF": lambda jpeg: half("TIFF"),
            "a PNG of 1 KB that declares 9,000 x 9,000 pixels": lambda jpeg: png(
                9_000, 9_000, 8, 2, KB_OF_ZEROS
            ),
        },
        "rejected: damaged image: could not create decoder object": {
            "half a WebP": lambda jpeg: half("WEBP")
        },
        "rejected: damaged image: cannot load this image": {
            "a JPEG up to its first scan": lambda jpeg: jpeg[: jpeg.index(b"\xff\xda")],
            "a PNG without a chunk of pixels": lambda jpeg: png(4, 4, 8, 2),
            "a PNG with its header at the end": lambda jpeg: header_last(),
        },
        "rejected: damaged image: broken data stream when reading image file": {
            "a JPEG with too many codes in its Huffman table": bad_huffman,
            "a PNG with a byte of its pixels changed": lambda jpeg: damaged_png(),
        },
        "rejected: damaged image: AssertionError": {
            "a PNG of palette colors without its palette": lambda jpeg: png(
                2, 1, 8, 3, (b"IDAT", zlib.compress(b"\0\0\1"))
            )
        },
        "rejected: damaged image: Decompressed data too large ... ": {
            "a PNG with a text that expands to 80 MB": lambda jpeg: text_bomb()
        },
        "rejected: 400.0 megapixels declared, at most 100": {
            "a PNG of 1 KB that declares 20,000 x 20,000 pixels": lambda jpeg: png(
                20_000, 20_000, 8, 2, KB_OF_ZEROS
            )
        },
        "rejected: 4290.2 megapixels declared, at most 100": {
            "a JPEG that declares 65,500 x 65,500 pixels": lambda jpeg: declaring(
                jpeg, 5, b"\xff\xdc" * 2
            )
        },
        "rejected: 4611686014132.4 megapixels declared, at most 100": {
            "a PNG that declares 2,147,483,647 x 2,147,483,647 pixels": lambda jpeg: png(
                2**31 - 1, 2**31 - 1, 8, 2, (b"IDAT", b"")
            )
        },
        "rejected: a side of 16,711,684 pixels declared, at most 100,000": {
            "a PNG that declares 4 x 16,711,684 pixels": lambda jpeg: png(
                4, 16_711_684, 8, 3, (b"PLTE", bytes(3)), (b"IDAT", b"")
            )
        },
        "rejected: 64.0 megapixels declared, at most 50": {
            "a WebP that declares 8,000 x 8,000 pixels": lambda jpeg: webp_canvas(8_000, 8_000)
        },
        "rejected: grey values outside 0 to 65535": {
            "a gray TIFF of 32 bits with values above 16 bits": lambda jpeg: encoded(
                Image.fromarray(np.array([[65536]], dtype=np.int32)), "TIFF"
            )
        },
        "rejected: pixels of mode ... , which stand for no certain RGB value": {
            "a gray TIFF of floating-point numbers": lambda jpeg: encoded(
                Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "TIFF"
            ),
            "a TIFF in L*a*b* colors": lambda jpeg: encoded(Image.new("LAB", (2, 2)), "TIFF"),
        },
        "accepted: RGB, 64 x 48": {
            "a JPEG with 1,000 more bytes behind its end": lambda jpeg: jpeg + bytes(1000),
            "a JPEG with zeros in its scan, which only the CRC of a zip notices": zeros_inside,
            "a JPEG without Huffman tables, which has the default ones": lambda jpeg: jpeg.replace(
                b"\xff\xc4", b"\xff\xfe"
            ),
        },
        "accepted: RGB, 65500 x 8": {
            "a JPEG of 65,500 x 8 pixels": lambda jpeg: encoded(
                Image.new("RGB", (65_500, 8), "red"), "JPEG"
            )
        },
        "accepted: L, 1 x 65500": {
            "a JPEG of 1 x 65,500 pixels": lambda jpeg: encoded(Image.new("L", (1, 65_500)), "JPEG")
        },
        "accepted: RGB, 1 x 1": {"a PNG of 1 x 1 pixel": lambda jpeg: encoded(noise(1, 1), "PNG")},
        "accepted: RGB, 8 x 6": {
            "a TIFF with a directory that refers to itself": lambda jpeg: looped_tiff(),
            "a PNG named .jpg": lambda jpeg: encoded(noise(8, 6), "PNG"),
            "a JPEG with an EXIF block of other bytes": lambda jpeg: exif_jpeg(b"Exif\0\0no tiff"),
            "a JPEG with half an EXIF block": lambda jpeg: exif_jpeg(
                b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"
            ),
            "a JPEG with the unknown orientation 99": lambda jpeg: exif_orientation(99),
            "a JPEG with a broken color profile, which is ignored": lambda jpeg: encoded(
                noise(8, 6), "JPEG", icc_profile=b"no profile"
            ),
        },
        "accepted: RGB, 6 x 8": {
            "a JPEG with EXIF orientation 6, turned upright": lambda jpeg: exif_orientation(6)
        },
        "accepted: CMYK, 8 x 8": {
            "a JPEG in CMYK": lambda jpeg: encoded(
                Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"
            )
        },
        "accepted: I;16, 16 x 16": {
            "a gray PNG of 16 bits, scaled to 8": lambda jpeg: encoded(
                Image.fromarray(GREY16), "PNG"
            )
        },
        "accepted: RGBA, 4 x 4": {
            "a transparent PNG, composited on white": lambda jpeg: encoded(
                Image.new("RGBA", (4, 4), (255, 0, 0, 51)), "PNG"
            )
        },
        "accepted: P, 4 x 4": {
            "a palette PNG with a transparent color, composited on white": lambda jpeg: encoded(
                Image.new("P", (4, 4)), "PNG", transparency=0
            ),
            "a GIF of three images; the first counts": lambda jpeg: animated("GIF"),
        },
        "accepted: 1, 4 x 4": {
            "a PNG of 1 bit per pixel": lambda jpeg: encoded(Image.new("1", (4, 4)), "PNG")
        },
        "accepted: L, 64 x 64": {"a lossless JPEG": lambda jpeg: lossless_jpeg(64, 64)},
        "accepted: RGB, 4 x 4": {
            "a PNG of three images; the first counts": lambda jpeg: animated("PNG"),
            "a WebP of three images; the first counts": lambda jpeg: animated("WEBP"),
            "a TIFF of three pages; the first counts": lambda jpeg: animated("TIFF"),
        },
    }
)
