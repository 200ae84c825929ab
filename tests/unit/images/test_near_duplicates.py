"""Recompressed, resized, cropped and mirrored copies are grouped; different images are not."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bad_images import encoded
from numpy.typing import NDArray
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


def smooth(n: int, seed: int) -> NDArray[np.uint8]:
    """Draw thumbnails of which a tenth are copies, from equal to barely alike, half mirrored."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 5, 5)).astype(np.uint8)
    gray = np.stack([np.asarray(Image.fromarray(one).resize((10, 10))) for one in coarse])
    deviations = np.linspace(0, 25, n // 10)[:, None, None]
    copies = gray[: n // 10] + deviations * rng.standard_normal((n // 10, 10, 10))
    gray[-len(copies) :] = np.clip(copies, 0, 255)
    gray[-(len(copies) // 2) :] = gray[-(len(copies) // 2) :, :, ::-1]
    return gray


def test_a_search_in_cells_finds_the_groups_of_all_pairs_in_any_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gray = smooth(6_000, 0)
    exact = near_duplicates.group(gray, THRESHOLD)
    monkeypatch.setattr(near_duplicates, "FEW_IMAGES", 1_000)
    monkeypatch.setattr(near_duplicates, "CHUNK", 1_000)
    found = near_duplicates.group(gray, THRESHOLD)
    joined = np.flatnonzero(exact != np.arange(len(gray)))
    assert len(joined) > 300
    assert (found[joined] == exact[joined]).mean() >= 0.999
    assert (exact[found] == exact).all()  # none invented
    order = np.random.default_rng(1).permutation(len(gray))
    shuffled = near_duplicates.group(gray[order], THRESHOLD)
    pairs = {tuple(pair) for pair in np.stack([order, order[shuffled]], axis=1).tolist()}
    assert all(found[one] == found[other] for one, other in pairs)
    assert len(np.unique(shuffled)) == len(np.unique(found))


def test_coordinates_correlate_as_gradients_do_within_the_margin() -> None:
    gray = smooth(300, 2)
    for image in (gray, gray[:, :, ::-1]):
        gradients = [near_duplicates._gradients(one).astype(np.int64) for one in (image, gray)]
    squares = (gradients[1] ** 2).sum(axis=1)
    search = near_duplicates._Search(gray, np.arange(300), squares, THRESHOLD)
    products = search._products(np.arange(300), np.arange(300))
    norm = np.sqrt(np.outer(squares, squares))
    either = np.maximum(gradients[0] @ gradients[1].T, gradients[1] @ gradients[1].T) / norm
    error = np.abs(products / near_duplicates.LENGTH**2 - either)
    assert error.max() < near_duplicates.MARGIN / 3
    assert (products == np.rint(products)).all()
    assert products.max() < 2**24


def test_frames_of_one_clip_are_one_group_and_others_are_compared_with_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """20,000 frames have 200 million pairs; only a few of them are kept."""
    rng = np.random.default_rng(3)
    gray = smooth(1_001, 3)
    frames = gray[:1].astype(int) + rng.integers(-3, 4, (20_000, 10, 10))
    taken: list[int] = []
    joined = near_duplicates._joined

    def counted(group: NDArray[np.int64], pairs: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        taken.append(sum(part.shape[1] for part in pairs))
        return joined(group, pairs)

    monkeypatch.setattr(near_duplicates, "_joined", counted)
    found = near_duplicates.group(
        np.concatenate([gray, np.clip(frames, 0, 255).astype(np.uint8)]), THRESHOLD
    )
    assert (found[1_001:] == 0).all()
    assert found[:1_001].tolist() == near_duplicates.group(gray, THRESHOLD).tolist()
    assert sum(taken) < 20 * len(found)
