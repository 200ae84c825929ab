"""Benchmark 14: every stage from zips to the report, on images that are drawn in batches.

An image is a mosaic of random colors, different from all others, with a weak pattern of its class.
Each number of images has zips of its own; a fifth of the images is unlabelled.
"""

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import photos, printed
from benchmarks.measure import run
from benchmarks.project import (
    FEW_IMAGES,
    ONE_VIEW,
    ROW_CACHE,
    Project,
    command,
    with_recipe,
)
from benchmarks.settings import Settings
from benchmarks.tables import number, table

TITLE = "From zips to the report"

BACKBONE = "gabor"
STAGES = (
    *("split", "resize", "fetch_weights", "extract", "audit", "train_head", "fine_tune"),
    *("evaluate", "explain", "submit", "report"),
)
SIZE, CELL = 32, 4  # pixels of an image, and of a color in it
CLASSES = ("cat", "dog")
BATCH = 1_000


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's tables."""
    used: dict[int, dict[str, tuple[float, float]]] = {}
    for count in settings.zip_to_report:
        project = prepared(folder / str(count), count)
        used[count] = {}
        for stage in STAGES:
            if stage in ("resize", "extract"):
                shutil.rmtree(project.folder / ROW_CACHE, ignore_errors=True)
            told = run(command(stage, BACKBONE), project.folder).printed
            used[count][stage] = printed.usage(told)[stage]
            seconds, mebibytes = used[count][stage]
            say(f"{count:,} images, {stage}: {seconds:.1f} s, {mebibytes:,.0f} MiB")
        shutil.rmtree(folder / str(count))
    counts = list(used)
    rows = []
    for stage in STAGES:
        each = [number(used[count][stage][0] / count * 1e3) for count in counts]
        most = [f"{used[count][stage][1]:,.0f}" for count in counts]
        rows.append([f"`{stage}`", *each, *most, *_slope(used, counts, stage)])
    return (
        f"Drawn images, {SIZE} px, BMP in stored zips, the network `{BACKBONE}`, one view, a "
        "logistic head, no fine-tuning, row cache empty at first, one round. Seconds and MiB as "
        "the stages print them; the last column is the growth of memory between the last two "
        "numbers of images.\n\n"
        + table(
            [
                "stage",
                *(f"{count:,} images, ms each" for count in counts),
                *(f"{count:,}, MiB" for count in counts),
                *["bytes an image"][: len(counts) - 1],
            ],
            rows,
        )
    )


def _slope(
    used: dict[int, dict[str, tuple[float, float]]], counts: list[int], stage: str
) -> list[str]:
    if len(counts) < 2:
        return []
    few, many = counts[-2:]
    grown = used[many][stage][1] - used[few][stage][1]
    return [f"{grown * 2**20 / (many - few):,.0f}"]


def prepared(folder: Path, count: int) -> Project:
    """A project with `count` images in zips, a fifth of them unlabelled."""
    rng, unlabelled = np.random.default_rng(0), count // 5
    label = np.arange(count - unlabelled) % len(CLASSES)
    train, test = folder / "train.zip", folder / "test.zip"
    names = (f"train/{CLASSES[index]}.{at}.bmp" for at, index in enumerate(label))
    photos.write_zip(train, zip(names, _drawn(rng, label), strict=True))
    names = (f"test/{at}.bmp" for at in range(unlabelled))
    hidden = rng.integers(0, len(CLASSES), unlabelled)
    photos.write_zip(test, zip(names, _drawn(rng, hidden), strict=True))
    changes = {"data.train": str(train), "data.test": str(test), "resize.size": SIZE}
    changes |= {"fine_tune": None, "compute.threads": None, "compute.instruction_set": None}
    return with_recipe(
        folder / "project", photos.drawn(), BACKBONE, {**FEW_IMAGES, **ONE_VIEW, **changes}
    )


def _drawn(rng: np.random.Generator, label: NDArray[np.int64]) -> Iterator[bytes]:
    """Yield a BMP file of each label."""
    header = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE)).save(header, "BMP")
    head = header.getvalue()[: -SIZE * SIZE * 3]
    cells = SIZE // CELL
    stripes = np.indices((cells, cells))[:, None] % 2 * 40  # of each class, across or down
    for at in range(0, len(label), BATCH):
        of = label[at : at + BATCH]
        colors = rng.integers(0, 216, (len(of), cells, cells, 3), np.uint8)
        colors += stripes[of % 2, 0, :, :, None].astype(np.uint8)
        pixels = colors.repeat(CELL, axis=1).repeat(CELL, axis=2)
        yield from (head + image.tobytes() for image in pixels)
