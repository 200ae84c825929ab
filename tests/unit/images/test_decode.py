"""Decoding of good, odd, broken and hostile bytes, all built here."""

import contextlib
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from bad_images import EPS, PSD, encoded, lossless_jpeg, noise, png
from PIL import ExifTags, Image

from pipeline.images.decode import (
    FORMATS,
    MAX_PIXELS,
    ImageInfo,
    Reduced,
    Unreadable,
    decode,
    decode_reduced,
    decode_with_info,
)

UNKNOWN = "not an image of a known format (JPEG, PNG, WEBP, BMP, GIF, TIFF)"
LOSSLESS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
}


def info(content: bytes) -> ImageInfo:
    return decode_with_info(content)[0]


def reason(content: bytes) -> str:
    """The reason of a refusal, which all functions agree on."""
    reasons = set()
    for function in (decode, decode_with_info, lambda it: decode_reduced(it, 8)):
        with pytest.raises(Unreadable) as refused:
            function(content)
        reasons.add(str(refused.value))
    assert len(reasons) == 1
    return reasons.pop()


def pixels(content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = decode(content)
    assert image.mode == "RGB"
    return np.asarray(image)


def red_then_blue(side: int) -> bytes:
    """A phone's JPEG of a red image with a blue one behind it."""
    first, second = (Image.new("RGB", (side, side), color) for color in ("red", "blue"))
    return encoded(first, "MPO", save_all=True, append_images=[second])


def oriented(image: Image.Image, kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(image, kind, exif=exif, **LOSSLESS.get(kind, {}))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_known_format_is_decoded(kind: str) -> None:
    image = noise(8, 6)
    content = encoded(image, kind)
    assert info(content) == ImageInfo(8, 6, "RGB" if kind != "GIF" else "P", kind)
    if kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(pixels(content), np.asarray(image))


def test_a_phone_jpeg_with_two_images_is_a_jpeg_of_the_first() -> None:
    assert info(red_then_blue(8)) == ImageInfo(8, 8, "RGB", "JPEG")
    assert pixels(red_then_blue(8))[0, 0].tolist() == [254, 0, 0]
    reduced = decode_reduced(red_then_blue(64), 32)
    assert reduced.factor == 2
    assert np.asarray(reduced.image)[0, 0].tolist() == [254, 0, 0]


UPRIGHT = np.zeros((16, 24, 3), dtype=np.uint8)
UPRIGHT[:8, :8] = (255, 0, 0)  # top left
UPRIGHT[8:, 16:] = (0, 0, 255)  # bottom right
UPRIGHT[:8, 16:] = (0, 255, 0)  # top right
STORED = {  # orientation -> what a camera stores so that it shows as UPRIGHT (Exif 3.0, 0x0112)
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: UPRIGHT.transpose(1, 0, 2)[::-1],
    7: UPRIGHT.transpose(1, 0, 2)[::-1, ::-1],
    8: UPRIGHT.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_all_eight_exif_orientations_give_the_upright_image(kind: str, orientation: int) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    content = oriented(stored, kind, orientation)
    assert info(content) == ImageInfo(24, 16, "RGB", kind)
    assert np.abs(pixels(content).astype(int) - UPRIGHT.astype(int)).max() <= 1


@pytest.mark.parametrize("orientation", STORED)
def test_a_reduced_jpeg_is_upright(orientation: int) -> None:
    stored = Image.fromarray(STORED[orientation].repeat(8, axis=0).repeat(8, axis=1))
    reduced = decode_reduced(oriented(stored, "JPEG", orientation), 16)
    assert (reduced.factor, reduced.original_size) == (8, (24 * 8, 16 * 8))
    assert np.abs(np.asarray(reduced.image, dtype=int) - UPRIGHT).max() <= 2


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0not a tiff header",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",  # 99
    ],
)
def test_with_a_broken_exif_block_the_image_is_shown_as_stored(exif: bytes) -> None:
    content = encoded(noise(8, 6), "JPEG", exif=exif)
    assert info(content) == ImageInfo(8, 6, "RGB", "JPEG")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_values_map_linearly_to_the_nearest_8_bit_values(kind: str) -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    content = encoded(Image.fromarray(ramp), kind)
    assert info(content).mode == "I;16"
    assert pixels(content)[:, :, 1].ravel().tolist() == list(range(256))
    for dtype in (np.uint16, np.int32):
        rounded = np.array([[0, 128, 129, 65406, 65407, 65535]], dtype=dtype)
        content = encoded(Image.fromarray(rounded), "TIFF" if dtype == np.int32 else kind)
        assert pixels(content)[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]


def test_the_transparent_value_of_a_16_bit_gray_png_is_white() -> None:
    rows = zlib.compress(b"\0" + struct.pack(">HHH", 0, 257, 514))
    content = png(3, 1, 16, 0, (b"tRNS", struct.pack(">H", 257)), (b"IDAT", rows))
    assert pixels(content)[0, :, 0].tolist() == [0, 255, 2]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int32(-1), "grey values outside 0 to 65535"),
        (np.int32(65536), "grey values outside 0 to 65535"),
        (np.float32(0), "pixels of mode 'F', which stand for no certain RGB value"),
    ],
)
def test_gray_values_without_a_certain_meaning_are_refused(
    value: np.generic, expected: str
) -> None:
    assert reason(encoded(Image.fromarray(np.array([[value]])), "TIFF")) == expected


