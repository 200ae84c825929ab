"""Benchmark 4: time, memory and disk an image, at ten and a hundred times as many images."""

import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import photos
from benchmarks.measure import Run
from benchmarks.project import FEW_IMAGES, ONE_VIEW, ROW_CACHE, Project, run_stage, with_recipe
from benchmarks.settings import Settings
from benchmarks.tables import counted, number, spread, table

TITLE = "Many images"

BACKBONE = "MobileNetV2"
STAGES = ("split", "resize", "extract")
ON_DISK = ("data/split.csv", "data/resized.zarr", "data/features", ROW_CACHE)


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's table."""
    taken = replace(photos.drawn(), weights=photos.find().weights)
    projects = {
        count: _prepared(folder / str(count), taken, count, settings.many_size)
        for count in settings.many
    }
    runs: dict[tuple[int, str], list[Run]] = defaultdict(list)
    for at in range(settings.rounds):
        for count, project in projects.items():
            shutil.rmtree(project.folder / ROW_CACHE, ignore_errors=True)
            for stage in STAGES:
                runs[count, stage].append(run_stage(project, stage, BACKBONE))
                seconds = runs[count, stage][-1].seconds
                say(f"round {at + 1}, {count:,} images, {stage}: {seconds:.1f} s")
    times = [
        [
            f"{count:,}",
            *(
                spread([run.seconds / count * 1e3 for run in runs[count, stage]])
                for stage in STAGES
            ),
            *(spread([run.peak_bytes / 2**20 for run in runs[count, stage]]) for stage in STAGES),
        ]
        for count in projects
    ]
    disk = [
        [f"{count:,}", *(number(_bytes_on_disk(project.folder / name) / count) for name in ON_DISK)]
        for count, project in projects.items()
    ]
    return (
        f"{taken.words.capitalize()}, a square in the corner of each copy making it another, "
        f"{settings.many_size} px, {BACKBONE}, one view, row cache empty at first, "
        f"{counted(settings.rounds, 'round')}; times are those of whole processes, start-up "
        "included.\n\n"
        + table(
            [
                "images",
                *(f"{stage}, ms an image" for stage in STAGES),
                *(f"{stage}, MiB" for stage in STAGES),
            ],
            times,
        )
        + "\nBytes on disk an image:\n\n"
        + table(["images", *(f"`{name}`" for name in ON_DISK)], disk)
    )


def _prepared(folder: Path, taken: photos.Photos, count: int, size: int) -> Project:
    """A project with `count` images, a fifth of them unlabelled, and its weights."""
    unlabelled = count // 5
    train, test = folder / "train.zip", folder / "test.zip"
    photos.write_zip(
        train,
        photos.numbered(
            "train", photos.labelled(taken.train, count - unlabelled), range(count - unlabelled)
        ),
    )
    photos.write_zip(
        test,
        photos.numbered("test", photos.unlabelled(taken.test, unlabelled), range(unlabelled)),
    )
    changes = {"data.train": str(train), "data.test": str(test), "resize.size": size}
    project = with_recipe(
        folder / "project", taken, BACKBONE, {**FEW_IMAGES, **ONE_VIEW, **changes}
    )
    run_stage(project, "fetch_weights", BACKBONE)
    return project


def _bytes_on_disk(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
