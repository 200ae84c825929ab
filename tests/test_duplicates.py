"""Copies that were recompressed, resized, cropped or mirrored are found; other pictures are not."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.images import decode, near_duplicates

SAMPLE = Path(__file__).parent.parent / "data" / "sample" / "train.zip"
LEAST = 0.87  # of the recipes
PICTURES = 60


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    with zipfile.ZipFile(SAMPLE) as archive:
        names = [f"train/{kind}.{i}.jpg" for kind in ("cat", "dog") for i in range(40, 70)]
        return [decode.decode(archive.read(name)) for name in names]


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer).convert("RGB")


def halved(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2))


def cropped(image: Image.Image) -> Image.Image:
    """By 3 % of the width and of the height."""
    across, down = (max(1, round(0.015 * side)) for side in image.size)
    return image.crop((across, down, image.width - across, image.height - down))


def thumbnails(images: list[Image.Image]) -> np.ndarray:
    return np.stack([near_duplicates.thumbnail(image) for image in images])


def test_a_thumbnail_is_grey_and_small() -> None:
    found = near_duplicates.thumbnail(Image.new("RGB", (30, 50), (255, 0, 0)))
    assert found.dtype == np.uint8
    assert found.tolist() == [[76] * near_duplicates.SIDE] * near_duplicates.SIDE


@pytest.mark.parametrize(
    "change",
    [recompressed, halved, cropped, ImageOps.mirror, lambda image: ImageOps.mirror(cropped(image))],
    ids=["recompressed", "halved", "cropped", "mirrored", "mirrored and cropped"],
)
def test_copies_are_found(
    pictures: list[Image.Image], change: Callable[[Image.Image], Image.Image]
) -> None:
    both = thumbnails(pictures + [change(image) for image in pictures])
    found = near_duplicates.group(both, LEAST)
    originals = np.arange(PICTURES)
    assert np.mean(found[PICTURES:] == originals) >= 0.95
    assert found[:PICTURES].tolist() == originals.tolist()


def test_flat_pictures_are_alike_to_none() -> None:
    flat = [Image.new("RGB", (20, 20), (grey, grey, grey)) for grey in (0, 0, 128, 255)]
    assert near_duplicates.group(thumbnails(flat), LEAST).tolist() == [0, 1, 2, 3]


def test_no_picture_is_no_group() -> None:
    assert near_duplicates.group(np.empty((0, 10, 10), np.uint8), LEAST).tolist() == []


def test_the_negative_of_a_picture_is_another_picture(pictures: list[Image.Image]) -> None:
    both = thumbnails([pictures[0], ImageOps.invert(pictures[0])])
    assert near_duplicates.group(both, LEAST).tolist() == [0, 1]


def test_a_group_is_what_hangs_together_and_known_by_its_first(
    pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pictures[:2]
    order = thumbnails([other, one, ImageOps.mirror(other), recompressed(one), halved(one)])
    assert near_duplicates.group(order, LEAST).tolist() == [0, 1, 0, 1, 1]
    monkeypatch.setattr(near_duplicates, "BLOCK", 1)  # an image at a time
    assert near_duplicates.group(order, LEAST).tolist() == [0, 1, 0, 1, 1]


def test_a_correlation_is_decided_to_the_last_bit() -> None:
    """Of gradients that agree but for one value."""
    grey = np.random.default_rng(0).integers(0, 256, (2, 10, 10)).astype(np.uint8)
    grey[1] = grey[0]
    grey[1, 5, 5] ^= 64
    first, second = near_duplicates._gradients(grey).astype(np.int64)
    cosine = float((first @ second) / np.sqrt(float((first @ first) * (second @ second))))
    assert 0.9 < cosine < 1
    assert near_duplicates.group(grey, cosine).tolist() == [0, 0]
    assert near_duplicates.group(grey, np.nextafter(cosine, 1) + 1e-15).tolist() == [0, 1]


def test_no_pair_is_overlooked() -> None:
    """Against all pairs, one by one."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (120, 3, 3)).astype(np.uint8)
    grey = np.stack([np.asarray(Image.fromarray(one).resize((10, 10))) for one in coarse])
    gradients = near_duplicates._gradients(grey).astype(np.int64)
    turned = near_duplicates._turned(gradients)
    length = np.sqrt((gradients**2).sum(axis=1))
    least = 0.6
    alike = np.maximum(gradients @ gradients.T, turned @ gradients.T) >= least * np.outer(
        length, length
    )
    assert 120 < alike.sum() < 2_000
    group = np.arange(120)
    for _ in range(120):
        group = np.array([group[row].min() for row in alike])
    assert near_duplicates.group(grey, least).tolist() == group.tolist()
