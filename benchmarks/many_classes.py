"""Benchmark 12: how long `evaluate` and `audit` take with many classes.

Pixels, features and predictions are drawn: the features of a class around a center of its own, the
predictions right for about half of the images. Both stages run as `dvc repro` calls them.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from benchmarks import photos, printed
from benchmarks.measure import run
from benchmarks.project import ONE_VIEW, Project, command, with_recipe
from benchmarks.settings import Settings
from benchmarks.tables import counted, spread, table
from pipeline import paths
from pipeline.evaluation.probabilities import log_softmax
from pipeline.storage import arrays, ledger, tables
from pipeline.training.history import COLUMNS

TITLE = "Many classes"

BACKBONE = "MobileNetV2"
STAGES = ("evaluate", "audit")
FEATURES, PIXELS, BLOCK = 1_280, 32, 2_048
SUBSETS = ("train", "test", "train", "valid", "train", "train", "train")  # of a class's images
BETTER = {paths.HEAD: 3.0, paths.MODEL: 5.0}  # added to the logit of the label


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's table."""
    lines = []
    for n_classes, images in settings.classes:
        project = drawn(folder / f"{n_classes}x{images}", n_classes, images)
        used: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for number in range(settings.rounds):
            shutil.rmtree(project.folder / paths.METRICS / "audit", ignore_errors=True)  # as DVC
            for stage in STAGES:
                told = run(command(stage, BACKBONE), project.folder).printed
                used[stage].append(printed.usage(told)[stage])
                seconds = used[stage][-1][0]
                say(f"round {number + 1}, {n_classes:,} x {images}, {stage}: {seconds:.1f} s")
        shutil.rmtree(project.folder)
        columns = [spread(values) for stage in STAGES for values in zip(*used[stage], strict=True)]
        lines.append([f"{n_classes:,}", f"{images:,}", *columns])
    header = ["classes", "images of each"]
    header += [f"`{stage}`, {unit}" for stage in STAGES for unit in ("s", "MiB")]
    return (
        f"Drawn pixels ({PIXELS} px), {FEATURES:,} features and log-probabilities of each image; a "
        f"seventh of the images is `valid`, another one `test`. {counted(settings.rounds, 'round')}"
        f", seconds and MiB as the stages print them.\n\n{table(header, lines)}"
    )


def drawn(folder: Path, n_classes: int, images: int) -> Project:
    """A project with all that both stages read."""
    project = with_recipe(folder, photos.drawn(), BACKBONE, ONE_VIEW)
    rng = np.random.default_rng(0)
    rows = [
        ledger.LedgerRow(
            f"{number}/{image}", "train", f"{number}/{image}.jpg", f"{number}", number,
            SUBSETS[image % len(SUBSETS)], f"{number}/{image}", 9, 9, "RGB",
            f"train/{number}/{image}", "",
        )
        for number in range(n_classes)
        for image in range(images)
    ]  # fmt: skip
    ledger.write_ledger(folder / paths.LEDGER, rows)
    label = np.array([row.index for row in rows])
    fingerprint = ledger.fingerprint(rows)
    centers = rng.normal(0, 0.25, (n_classes, FEATURES)).astype(np.float32)

    def blocks() -> Iterator[NDArray[np.int64]]:
        return (label[at : at + BLOCK] for at in range(0, len(label), BLOCK))

    def features(of: NDArray[np.int64]) -> NDArray[np.float32]:
        noise = rng.standard_normal((len(of), FEATURES), np.float32)
        return np.asarray(np.maximum(centers[of] + noise, 0)[:, None], np.float32)

    def predictions(of: NDArray[np.int64], better: float) -> NDArray[np.float32]:
        logits = rng.normal(0, 1.5, (len(of), n_classes))
        logits[np.arange(len(of)), of] += better
        return np.asarray(log_softmax(logits), np.float32)

    def write(path: Path, parts: Iterator[NDArray[Any]], dtype: DTypeLike, *shape: int) -> None:
        shape = len(rows), *shape
        arrays.write(folder / path, parts, shape=shape, dtype=dtype, fingerprint=fingerprint)

    pixels = (rng.integers(0, 256, (len(of), PIXELS, PIXELS, 3), np.uint8) for of in blocks())
    write(paths.RESIZED, pixels, np.uint8, PIXELS, PIXELS, 3)
    write(paths.features(BACKBONE), map(features, blocks()), np.float32, 1, FEATURES)
    for model, better in BETTER.items():
        parts = (predictions(of, better) for of in blocks())
        write(paths.predictions(model), parts, np.float32, n_classes)
    for history in (paths.HEAD_HISTORY, paths.FINE_TUNE_HISTORY):
        tables.write_csv(folder / history, COLUMNS, [(0, 0.7, 0.5, 0.7, 0.5)])
    return project
