"""What `inspect` and `decode` make of good, odd, broken and hostile bytes, all built here."""

import struct
import threading
import warnings
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from bad_images import EPS, PSD, encoded, lossless_jpeg, noise, png
from PIL import ExifTags, Image

from pipeline.images.decode import (
    FORMATS,
    MAX_PIXELS,
    Facts,
    Unreadable,
    decode,
    decode_reduced,
    inspect,
)

UNKNOWN = "not an image of a known format (JPEG, PNG, WEBP, BMP, GIF, TIFF)"


def refusal(content: bytes) -> str:
    """The reason, which `inspect` and `decode` must agree on."""
    with pytest.raises(Unreadable) as told:
        inspect(content)
    with pytest.raises(Unreadable) as told_again:
        decode(content)
    assert str(told.value) == str(told_again.value)
    return str(told.value)


def pixels(content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = decode(content)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_known_format_is_decoded(kind: str) -> None:
    image = noise(8, 6)
    content = encoded(image, kind)
    assert inspect(content) == Facts(8, 6, "RGB" if kind != "GIF" else "P", kind)
    if kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(pixels(content), np.asarray(image))


def test_a_phone_jpeg_with_a_second_picture_is_a_jpeg_of_the_first() -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    content = encoded(first, "MPO", save_all=True, append_images=[second])
    assert inspect(content) == Facts(8, 8, "RGB", "JPEG")
    assert pixels(content)[0, 0].tolist() == [254, 0, 0]


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
def test_all_eight_exif_orientations_show_the_same_upright_picture(
    kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
    }
    content = encoded(stored, kind, exif=exif, **options.get(kind, {}))
    assert inspect(content) == Facts(24, 16, "RGB", kind)
    assert np.abs(pixels(content).astype(int) - UPRIGHT.astype(int)).max() <= 1


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0not a tiff header",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",  # 99
    ],
)
def test_a_broken_exif_block_leaves_the_picture_as_stored(exif: bytes) -> None:
    content = encoded(noise(8, 6), "JPEG", exif=exif)
    assert inspect(content) == Facts(8, 6, "RGB", "JPEG")


def test_a_16_bit_ramp_maps_linearly_to_8_bits() -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        content = encoded(Image.fromarray(ramp), kind)
        assert inspect(content).mode == "I;16"
        assert pixels(content)[:, :, 1].ravel().tolist() == list(range(256))


def test_16_bit_values_go_to_the_nearest_8_bit_value() -> None:
    grey = np.array([[0, 128, 129, 65406, 65407, 65535]], dtype=np.uint16)
    assert pixels(encoded(Image.fromarray(grey), "PNG"))[0, :, 0].tolist() == [
        0,
        0,
        1,
        254,
        255,
        255,
    ]


def test_the_transparent_value_of_a_16_bit_grey_png_is_white() -> None:
    rows = zlib.compress(b"\0" + struct.pack(">HHH", 0, 257, 514))
    content = png(3, 1, 16, 0, (b"tRNS", struct.pack(">H", 257)), (b"IDAT", rows))
    assert pixels(content)[0, :, 0].tolist() == [0, 255, 2]


def test_32_bit_grey_is_taken_as_16_bit_where_it_fits() -> None:
    grey = np.array([[0, 257, 65535]], dtype=np.int32)
    assert pixels(encoded(Image.fromarray(grey), "TIFF"))[0, :, 2].tolist() == [0, 1, 255]


@pytest.mark.parametrize("value", [-1, 65536])
def test_32_bit_grey_that_does_not_fit_is_refused(value: int) -> None:
    content = encoded(Image.fromarray(np.array([[value]], dtype=np.int32)), "TIFF")
    assert refusal(content) == "grey values outside 0 to 65535"


def test_float_grey_is_refused() -> None:
    content = encoded(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "TIFF")
    assert refusal(content) == "pixels of mode 'F', which stand for no certain RGB value"


def transparent_palette(transparency: int | bytes) -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putdata([0, 1])
    return encoded(image, "PNG", transparency=transparency)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 0)), "PNG"), [255, 255, 255]),
        (encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 255)), "PNG"), [255, 0, 0]),
        (encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 51)), "PNG"), [255, 204, 204]),
        (encoded(Image.new("LA", (1, 1), (0, 51)), "PNG"), [204, 204, 204]),
        (encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), "WEBP", lossless=True), [255] * 3),
        (encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG", transparency=(9, 8, 7)), [255] * 3),
        (encoded(Image.new("L", (1, 1), 9), "PNG", transparency=9), [255] * 3),
        (transparent_palette(0), [255] * 3),
        (transparent_palette(b"\x33"), [204] * 3),
    ],
    ids=[
        "clear",
        "opaque",
        "half",
        "grey",
        "webp",
        "rgb key",
        "grey key",
        "index",
        "palette alpha",
    ],
)
def test_transparent_parts_are_shown_on_white(content: bytes, expected: list[int]) -> None:
    assert pixels(content)[0, 0].tolist() == expected


