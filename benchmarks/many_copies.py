"""Benchmark 13: the searches for near duplicates and for neighbors, in cells and exhaustive.

Thumbnails are those of crops drawn from the photos, and a tenth of mirrored copies with noise.
Features are drawn from a space of 40 dimensions, each class around a center of its own.
"""

import contextlib
import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import photos
from benchmarks.settings import Settings
from benchmarks.tables import number, table
from pipeline.evaluation import data_quality
from pipeline.images import decode, near_duplicates

TITLE = "Copies and neighbors among many images"

THRESHOLD = 0.87  # of the recipes
FEATURES, DIMENSIONS, OF_A_CLASS = 1_280, 40, 100
SAMPLE = 1_000  # images whose neighbors are compared


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's tables."""
    copies, neighbors = [], []
    for count in settings.copies:
        thumbnails = _thumbnails(count)
        found, used = _timed(near_duplicates.group, thumbnails, THRESHOLD)
        say(f"near duplicates, {count:,} images: {used} s")
        line = [f"{count:,}", used, f"{len(np.unique(found)):,}"]
        if count <= settings.copies_exhaustive:
            near_duplicates.FEW_IMAGES, few = count, near_duplicates.FEW_IMAGES
            exact, used = _timed(near_duplicates.group, thumbnails, THRESHOLD)
            near_duplicates.FEW_IMAGES = few
            copy = exact != np.arange(count)
            line += [used, f"{(found[copy] == exact[copy]).mean():.3%}"]
            line += [f"{(exact[found] != exact).sum():,}"]
        copies.append(line + ["-"] * (6 - len(line)))
    for count in (count for count in settings.copies if count <= settings.copies_exhaustive):
        features = _features(count)
        some = np.random.default_rng(1).choice(count, min(count, SAMPLE), replace=False)
        nearest, isolation = _exact(features, some)
        near, used = _timed(data_quality.neighbors, features)
        say(f"neighbors, {count:,} images: {used} s")
        error = near.isolation[some] - isolation
        same = (near.nearest[some] == nearest).mean()
        mean, high = number(error.mean()), number(np.quantile(error, 0.99))
        neighbors.append([f"{count:,}", used, f"{same:.1%}", number(isolation.mean()), mean, high])
    return (
        f"{photos.find().words.capitalize()}, cropped. Seconds, and in brackets those of all "
        f"processors. Up to {near_duplicates.FEW_IMAGES:,} images, all pairs are compared.\n\n"
        + table(
            ["images", "s", "groups", "s, all pairs", "copies in the same group", "in another one"],
            copies,
        )
        + f"\nNeighbors by {FEATURES:,} features, exhaustive up to {data_quality.MANY_IMAGES:,}; "
        f"{SAMPLE:,} images compared with all:\n\n"
        + table(
            ["images", "s", "nearest found", "mean isolation", "mean error", "99 % of errors"],
            neighbors,
        )
    )


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    started, used = time.perf_counter(), time.process_time()
    result = function(*arguments)
    seconds = time.perf_counter() - started
    return result, f"{number(seconds)} ({number(time.process_time() - used)})"


def _thumbnails(count: int) -> NDArray[np.uint8]:
    """Draw crops of the photos, in gray; every tenth image is a mirrored copy of the one before."""
    rng = np.random.default_rng(0)
    gray = np.empty((count, near_duplicates.SIDE, near_duplicates.SIDE), np.uint8)
    with zipfile.ZipFile(photos.find().train) as archive:
        names = [name for name in archive.namelist() if _is_photo(archive, name)]
        for number_of, places in enumerate(np.array_split(np.arange(count), len(names))):
            image = Image.open(io.BytesIO(archive.read(names[number_of]))).convert("L")
            size = np.array(image.size)
            for place in places:
                side = size * rng.uniform(0.15, 0.6, 2)
                corner = (size - side) * rng.random(2)
                box = (*corner.tolist(), *(corner + side).tolist())
                crop = image.resize(gray.shape[:0:-1], Image.Resampling.BICUBIC, box=box)
                gray[place] = np.asarray(crop)
    noise = rng.integers(-6, 7, gray[::10].shape)
    gray[9::10] = np.clip(gray[8::10, :, ::-1] + noise[: count // 10], 0, 255)
    return gray


def _is_photo(archive: zipfile.ZipFile, name: str) -> bool:
    with contextlib.suppress(decode.Unreadable):
        return name.endswith(".jpg") and bool(decode.decode(archive.read(name)).image.size)
    return False


def _features(count: int) -> data_quality.Features:
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 1, (1 + count // OF_A_CLASS, DIMENSIONS))
    label = np.arange(count) // OF_A_CLASS
    inner = (centers[label] + rng.standard_normal((count, DIMENSIONS))).astype(np.float32)
    return inner @ rng.standard_normal((DIMENSIONS, FEATURES), np.float32)


def _exact(
    features: data_quality.Features, some: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    centered = features - features.mean(axis=0)
    centered /= np.linalg.norm(centered, axis=1, keepdims=True)
    cosines = centered[some] @ centered.T
    cosines[np.arange(len(some)), some] = -np.inf
    closest = np.partition(cosines, -data_quality.NEIGHBORS, axis=1)[:, -data_quality.NEIGHBORS :]
    return cosines.argmax(axis=1), 1 - closest.mean(axis=1, dtype=np.float64)