def palette(*colors: int, transparency: int | bytes | None = None, kind: str = "PNG") -> bytes:
    """Two pixels, of the second and the first color."""
    image = Image.new("P", (2, 1))
    image.putpalette(colors)
    image.putdata([1, 0])
    return encoded(image, kind, **({} if transparency is None else {"transparency": transparency}))


def flat(mode: str, color: int | tuple[int, ...], kind: str = "PNG", **options: Any) -> bytes:
    return encoded(Image.new(mode, (1, 1), color), kind, **options)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (flat("RGBA", (255, 0, 0, 0)), [255, 255, 255]),
        (flat("RGBA", (255, 0, 0, 255)), [255, 0, 0]),
        (flat("RGBA", (255, 0, 0, 51)), [255, 204, 204]),
        (flat("LA", (0, 51)), [204, 204, 204]),
        (flat("RGBA", (0, 0, 0, 0), "WEBP", lossless=True), [255] * 3),
        (flat("RGB", (9, 8, 7), transparency=(9, 8, 7)), [255] * 3),
        (flat("L", 9, transparency=9), [255] * 3),
        (palette(0, 0, 0, 255, 0, 0, transparency=1), [255] * 3),
        (palette(0, 0, 0, 0, 0, 0, transparency=b"\xff\x33"), [204] * 3),
        (palette(1, 2, 3, 250, 251, 252), [250, 251, 252]),
        (palette(1, 2, 3, 250, 251, 252, kind="GIF"), [250, 251, 252]),
        (flat("1", 1), [255] * 3),
        (flat("L", 255), [255] * 3),
        (flat("CMYK", (0, 255, 255, 0), "JPEG", quality=100), [255, 0, 0]),
    ],
    ids=[
        *("clear", "opaque", "half", "gray", "webp", "rgb key", "gray key", "index"),
        *("palette alpha", "opaque palette", "GIF palette", "bit", "gray of 8 bits", "CMYK"),
    ],
)
def test_modes_become_rgb_with_transparent_parts_on_white(
    content: bytes, expected: list[int]
) -> None:
    assert pixels(content)[0, 0].tolist() == expected


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_every_value_with_every_alpha_is_blended_with_white_to_the_nearest(kind: str) -> None:
    value, alpha = np.meshgrid(np.arange(256), np.arange(256))
    stored = np.stack([value, 255 - value, value // 2, alpha], axis=-1)
    exact = (stored[..., :3] * stored[..., 3:] + 255.0 * (255 - stored[..., 3:])) / 255
    content = encoded(Image.fromarray(stored.astype(np.uint8)), kind)
    assert np.abs(pixels(content) - exact).max() < 0.5


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_counts(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue", "lime")]
    options = LOSSLESS.get(kind, {})
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixels(content)[0, 0].tolist() == [255, 0, 0]


def test_400_megapixels_in_a_small_file_are_refused_undecoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = png(20_000, 20_000, 8, 2, (b"IDAT", zlib.compress(bytes(1000))))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda _: pytest.fail("decoded"))
    assert reason(content) == "400.0 megapixels declared, at most 100"


@pytest.mark.parametrize(("width", "refused"), [(MAX_PIXELS, False), (MAX_PIXELS + 1, True)])
def test_the_limit_itself_is_allowed(width: int, refused: bool) -> None:
    found = reason(png(width, 1, 1, 0, (b"IDAT", zlib.compress(b""))))
    assert (found == "100.0 megapixels declared, at most 100") == refused


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_part_of_a_file_is_a_truncated_image(kind: str, part: float) -> None:
    content = encoded(noise(64, 64), kind)
    assert reason(content[: int(len(content) * part)]) == "truncated image"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty file"),
        (b"a cat, described in words\n" * 20, UNKNOWN),
        (bytes(1000), UNKNOWN),
        (PSD, UNKNOWN),
        (EPS, UNKNOWN),
        (b"\xff\xd8\xff\xe0", UNKNOWN),
        (b"P6 1 1 255\n\xff\0\0", UNKNOWN),
    ],
    ids=["empty", "text", "zeros", "PSD", "EPS", "JPEG of four bytes", "PPM"],
)
def test_files_that_are_not_images_are_refused(content: bytes, expected: str) -> None:
    assert reason(content) == expected


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_are_unreadable_or_images_and_raise_nothing_else(kind: str) -> None:
    random = np.random.default_rng(0)
    intact = np.frombuffer(encoded(noise(16, 16), kind), dtype=np.uint8)
    for _ in range(150):
        damaged = intact.copy()
        damaged[random.integers(0, min(len(intact), 300), 4)] = random.integers(0, 256, 4)
        with contextlib.suppress(Unreadable):
            decode(damaged.tobytes())
            continue
        assert "0x" not in reason(damaged.tobytes())


