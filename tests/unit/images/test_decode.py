"""Decoding of good, odd and damaged bytes; `tests/robustness/` has more of the last."""

import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from bad_images import encoded, lossless_jpeg, noise, png
from PIL import ExifTags, Image

from pipeline.images.decode import FORMATS, MAX_PIXELS, Unreadable, decode

LOSSLESS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
}


def reason(content: bytes) -> str:
    """The reason of a refusal, whether reduced or not."""
    with pytest.raises(Unreadable) as refused:
        decode(content)
    with pytest.raises(Unreadable) as reduced:
        decode(content, 8)
    assert str(reduced.value) == str(refused.value)
    return str(refused.value)


def pixels(content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = decode(content).image
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_known_format_is_decoded(kind: str) -> None:
    image = noise(8, 6)
    found = decode(encoded(image, kind))
    assert (found.original_size, found.mode) == ((8, 6), "RGB" if kind != "GIF" else "P")
    if kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(np.asarray(found.image), np.asarray(image))


def test_of_a_phones_jpeg_with_two_images_the_first_counts() -> None:
    first, second = (Image.new("RGB", (64, 64), color) for color in ("red", "blue"))
    reduced = decode(encoded(first, "MPO", save_all=True, append_images=[second]), 32)
    assert (reduced.factor, np.asarray(reduced.image)[0, 0].tolist()) == (2, [254, 0, 0])


def oriented(image: Image.Image, kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(image, kind, exif=exif, **LOSSLESS.get(kind, {}))


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
    found = decode(oriented(stored, kind, orientation))
    assert found.original_size == (24, 16)
    assert np.abs(np.asarray(found.image, dtype=int) - UPRIGHT).max() <= 1


@pytest.mark.parametrize("orientation", STORED)
def test_a_reduced_jpeg_is_upright(orientation: int) -> None:
    stored = Image.fromarray(STORED[orientation].repeat(8, axis=0).repeat(8, axis=1))
    reduced = decode(oriented(stored, "JPEG", orientation), 16)
    assert (reduced.factor, reduced.original_size) == (8, (24 * 8, 16 * 8))
    assert np.abs(np.asarray(reduced.image, dtype=int) - UPRIGHT).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_values_map_linearly_to_the_nearest_8_bit_values(kind: str) -> None:
    ramp = [*range(0, 65536, 257), 128, 129, 65406, 65407]
    content = encoded(Image.fromarray(np.array([ramp], dtype=np.uint16)), kind)
    assert decode(content).mode == "I;16"
    assert pixels(content)[0, :, 1].tolist() == [*range(256), 0, 1, 254, 255]


def test_the_transparent_value_of_a_16_bit_gray_png_is_white() -> None:
    rows = zlib.compress(b"\0" + struct.pack(">HHH", 0, 257, 514))
    content = png(3, 1, 16, 0, (b"tRNS", struct.pack(">H", 257)), (b"IDAT", rows))
    assert pixels(content)[0, :, 0].tolist() == [0, 255, 2]


def palette(*colors: int, transparency: int | bytes | None = None, kind: str = "PNG") -> bytes:
    """Two pixels, of the second and the first color."""
    image = Image.new("P", (2, 1))
    image.putpalette(colors)
    image.putdata([1, 0])
    return encoded(image, kind, **({} if transparency is None else {"transparency": transparency}))


def flat(mode: str, color: int | tuple[int, ...], kind: str = "PNG", **options: Any) -> bytes:
    return encoded(Image.new(mode, (1, 1), color), kind, **options)


MODES = {
    "clear": (flat("RGBA", (255, 0, 0, 0)), [255, 255, 255]),
    "gray and alpha": (flat("LA", (0, 51)), [204, 204, 204]),
    "clear WebP": (flat("RGBA", (0, 0, 0, 0), "WEBP", lossless=True), [255] * 3),
    "RGB key": (flat("RGB", (9, 8, 7), transparency=(9, 8, 7)), [255] * 3),
    "gray key": (flat("L", 9, transparency=9), [255] * 3),
    "clear palette color": (palette(0, 0, 0, 255, 0, 0, transparency=1), [255] * 3),
    "palette of alphas": (palette(0, 0, 0, 0, 0, 0, transparency=b"\xff\x33"), [204] * 3),
    "palette": (palette(1, 2, 3, 250, 251, 252), [250, 251, 252]),
    "GIF": (palette(1, 2, 3, 250, 251, 252, kind="GIF"), [250, 251, 252]),
    "1 bit": (flat("1", 1), [255] * 3),
    "8 bits of gray": (flat("L", 254), [254] * 3),
    "CMYK": (flat("CMYK", (0, 255, 255, 0), "JPEG", quality=100), [255, 0, 0]),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_become_rgb_with_transparent_parts_on_white(mode: str) -> None:
    content, expected = MODES[mode]
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


def test_more_pixels_than_allowed_are_refused_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = (b"IDAT", zlib.compress(b""))
    assert reason(png(MAX_PIXELS // 2, 2, 1, 0, nothing)).startswith("a side of 50,000,000")
    assert reason(png(10_000, 10_000, 1, 0, nothing)) == "truncated image"
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda _: pytest.fail("decoded"))
    assert reason(png(20_000, 20_000, 8, 2, nothing)) == "400.0 megapixels declared, at most 100"
    assert reason(png(MAX_PIXELS + 1, 1, 1, 0, nothing)).endswith("declared, at most 100")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_is_unreadable_or_an_image_whether_reduced_or_not(kind: str) -> None:
    random = np.random.default_rng(0)
    intact = np.frombuffer(encoded(noise(64, 48), kind), dtype=np.uint8)
    for _ in range(150):
        damaged = intact.copy()
        damaged[random.integers(0, min(len(intact), 600), 3)] = random.integers(0, 256, 3)
        try:
            size = decode(damaged.tobytes()).original_size
        except Unreadable:
            assert "0x" not in reason(damaged.tobytes())
        else:
            assert decode(damaged.tobytes(), 6).original_size == size


def test_pillows_warnings_about_odd_metadata_are_silenced() -> None:
    content = encoded(noise(8, 6), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    code = "import sys; from pipeline.images.decode import decode as d; "
    command = [sys.executable, "-c", code + "print(d(sys.stdin.buffer.read()).original_size)"]
    ended = subprocess.run(command, input=content, capture_output=True, check=True)
    assert (ended.stdout, ended.stderr) == (b"(8, 6)\n", b"")
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        decode(content)


def scene(width: int, height: int) -> Image.Image:
    """Waves that an image of a quarter of the size can still show, different in each channel."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7 + y / 11), np.sin(x / 9), np.cos(y / 8)]
    return Image.fromarray((127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8))


@pytest.mark.parametrize(
    ("min_side", "factor", "size"),
    [
        (61, 1, (161, 120)),
        (60, 2, (81, 60)),
        (30, 4, (41, 30)),
        (1, 8, (21, 15)),
    ],
)
@pytest.mark.parametrize("direction", [1, -1])
def test_a_jpeg_is_reduced_as_far_as_both_sides_keep_min_side(
    min_side: int, factor: int, size: tuple[int, int], direction: int
) -> None:
    image = scene(*(161, 120)[::direction])
    reduced = decode(encoded(image, "JPEG"), min_side)
    assert (reduced.factor, reduced.image.size) == (factor, size[::direction])
    assert reduced.original_size == image.size


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_reduced_jpeg_is_close_to_the_means_of_its_pixels(
    mode: str, options: dict[str, Any], factor: int
) -> None:
    content = encoded(scene(160, 120).convert(mode), "JPEG", quality=95, **options)
    reduced = decode(content, 120 // factor)
    assert (reduced.factor, reduced.image.mode) == (factor, "RGB")
    blocks = pixels(content).reshape(120 // factor, factor, 160 // factor, factor, 3)
    assert np.abs(np.asarray(reduced.image) - blocks.mean(axis=(1, 3))).mean() < 1


def test_a_rotated_image_is_reduced_by_a_factor_of_both_sides_only() -> None:
    expected = {(1, 162): 4, (3, 162): 2, (6, 162): 2, (6, 163): 1}  # orientation, width -> factor
    for (orientation, width), factor in expected.items():
        reduced = decode(oriented(scene(width, 120), "JPEG", orientation), 30)
        assert reduced.factor == factor


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "JPEG"])
def test_other_formats_are_not_reduced(kind: str) -> None:
    content = encoded(scene(160, 120), kind)
    assert decode(content, 1) == decode(content)


def test_a_jpeg_that_cannot_be_reduced_is_decoded_at_full_size() -> None:
    found = decode(lossless_jpeg(64, 64), 8)
    assert (found.original_size, found.factor, found.mode) == ((64, 64), 1, "L")
    assert (np.asarray(found.image) == 128).all()
