"""Recompressed, resized, cropped and mirrored copies are grouped; different images are not."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bad_images import encoded
from PIL import Image, ImageOps

from pipeline.images import decode, near_duplicates

SAMPLE = Path(__file__).parents[3] / "data" / "sample" / "train.zip"
THRESHOLD = 0.87  # of the recipes
COUNT = 60


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    with zipfile.ZipFile(SAMPLE) as archive:
        names = [f"train/{kind}.{i}.jpg" for kind in ("cat", "dog") for i in range(40, 70)]
        return [decode.decode(archive.read(name)).image for name in names]


def recompressed(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=40))).convert("RGB")


def cropped(image: Image.Image) -> Image.Image:
    """By 3 % of the width and of the height."""
    across, down = (max(1, round(0.015 * side)) for side in image.size)
    return image.crop((across, down, image.width - across, image.height - down))


def groups(images: list[Image.Image]) -> list[int]:
    thumbnails = np.stack([near_duplicates.thumbnail(image) for image in images])
    return list(near_duplicates.group(thumbnails, THRESHOLD))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed": recompressed,
    "halved": lambda image: image.reduce(2),
    "mirrored": ImageOps.mirror,
    "mirrored and cropped": lambda image: ImageOps.mirror(cropped(image)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_grouped_with_their_originals(images: list[Image.Image], change: str) -> None:
    found = groups(images + [CHANGES[change](image) for image in images])
    assert found[:COUNT] == [*range(COUNT)]
    assert np.mean(np.array(found[COUNT:]) == range(COUNT)) >= 0.95


def test_flat_images_and_a_negative_are_in_no_group(images: list[Image.Image]) -> None:
    flat = [Image.new("RGB", (20, 20), (gray, gray, gray)) for gray in (0, 0, 128, 255)]
    assert groups([*flat, images[0], ImageOps.invert(images[0])]) == [*range(6)]
    assert near_duplicates.group(np.empty((0, 10, 10), np.uint8), THRESHOLD).tolist() == []


@pytest.mark.parametrize("block", [near_duplicates.BLOCK, 1])
def test_a_group_is_transitive_and_named_after_its_first(
    block: int, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "BLOCK", block)
    one, other = images[:2]
    copies = [other, one, ImageOps.mirror(other), recompressed(one), one.reduce(2)]
    assert groups(copies) == [0, 1, 0, 1, 1]


def test_a_correlation_is_decided_to_the_last_bit() -> None:
    """With gradients that agree but for one value."""
    gray = np.random.default_rng(0).integers(0, 256, (2, 10, 10)).astype(np.uint8)
    gray[1] = gray[0]
    gray[1, 5, 5] ^= 64
    first, second = near_duplicates._gradients(gray).astype(np.int64)
    cosine = float((first @ second) / np.sqrt(float((first @ first) * (second @ second))))
    assert 0.9 < cosine < 1
    assert near_duplicates.group(gray, cosine).tolist() == [0, 0]
    assert near_duplicates.group(gray, np.nextafter(cosine, 1) + 1e-15).tolist() == [0, 1]


def test_no_pair_is_missed() -> None:
    """Compared with all pairs, one by one."""
    coarse = np.random.default_rng(1).integers(0, 256, (120, 3, 3)).astype(np.uint8)
    gray = np.stack([np.asarray(Image.fromarray(one).resize((10, 10))) for one in coarse])
    gradients = near_duplicates._gradients(gray).astype(np.int64)
    mirrored = near_duplicates._gradients(gray[:, :, ::-1]).astype(np.int64)
    length = np.sqrt((gradients**2).sum(axis=1))
    products = np.maximum(gradients @ gradients.T, mirrored @ gradients.T)
    alike = products >= 0.6 * np.outer(length, length)
    assert 120 < alike.sum() < 2_000
    group = np.arange(120)
    for _ in range(120):
        group = np.array([group[row].min() for row in alike])
    assert near_duplicates.group(gray, 0.6).tolist() == group.tolist()
