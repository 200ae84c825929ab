"""The pixels are those that another decoder shows, or the file is rejected with the reason."""

import struct
import zlib
from io import BytesIO
from itertools import product
from typing import Any

import numpy as np
import pytest
import tifffile
from bad_images import encoded, png
from PIL import Image

from pipeline.images.decode import Unreadable, decode

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
GRAY: Pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
RGB: Pixels = np.stack([GRAY, GRAY[::-1], GRAY.T], axis=-1)
RED: Pixels = np.full((8, 6, 3), (200, 30, 30), np.uint8)


def pixels(content: bytes) -> Pixels:
    return np.asarray(decode(content).image)


def tiff(array: Any, **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, array, metadata=None, **options)
    return file.getvalue()


def shown(content: bytes) -> Pixels:
    """The pixels by tifffile: full intensity of unsigned integers is 255."""
    with tifffile.TiffFile(BytesIO(content)) as file:
        page = file.pages.first
        array, photometric = page.asarray().astype(np.float64), int(page.photometric)
        limit = 2 ** int(page.bitspersample) - 1
        separate = page.samplesperpixel > 1 and int(page.planarconfig) == 2
    array = np.moveaxis(array, 0, -1) if separate else array
    scaled = (array * 255 / limit).round().astype(np.uint8)
    scaled = 255 - scaled if photometric == 0 else scaled
    return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=-1)


@pytest.mark.parametrize(
    ("bits", "photometric", "planar", "order", "compression"),
    list(
        product(
            (8, 16, 32),
            ("minisblack", "miniswhite", "rgb"),
            ("contig", "separate"),
            "<>",
            (None, "zlib"),
        )
    ),
)
def test_a_tiff_has_the_pixels_of_tifffile_or_is_rejected(
    bits: int, photometric: str, planar: str, order: str, compression: str | None
) -> None:
    array = RGB if photometric == "rgb" else GRAY
    scaled = array.astype(f"u{bits // 8}") * ((2**bits - 1) // 255)
    if photometric == "rgb" and planar == "separate":
        scaled = np.ascontiguousarray(np.moveaxis(scaled, -1, 0))
    options: dict[str, Any] = {"photometric": photometric, "compression": compression}
    if photometric == "rgb":
        options["planarconfig"] = planar
    content = tiff(scaled, byteorder=order, **options)
    try:
        difference = np.abs(pixels(content).astype(int) - shown(content))
    except Unreadable:
        assert bits > 8
        assert (bits, photometric, order) not in [(16, "minisblack", "<"), (16, "miniswhite", "<")]
        return
    assert bits < 32
    assert difference.max() <= 1


def twelve_bits(packed: bool, photometric: int) -> bytes:
    """A TIFF by hand with gray values of 12 bits, packed or in 16 bits with MaxSampleValue."""
    values = (GRAY.astype(np.uint32) * 4095 + 127) // 255
    pairs = values.reshape(-1, 2)
    joined = (pairs[:, 0] << 12) + pairs[:, 1]
    strip = b"".join(int(one).to_bytes(3, "big") for one in joined)
    strip = strip if packed else values.astype("<u2").tobytes()
    tags = {256: 16, 257: 16, 258: 12 if packed else 16, 259: 1, 262: photometric, 273: 0, 277: 1}
    tags |= {278: 16, 279: len(strip)} | ({} if packed else {281: 4095})
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + strip


@pytest.mark.parametrize(("packed", "photometric"), [(False, 1), (False, 0), (True, 1)])
def test_gray_values_of_12_bits_fill_the_range(packed: bool, photometric: int) -> None:
    expected = GRAY if photometric else 255 - GRAY
    assert np.abs(pixels(twelve_bits(packed, photometric))[..., 0].astype(int) - expected).max() < 2


@pytest.mark.parametrize(
    "array",
    [GRAY.astype(np.int16), GRAY.astype(np.int32), GRAY.astype(np.uint32), GRAY.astype("f4")],
    ids=lambda array: array.dtype,
)
def test_a_tiff_of_samples_without_a_certain_range_is_rejected(array: Any) -> None:
    with pytest.raises(Unreadable, match=r"^a TIFF with s.*; save it with unsigned"):
        decode(tiff(array, photometric="minisblack"))


def test_a_reduced_page_before_the_full_one_is_skipped_and_never_taken_alone() -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(RED[:2, :2], subfiletype=1, photometric="rgb", metadata=None)
        alone = file.getvalue()
        writer.write(RGB, photometric="rgb", metadata=None)
    np.testing.assert_array_equal(pixels(file.getvalue()), RGB)
    with pytest.raises(Unreadable, match=r"^a TIFF with reduced pages only, as in raw photos"):
        decode(alone)


@pytest.mark.parametrize("alpha", [0, 255])
def test_a_bmp_of_32_bits_with_an_unused_fourth_byte_is_opaque(alpha: int) -> None:
    """BITMAPV4HEADER with masks, rows from the bottom up."""
    height, width, _ = RED.shape
    body = np.dstack([RED[::-1, :, ::-1], np.full((height, width), alpha, np.uint8)]).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(body), 0, 0, 0, 0)
    header += masks + bytes(108 - len(header) - len(masks))
    content = b"BM" + struct.pack("<IHHI", 122 + len(body), 0, 0, 122) + header + body
    np.testing.assert_array_equal(pixels(content), RED)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_gray_value_of_a_png_is_white_at_any_depth(bits: int) -> None:
    """A row with every value of up to 4 bits; the second one is transparent."""
    values = list(range(min(2**bits, 16)))
    packed = int("".join(f"{value:0{bits}b}" for value in values).ljust(128, "0"), 2)
    row = packed.to_bytes(16, "big")[: (len(values) * bits + 7) // 8]
    content = png(
        *(len(values), 1, bits, 0, (b"tRNS", b"\0\1")), (b"IDAT", zlib.compress(b"\0" + row))
    )
    expected = [value * 255 // (2**bits - 1) for value in values]
    expected[1] = 255
    assert pixels(content)[0, :, 1].tolist() == expected


def test_a_png_of_16_bits_with_a_transparent_color_is_rejected() -> None:
    chunks = (b"tRNS", bytes(6)), (b"IDAT", zlib.compress(bytes(7)))
    with pytest.raises(Unreadable, match=r"^a PNG of 16 bits with a transparent color; save it wi"):
        decode(png(1, 1, 16, 2, *chunks))


def test_beside_the_first_frame_of_a_gif_there_is_nothing() -> None:
    content = bytearray(encoded(Image.fromarray(RED).quantize(4), "GIF"))
    struct.pack_into("<HH", content, 6, 10, 12)  # the canvas, in the header
    expected = np.full((12, 10, 3), 255, np.uint8)
    expected[:8, :6] = RED
    np.testing.assert_array_equal(pixels(bytes(content)), expected)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a", "JPEG XL"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"%PDF-1.7", "PDF"),
        (b"II*\0\x08\0\0\0\0\0", "a kind of TIFF"),
    ],
)
def test_a_format_that_is_not_read_is_named(start: bytes, kind: str) -> None:
    with pytest.raises(Unreadable) as refused:
        decode(start + bytes(99))
    assert str(refused.value) == f"{kind} is not read; convert it to JPEG or PNG"