def tiff_with_an_odd_tag() -> bytes:
    """A good image with a tag that declares more than the file holds."""
    content = encoded(Image.new("RGB", (2, 2), "red"), "TIFF")
    start = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, start)[0]
    entries = content[start + 2 : start + 2 + 12 * count]
    odd = struct.pack("<HHII", 65000, 2, 5000, len(content) - 1)
    moved = struct.pack("<H", count + 1) + entries + odd + bytes(4)
    return content[:4] + struct.pack("<I", len(content)) + content[8:] + moved


def test_only_pillows_warnings_about_odd_metadata_are_silenced() -> None:
    content = tiff_with_an_odd_tag()
    with pytest.warns(UserWarning, match="tag 65000|larger than file|corrupt"):
        Image.open(BytesIO(content)).load()
    assert pixels(content)[0, 0].tolist() == [255, 0, 0]  # warnings are errors here
    with pytest.warns(UserWarning, match="ours"):
        warnings.warn("ours", UserWarning, stacklevel=1)


def scene(width: int, height: int) -> Image.Image:
    """Waves that an image of a quarter of the size can still show, different in each channel."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7 + y / 11), np.sin(x / 9), np.cos(y / 8)]
    return Image.fromarray((127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8))


@pytest.mark.parametrize(
    ("min_side", "factor", "size"),
    [
        (None, 1, (161, 120)),
        (61, 1, (161, 120)),
        (60, 2, (81, 60)),
        (31, 2, (81, 60)),
        (30, 4, (41, 30)),
        (15, 8, (21, 15)),
        (1, 8, (21, 15)),
    ],
)
@pytest.mark.parametrize("direction", [1, -1])
def test_a_jpeg_is_reduced_as_far_as_both_sides_keep_min_side(
    min_side: int | None, factor: int, size: tuple[int, int], direction: int
) -> None:
    image = scene(*(161, 120)[::direction])
    reduced = decode_reduced(encoded(image, "JPEG"), min_side)
    assert (reduced.factor, reduced.image.size) == (factor, size[::direction])
    assert reduced.original_size == image.size


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_reduced_jpeg_is_close_to_the_means_of_its_pixels(
    mode: str, options: dict[str, Any], factor: int
) -> None:
    content = encoded(scene(160, 120).convert(mode), "JPEG", quality=95, **options)
    reduced = decode_reduced(content, 120 // factor)
    assert (reduced.factor, reduced.image.mode) == (factor, "RGB")
    blocks = pixels(content).reshape(120 // factor, factor, 160 // factor, factor, 3)
    assert np.abs(np.asarray(reduced.image) - blocks.mean(axis=(1, 3))).mean() < 1


@pytest.mark.parametrize(
    ("orientation", "width", "factor"), [(1, 162, 4), (3, 162, 2), (6, 162, 2), (6, 163, 1)]
)
def test_a_rotated_image_is_reduced_by_a_factor_of_both_sides_only(
    orientation: int, width: int, factor: int
) -> None:
    reduced = decode_reduced(oriented(scene(width, 120), "JPEG", orientation), 30)
    assert reduced.factor == factor
    assert reduced.original_size == ((120, width) if orientation == 6 else (width, 120))


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "JPEG"])
def test_other_formats_are_not_reduced(kind: str) -> None:
    content = encoded(scene(160, 120), kind)
    assert decode_reduced(content, 1) == Reduced(decode(content), (160, 120), 1)


def test_a_jpeg_that_cannot_be_reduced_is_decoded_at_full_size() -> None:
    content = lossless_jpeg(64, 64)
    assert info(content) == ImageInfo(64, 64, "L", "JPEG")
    reduced = decode_reduced(content, 8)
    assert (reduced.factor, reduced.original_size) == (1, (64, 64))
    assert (np.asarray(reduced.image) == 128).all()


def test_a_damaged_jpeg_that_decodes_also_decodes_reduced() -> None:
    random = np.random.default_rng(0)
    intact = np.frombuffer(encoded(noise(64, 48), "JPEG", quality=50), dtype=np.uint8)
    decoded = 0
    for _ in range(300):
        damaged = intact.copy()
        damaged[random.integers(0, len(intact), 3)] = random.integers(0, 256, 3)
        try:
            size = decode(damaged.tobytes()).size
        except Unreadable:
            continue
        assert decode_reduced(damaged.tobytes(), 6).original_size == size
        decoded += 1
    assert decoded > 100


def test_threads_decode_to_the_same_pixels() -> None:
    jpeg = encoded(noise(32, 32), "JPEG")
    contents = [tiff_with_an_odd_tag(), jpeg, palette(0, 0, 0, 255, 0, 0, transparency=b"\x33")]

    def decoded(_: int) -> list[bytes]:
        reduced = decode_reduced(jpeg, 8)
        assert reduced.factor == 4
        return [*(pixels(content).tobytes() for content in contents), reduced.image.tobytes()]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(decoded, range(80))) == [decoded(0)] * 80
