"""Kinds of TIFF that Pillow opens and shows wrongly; tags as in TIFF 6.0 and TIFF/EP."""

from PIL.TiffImagePlugin import TiffImageFile

from pipeline.runtime.errors import Unreadable

SUBFILE, OLD_SUBFILE, BITS, PHOTOMETRIC, PLANAR = 254, 255, 258, 262, 284
MAX_SAMPLE, SAMPLE_FORMAT, SUBSAMPLING = 281, 339, 530
WHITE_IS_ZERO, YCBCR, SEPARATE, UNSIGNED = 0, 6, 2, 1
JPEG = ("jpeg", "tiff_jpeg")  # whose decoder undoes the subsampling


def select_page(image: TiffImageFile) -> None:
    """Seek to the first page of full size: thumbnails of raw photos (DNG, NEF) come before it."""
    try:
        while image.tag_v2.get(SUBFILE, 0) & 1 or image.tag_v2.get(OLD_SUBFILE, 1) == 2:
            image.seek(image.tell() + 1)
    except EOFError:
        raise Unreadable(
            "a TIFF with reduced pages only, as in raw photos (DNG, NEF); develop it as JPEG or PNG"
        ) from None


def require_readable(image: TiffImageFile) -> None:
    """Raise `Unreadable` for samples that have no certain 8-bit value, or that Pillow mixes up."""
    tags = image.tag_v2
    bits, samples = max(tags.get(BITS, (1,))), len(tags.get(BITS, (1,)))
    planes = samples > 1 and tags.get(PLANAR, 1) == SEPARATE
    subsampled = tuple(tags.get(SUBSAMPLING, (2, 2))) != (1, 1)
    mixed = tags.get(PHOTOMETRIC) == YCBCR and samples > 1 and subsampled
    wrong = {
        "signed or floating-point samples": set(tags.get(SAMPLE_FORMAT, (1,))) - {UNSIGNED, 4},
        "samples of 32 bits": bits > 16,
        "16-bit samples in separate planes": planes and bits > 8,
        "16-bit colors that use fewer bits": samples > 1 and bits > 8 and _limit(image) < 65535,
        "subsampled YCbCr without JPEG compression": mixed
        and image.info.get("compression") not in JPEG,
    }
    for what, is_so in wrong.items():
        if is_so:
            raise Unreadable(f"a TIFF with {what}; save it with unsigned samples of 8 bits")


def gray_range(image: TiffImageFile) -> tuple[int, bool]:
    """Return the largest gray value of a page, and whether it stands for black."""
    return _limit(image), image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _limit(image: TiffImageFile) -> int:
    """Return the largest value: MaxSampleValue if it says that fewer bits are in use."""
    largest = 2 ** int(max(image.tag_v2.get(BITS, (1,)))) - 1
    declared = int(max(image.tag_v2.get(MAX_SAMPLE, (largest,))))
    fewer_bits = 255 < declared < largest and declared & (declared + 1) == 0
    return declared if fewer_bits else largest