def test_every_value_behind_every_alpha_is_blended_with_white_to_the_nearest() -> None:
    value, alpha = np.meshgrid(np.arange(256), np.arange(256))
    stored = np.stack([value, 255 - value, value // 2, alpha], axis=-1)
    exact = (stored[..., :3] * stored[..., 3:] + 255.0 * (255 - stored[..., 3:])) / 255
    image = Image.fromarray(stored.astype(np.uint8))
    for content in (encoded(image, "PNG"), encoded(image, "TIFF")):
        assert np.abs(pixels(content) - exact).max() < 0.5


def test_an_opaque_palette_gives_its_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 250, 251, 252])
    image.putdata([1, 0])
    assert pixels(encoded(image, "PNG"))[0].tolist() == [[250, 251, 252], [1, 2, 3]]
    assert pixels(encoded(image, "GIF"))[0].tolist() == [[250, 251, 252], [1, 2, 3]]


@pytest.mark.parametrize(("mode", "ink"), [("1", 1), ("L", 255)])
def test_grey_fills_all_three_channels(mode: str, ink: int) -> None:
    assert pixels(encoded(Image.new(mode, (1, 1), ink), "PNG")).tolist() == [[[255, 255, 255]]]


def test_a_red_cmyk_jpeg_is_red() -> None:
    content = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert inspect(content) == Facts(8, 8, "CMYK", "JPEG")
    assert np.abs(pixels(content)[4, 4].astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_counts(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    assert pixels(content)[0, 0].tolist() == [255, 0, 0]


def test_400_megapixels_in_a_small_file_are_refused_undecoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = zlib.compress(bytes(1000))
    content = png(20_000, 20_000, 8, 2, (b"IDAT", rows))
    monkeypatch.setattr(
        "PIL.PngImagePlugin.PngImageFile.load", lambda image: pytest.fail("decoded")
    )
    assert refusal(content) == "400.0 megapixels declared, at most 100"


@pytest.mark.parametrize(("width", "refused"), [(MAX_PIXELS, False), (MAX_PIXELS + 1, True)])
def test_the_limit_itself_is_allowed(width: int, refused: bool) -> None:
    reason = refusal(png(width, 1, 1, 0, (b"IDAT", zlib.compress(b""))))
    assert (reason == "100.0 megapixels declared, at most 100") == refused


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_half_a_file_is_a_truncated_image(kind: str, part: float) -> None:
    content = encoded(noise(64, 64), kind)
    reason = refusal(content[: int(len(content) * part)])
    assert reason == "truncated image"


@pytest.mark.parametrize(
    ("content", "reason"),
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
def test_what_is_no_image_says_so(content: bytes, reason: str) -> None:
    assert refusal(content) == reason


def test_a_png_with_a_damaged_chunk_says_which() -> None:
    content = bytearray(encoded(noise(64, 64), "PNG"))
    content[content.index(b"IDAT") + 100] ^= 1
    assert refusal(bytes(content)).startswith(("damaged image: ", "truncated image"))


def test_damaged_files_of_all_formats_are_unreadable_or_images_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    for kind in FORMATS:
        whole = np.frombuffer(encoded(noise(16, 16), kind), dtype=np.uint8)
        for _ in range(150):
            damaged = whole.copy()
            places = random.integers(0, min(len(whole), 300), 4)
            damaged[places] = random.integers(0, 256, 4)
            try:
                first = str(inspect(damaged.tobytes()))
            except Unreadable as error:
                first = str(error)
                assert "0x" not in first
                assert refusal(damaged.tobytes()) == first


def tiff_with_an_odd_tag() -> bytes:
    """A good picture behind a tag that says it holds more than the file does."""
    content = encoded(Image.new("RGB", (2, 2), "red"), "TIFF")
    start = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, start)[0]
    entries = content[start + 2 : start + 2 + 12 * count]
    odd = struct.pack("<HHII", 65000, 2, 5000, len(content) - 1)
    moved = struct.pack("<H", count + 1) + entries + odd + bytes(4)
    return content[:4] + struct.pack("<I", len(content)) + content[8:] + moved


def test_remarks_of_pillow_about_odd_metadata_do_not_leak() -> None:
    content = tiff_with_an_odd_tag()
    with pytest.warns(UserWarning, match="tag 65000|larger than file|corrupt"):
        Image.open(BytesIO(content)).load()
    assert pixels(content)[0, 0].tolist() == [255, 0, 0]  # warnings are errors here


def test_silencing_pillow_leaves_the_warnings_of_others_alone() -> None:
    decode(tiff_with_an_odd_tag())
    with pytest.warns(UserWarning, match="ours"):
        warnings.warn("ours", UserWarning, stacklevel=1)


def scene(width: int, height: int) -> Image.Image:
    """Waves that a picture of a quarter of the size can still show, another in each channel."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7 + y / 11), np.sin(x / 9), np.cos(y / 8)]
    return Image.fromarray((127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8))


@pytest.mark.parametrize(
    ("at_least", "factor", "size"),
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
@pytest.mark.parametrize("turned", [False, True])
def test_a_jpeg_is_reduced_as_far_as_both_sides_keep_what_is_asked(
    at_least: int | None, factor: int, size: tuple[int, int], turned: bool
) -> None:
    direction = -1 if turned else 1
    image = scene(*(161, 120)[::direction])
    reduced = decode_reduced(encoded(image, "JPEG"), at_least)
    assert (reduced.factor, reduced.image.size) == (factor, size[::direction])
    assert reduced.whole == image.size


def shrunk(image: Image.Image, factor: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Each block of `factor` by `factor` pixels by its mean."""
    wide = np.asarray(image, dtype=float)
    rows, columns = image.height // factor, image.width // factor
    return np.asarray(wide.reshape(rows, factor, columns, factor, 3).mean(axis=(1, 3)))


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_reduced_jpeg_is_close_to_the_means_of_its_pixels(
    mode: str, options: dict[str, Any], factor: int
) -> None:
    content = encoded(scene(160, 120).convert(mode), "JPEG", quality=95, **options)
    reduced = decode_reduced(content, 120 // factor)
    assert (reduced.factor, reduced.image.mode) == (factor, "RGB")
    error = np.abs(np.asarray(reduced.image) - shrunk(decode(content), factor))
    assert error.mean() < 1


def test_of_a_phone_jpeg_with_a_second_picture_the_first_is_reduced() -> None:
    first, second = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    content = encoded(first, "MPO", save_all=True, append_images=[second])
    reduced = decode_reduced(content, 32)
    assert reduced.factor == 2
    assert np.asarray(reduced.image)[0, 0].tolist() == [254, 0, 0]


@pytest.mark.parametrize("orientation", STORED)
def test_a_reduced_jpeg_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = Image.fromarray(STORED[orientation].repeat(8, axis=0).repeat(8, axis=1))
    content = encoded(stored, "JPEG", quality=100, subsampling=0, exif=exif)
    reduced = decode_reduced(content, 16)
    assert (reduced.factor, reduced.whole) == (8, (24 * 8, 16 * 8))
    assert np.abs(np.asarray(reduced.image, dtype=int) - UPRIGHT).max() <= 2


@pytest.mark.parametrize(
    ("orientation", "width", "factor"), [(1, 162, 4), (3, 162, 2), (6, 162, 2), (6, 163, 1)]
)
def test_what_is_turned_is_reduced_by_a_factor_of_both_sides_only(
    orientation: int, width: int, factor: int
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    reduced = decode_reduced(encoded(scene(width, 120), "JPEG", exif=exif), 30)
    assert reduced.factor == factor
    assert reduced.whole == ((120, width) if orientation == 6 else (width, 120))


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "JPEG"])
def test_other_formats_are_not_reduced(kind: str) -> None:
    content = encoded(scene(160, 120), kind)
    reduced = decode_reduced(content, 1)
    assert (reduced.factor, reduced.whole) == (1, (160, 120))
    assert np.array_equal(np.asarray(reduced.image), pixels(content))


def test_a_jpeg_that_cannot_be_reduced_is_decoded_whole() -> None:
    content = lossless_jpeg(64, 64)
    assert inspect(content) == Facts(64, 64, "L", "JPEG")
    reduced = decode_reduced(content, 8)
    assert (reduced.factor, reduced.whole) == (1, (64, 64))
    assert (np.asarray(reduced.image) == 128).all()


def test_what_is_unreadable_has_the_same_reason_when_it_would_be_reduced() -> None:
    whole = encoded(noise(64, 64), "JPEG")
    for content in (b"", b"no picture", whole[:300], whole[: len(whole) // 2]):
        with pytest.raises(Unreadable) as told:
            decode_reduced(content, 8)
        assert str(told.value) == refusal(content)


def test_a_damaged_jpeg_that_is_decoded_is_decoded_reduced_too() -> None:
    random = np.random.default_rng(0)
    whole = np.frombuffer(encoded(noise(64, 48), "JPEG", quality=50), dtype=np.uint8)
    read = 0
    for _ in range(300):
        damaged = whole.copy()
        damaged[random.integers(0, len(whole), 3)] = random.integers(0, 256, 3)
        try:
            size = decode(damaged.tobytes()).size
        except Unreadable:
            continue
        assert decode_reduced(damaged.tobytes(), 6).whole == size
        read += 1
    assert read > 100


def test_threads_decode_to_the_same_pixels() -> None:
    contents = [
        tiff_with_an_odd_tag(),
        encoded(noise(32, 32), "JPEG"),
        transparent_palette(b"\x33"),
    ]

    def decoded() -> list[bytes]:
        reduced = decode_reduced(contents[1], 8)
        assert reduced.factor == 4
        return [*(pixels(content).tobytes() for content in contents), reduced.image.tobytes()]

    expected = decoded()
    seen: list[list[bytes]] = []

    def work() -> None:
        for _ in range(20):
            seen.append(decoded())  # noqa: PERF401

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [expected] * 80
