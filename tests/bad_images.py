"""Images that are no images, damaged ones, hostile ones, odd ones: bytes of single files."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from bad_inputs import Bad
from PIL import Image

TOLD = (
    "One file more in a class; `split` judges it. What is accepted is told by its mode and by the "
    "width and height of the picture as shown."
)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(width: int, height: int, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, content) for kind, content in (header, *chunks, (b"IEND", b""))
    )


def lossless_jpeg(width: int, height: int) -> bytes:
    """Lossless JPEG (ITU-T T.81, annex H) has no blocks: here grey 128, no pixel off by any."""
    frame = b"\xff\xc3" + struct.pack(">HBHHB3B", 11, 8, height, width, 1, 1, 0x11, 0)
    table = b"\xff\xc4" + struct.pack(">HB16BB", 20, 0, 1, *[0] * 15, 0)
    scan = b"\xff\xda" + struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8" + frame + table + scan + bytes(width * height // 8) + b"\xff\xd9"


def many_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive grey JPEG whose scans each say, in a few bytes, that nothing changes.

    Its picture is grey: a first scan of DC coefficients, then scans of bands that hold nothing,
    each told by runs of up to 32,767 empty blocks (T.81, G.1.2.2).
    """
    quantization = b"\xff\xdb" + struct.pack(">HB", 67, 0) + bytes([1] * 64)
    frame = b"\xff\xc2" + struct.pack(">HBHHB3B", 11, 8, height, width, 1, 1, 0x11, 0)
    direct = b"\xff\xc4" + struct.pack(">HB16BB", 20, 0x00, 1, *[0] * 15, 0)
    runs = b"\xff\xc4" + struct.pack(">HB16BB", 20, 0x10, 1, *[0] * 15, 0xE0)
    blocks = -(-width // 8) * -(-height // 8)
    first = b"\xff\xda" + struct.pack(">HB2B3B", 8, 1, 1, 0x00, 0, 0, 0) + bytes(-(-blocks // 8))
    # One bit for the code of a run of 2 ** 14 blocks and more, 14 for how many more: all zero.
    bits = 15 * -(-blocks // 2**14)
    empty = b"\xff\xda" + struct.pack(">HB2B3B", 8, 1, 1, 0x00, 1, 63, 0) + bytes(-(-bits // 8))
    return b"\xff\xd8" + quantization + frame + direct + runs + first + empty * scans + b"\xff\xd9"


def exif_jpeg(exif: bytes) -> bytes:
    return encoded(noise(8, 6), "JPEG", exif=exif)


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def webp_canvas(width: int, height: int) -> bytes:
    """An animated WebP of other dimensions (RFC 9649, 2.7): 24 bits of each, less one."""
    content = bytearray(animated("WEBP"))
    at = content.index(b"VP8X") + 12
    content[at : at + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(content)


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def looped_tiff() -> bytes:
    """A TIFF whose first directory says that it is the second, too."""
    content = encoded(noise(8, 6), "TIFF")
    (directory,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, directory)
    at = directory + 2 + 12 * count
    return content[:at] + content[4:8] + content[at + 4 :]


def fits(picture: bytes) -> bytes:
    cards = ["SIMPLE  =                    T", "BITPIX  =                    8"]
    cards += ["NAXIS   =                    2", "NAXIS1  =                    4"]
    cards += ["NAXIS2  =                    4", "END"]
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode() + bytes(2880)


def heic(picture: bytes) -> bytes:
    brand = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic")
    return brand + struct.pack(">I4s", 100, b"meta") + bytes(92)


UNKNOWN = "rejected: not an image of a known format (JPEG, PNG, WEBP, BMP, GIF, TIFF)"
CUT = "rejected: truncated image"

GREY16 = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
PSD = b"8BPS\0\x01" + bytes(6) + b"\0\x03" + struct.pack(">IIHH", 4, 4, 8, 3) + bytes(64)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
ICO = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, 1128, 22) + bytes(1128)

# Each is made from a good JPEG of 64 x 48 pixels.
INPUTS = [
    Bad("empty", "no byte", lambda jpeg: b"", "rejected: empty file"),
    Bad("zeros", "1,000 zero bytes", lambda jpeg: bytes(1000), UNKNOWN),
    Bad("text", "a text named .jpg", lambda jpeg: b"a cat, in words\n" * 20, UNKNOWN),
    Bad(
        "page",
        "an HTML page, as failed downloads leave it",
        lambda jpeg: b"<!DOCTYPE html><html><body>404</body></html>",
        UNKNOWN,
    ),
    Bad("four bytes", "a JPEG's first four bytes", lambda jpeg: jpeg[:4], UNKNOWN),
    Bad("cut in the header", "a JPEG's first 100 bytes", lambda jpeg: jpeg[:100], CUT),
    Bad(
        "cut before the scan",
        "a JPEG up to its first scan",
        lambda jpeg: jpeg[: jpeg.index(b"\xff\xda")],
        "rejected: damaged image: cannot load this image",
    ),
    Bad("cut in half", "half a JPEG", lambda jpeg: jpeg[: len(jpeg) // 2], CUT),
    Bad("cut at the end", "a JPEG without its last 40 bytes", lambda jpeg: jpeg[:-40], CUT),
    Bad(
        "no end marker",
        "a JPEG without its last two bytes, which mark its end",
        lambda jpeg: jpeg[:-2],
        CUT,
    ),
    Bad(
        "progressive cut",
        "half a progressive JPEG",
        lambda jpeg: (whole := encoded(noise(64, 48), "JPEG", progressive=True))[: len(whole) // 2],
        CUT,
    ),
    Bad(
        "PNG cut",
        "half a PNG",
        lambda jpeg: (whole := encoded(noise(64, 48), "PNG"))[: len(whole) // 2],
        CUT,
    ),
    Bad(
        "GIF cut",
        "half a GIF",
        lambda jpeg: (whole := encoded(noise(64, 48), "GIF"))[: len(whole) // 2],
        CUT,
    ),
    Bad(
        "WebP cut",
        "half a WebP",
        lambda jpeg: (whole := encoded(noise(64, 48), "WEBP"))[: len(whole) // 2],
        "rejected: damaged image: could not create decoder object",
    ),
    Bad(
        "BMP cut",
        "half a BMP",
        lambda jpeg: (whole := encoded(noise(64, 48), "BMP"))[: len(whole) // 2],
        CUT,
    ),
    Bad(
        "TIFF cut",
        "half a TIFF",
        lambda jpeg: (whole := encoded(noise(64, 48), "TIFF"))[: len(whole) // 2],
        CUT,
    ),
    Bad(
        "bytes behind the end",
        "a JPEG with 1,000 more bytes behind its end",
        lambda jpeg: jpeg + bytes(1000),
        "accepted: RGB, 64 x 48",
    ),
    Bad("bytes before the start", "a JPEG behind a line break", lambda jpeg: b"\n" + jpeg, UNKNOWN),
    Bad(
        "line ends converted",
        "a PNG sent as text, so that CR LF became LF",
        lambda jpeg: encoded(noise(64, 48), "PNG").replace(b"\r\n", b"\n"),
        UNKNOWN,
    ),
    Bad(
        "Huffman table",
        "a JPEG whose Huffman table holds more codes than there are",
        lambda jpeg: jpeg[: (at := jpeg.index(b"\xff\xc4") + 5)] + b"\xff" * 16 + jpeg[at + 16 :],
        "rejected: damaged image: broken data stream when reading image file",
    ),
    Bad(
        "Huffman data",
        "a JPEG with zeros in the middle of its scan; only a zip's checksum would tell",
        lambda jpeg: jpeg[: len(jpeg) // 2] + bytes(200) + jpeg[len(jpeg) // 2 + 200 :],
        "accepted: RGB, 64 x 48",
    ),
    Bad(
        "no Huffman table",
        "a JPEG whose Huffman tables are comments",
        lambda jpeg: jpeg.replace(b"\xff\xc4", b"\xff\xfe"),
        "accepted: RGB, 64 x 48",
    ),
    Bad(
        "no size",
        "a JPEG that says its width is 0",
        lambda jpeg: jpeg[: (at := jpeg.index(b"\xff\xc0") + 7)] + b"\0\0" + jpeg[at + 2 :],
        UNKNOWN,
    ),
    Bad(
        "400 megapixels",
        "a PNG of 1 KB that declares 20,000 x 20,000 pixels",
        lambda jpeg: png(20_000, 20_000, 8, 2, (b"IDAT", zlib.compress(bytes(1000)))),
        "rejected: 400.0 megapixels declared, at most 100",
    ),
    Bad(
        "large JPEG",
        "a JPEG that declares 65,500 x 65,500 pixels",
        lambda jpeg: jpeg[: (at := jpeg.index(b"\xff\xc0") + 5)] + b"\xff\xdc" * 2 + jpeg[at + 4 :],
        "rejected: 4290.2 megapixels declared, at most 100",
    ),
    Bad(
        "large sides",
        "a PNG that declares 2,147,483,647 x 2,147,483,647 pixels",
        lambda jpeg: png(2**31 - 1, 2**31 - 1, 8, 2, (b"IDAT", b"")),
        "rejected: 4611686014132.4 megapixels declared, at most 100",
    ),
    Bad(
        "a long side",
        "a PNG that declares 4 x 16,711,684 pixels",
        lambda jpeg: png(4, 16_711_684, 8, 3, (b"PLTE", bytes(3)), (b"IDAT", b"")),
        "rejected: a side of 16,711,684 pixels declared, at most 100,000",
    ),
    Bad(
        "large WebP",
        "a WebP that declares 8,000 x 8,000 pixels",
        lambda jpeg: webp_canvas(8_000, 8_000),
        "rejected: 64.0 megapixels declared, at most 50",
    ),
    Bad(
        "declares more than it holds",
        "a PNG of 1 KB that declares 9,000 x 9,000 pixels",
        lambda jpeg: png(9_000, 9_000, 8, 2, (b"IDAT", zlib.compress(bytes(1000)))),
        CUT,
    ),
    Bad(
        "65,500 wide",
        "a JPEG of 65,500 x 8 pixels",
        lambda jpeg: encoded(Image.new("RGB", (65_500, 8), "red"), "JPEG"),
        "accepted: RGB, 65500 x 8",
    ),
    Bad(
        "65,500 high",
        "a JPEG of 1 x 65,500 pixels",
        lambda jpeg: encoded(Image.new("L", (1, 65_500)), "JPEG"),
        "accepted: L, 1 x 65500",
    ),
    Bad(
        "one pixel",
        "a PNG of 1 x 1 pixel",
        lambda jpeg: encoded(noise(1, 1), "PNG"),
        "accepted: RGB, 1 x 1",
    ),
    Bad(
        "many scans",
        "a JPEG of 2,000 x 2,000 pixels in 4,000 scans, 80 KB",
        lambda jpeg: many_scans(2000, 2000, 4000),
        "rejected: 4,001 scans of 4.0 megapixels, at most 1,600",
    ),
    Bad(
        "PNG chunk",
        "a PNG with a byte of its pixels changed",
        lambda jpeg: flipped(whole := encoded(noise(64, 48), "PNG"), whole.index(b"IDAT") + 100),
        "rejected: damaged image: broken data stream when reading image file",
    ),
    Bad(
        "PNG without pixels",
        "a PNG whose chunk of pixels is missing",
        lambda jpeg: png(4, 4, 8, 2),
        "rejected: damaged image: cannot load this image",
    ),
    Bad(
        "PNG palette",
        "a PNG of palette colours without its palette",
        lambda jpeg: png(2, 1, 8, 3, (b"IDAT", zlib.compress(b"\0\0\1"))),
        "rejected: damaged image: AssertionError",
    ),
    Bad(
        "PNG text bomb",
        "a PNG with a text that expands to 80 MB",
        lambda jpeg: png(
            1,
            1,
            8,
            0,
            (b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))),
            (b"IDAT", zlib.compress(b"\0\0")),
        ),
        "rejected: damaged image: Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK",
    ),
    Bad(
        "PNG chunk order",
        "a PNG whose header comes last",
        lambda jpeg: (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IDAT", zlib.compress(b"\0\0"))
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
            + chunk(b"IEND", b"")
        ),
        "rejected: damaged image: cannot load this image",
    ),
    Bad(
        "TIFF loop",
        "a TIFF whose directory is followed by itself",
        lambda jpeg: looped_tiff(),
        "accepted: RGB, 8 x 6",
    ),
    Bad(
        "TIFF compression",
        "a TIFF that says its pixels are packed in a way of number 999",
        lambda jpeg: encoded(noise(8, 6), "TIFF").replace(
            struct.pack("<HHIHH", 259, 3, 1, 1, 0), struct.pack("<HHIHH", 259, 3, 1, 999, 0)
        ),
        UNKNOWN,
    ),
    Bad(
        "wrong extension",
        "a PNG named .jpg",
        lambda jpeg: encoded(noise(8, 6), "PNG"),
        "accepted: RGB, 8 x 6",
    ),
    Bad(
        "CMYK",
        "a JPEG in the colours of print",
        lambda jpeg: encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"),
        "accepted: CMYK, 8 x 8",
    ),
    Bad(
        "16 bits",
        "a grey PNG of 16 bits a pixel, brought to 8",
        lambda jpeg: encoded(Image.fromarray(GREY16), "PNG"),
        "accepted: I;16, 16 x 16",
    ),
    Bad(
        "32 bits",
        "a grey TIFF of 32 bits with values above 16 bits",
        lambda jpeg: encoded(Image.fromarray(np.array([[65536]], dtype=np.int32)), "TIFF"),
        "rejected: grey values outside 0 to 65535",
    ),
    Bad(
        "floats",
        "a grey TIFF of floating-point numbers",
        lambda jpeg: encoded(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "TIFF"),
        "rejected: pixels of mode 'F', which stand for no certain RGB value",
    ),
    Bad(
        "Lab",
        "a TIFF in the colours L*a*b*",
        lambda jpeg: encoded(Image.new("LAB", (2, 2)), "TIFF"),
        "rejected: pixels of mode 'LAB', which stand for no certain RGB value",
    ),
    Bad(
        "alpha",
        "a transparent PNG, shown on white",
        lambda jpeg: encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 51)), "PNG"),
        "accepted: RGBA, 4 x 4",
    ),
    Bad(
        "transparent colour",
        "a palette PNG with a transparent colour, shown on white",
        lambda jpeg: encoded(Image.new("P", (4, 4)), "PNG", transparency=0),
        "accepted: P, 4 x 4",
    ),
    Bad(
        "black and white",
        "a PNG of 1 bit a pixel",
        lambda jpeg: encoded(Image.new("1", (4, 4)), "PNG"),
        "accepted: 1, 4 x 4",
    ),
    Bad(
        "lossless JPEG",
        "a JPEG by the lossless method",
        lambda jpeg: lossless_jpeg(64, 64),
        "accepted: L, 64 x 64",
    ),
    Bad(
        "animated GIF",
        "a GIF of three pictures, the first of which counts",
        lambda jpeg: animated("GIF"),
        "accepted: P, 4 x 4",
    ),
    Bad(
        "animated PNG",
        "a PNG of three pictures, the first of which counts",
        lambda jpeg: animated("PNG"),
        "accepted: RGB, 4 x 4",
    ),
    Bad(
        "animated WebP",
        "a WebP of three pictures, the first of which counts",
        lambda jpeg: animated("WEBP"),
        "accepted: RGB, 4 x 4",
    ),
    Bad(
        "pages",
        "a TIFF of three pages, the first of which counts",
        lambda jpeg: animated("TIFF"),
        "accepted: RGB, 4 x 4",
    ),
    Bad(
        "EXIF that is none",
        "a JPEG with an EXIF block of other bytes, shown as stored",
        lambda jpeg: exif_jpeg(b"Exif\0\0not a tiff header"),
        "accepted: RGB, 8 x 6",
    ),
    Bad(
        "EXIF cut",
        "a JPEG with half an EXIF block, shown as stored",
        lambda jpeg: exif_jpeg(b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"),
        "accepted: RGB, 8 x 6",
    ),
    Bad(
        "EXIF orientation 99",
        "a JPEG with an orientation that there is not, shown as stored",
        lambda jpeg: exif_jpeg(
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0" + bytes(4)
        ),
        "accepted: RGB, 8 x 6",
    ),
    Bad(
        "EXIF orientation 6",
        "a JPEG that a camera held upright stored lying, shown upright",
        lambda jpeg: exif_jpeg(
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + bytes(4)
        ),
        "accepted: RGB, 6 x 8",
    ),
    Bad(
        "colour profile",
        "a JPEG with a colour profile of other bytes, which is ignored",
        lambda jpeg: encoded(noise(8, 6), "JPEG", icc_profile=b"no profile"),
        "accepted: RGB, 8 x 6",
    ),
    Bad("PSD", "a Photoshop file named .jpg", lambda jpeg: PSD, UNKNOWN),
    Bad("EPS", "PostScript named .jpg; nothing is run", lambda jpeg: EPS, UNKNOWN),
    Bad("FITS", "a FITS file named .jpg", fits, UNKNOWN),
    Bad("SVG", "a drawing in SVG", lambda jpeg: SVG, UNKNOWN),
    Bad("PDF", "a PDF named .jpg", lambda jpeg: b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", UNKNOWN),
    Bad("HEIC", "a phone's HEIC, which needs a decoder that is not there", heic, UNKNOWN),
    Bad("PPM", "a PPM named .jpg", lambda jpeg: b"P6 1 1 255\n\xff\0\0", UNKNOWN),
    Bad("ICO", "an icon named .jpg", lambda jpeg: ICO, UNKNOWN),
    Bad(
        "JPEG 2000",
        "a JPEG 2000 named .jpg",
        lambda jpeg: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
        UNKNOWN,
    ),
]
