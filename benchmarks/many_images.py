"""Benchmark 4: time, memory and disk an image, at ten and a hundred times as many images.

What a stage takes for a few images is its start-up; times an image are shown with it and less it.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import photos, printed
from benchmarks.measure import Run
from benchmarks.project import FEW_IMAGES, ONE_VIEW, ROW_CACHE, Project, run_stage, with_recipe
from benchmarks.settings import Settings
from benchmarks.tables import counted, number, spread, table

TITLE = "Many images"

BACKBONE = "MobileNetV2"
STAGES = ("split", "resize", "extract")
FEW = 20  # images, whose time is that of the start-up
ON_DISK = ("data/split.csv", "data/resized.zarr", "data/features", ROW_CACHE)


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's table."""
    taken = replace(photos.drawn(), weights=photos.find().weights)
    projects = {
        count: _prepared(folder / str(count), taken, count, settings.many_size)
        for count in (FEW, *settings.many)
    }
    runs: dict[tuple[int, str], list[Run]] = defaultdict(list)
    for at in range(settings.rounds):
        for count, project in projects.items():
            shutil.rmtree(project.folder / ROW_CACHE, ignore_errors=True)
            for stage in STAGES:
                runs[count, stage].append(run_stage(project, stage, BACKBONE))
                last = runs[count, stage][-1].seconds
                say(f"round {at + 1}, {count:,} images, {stage}: {last:.1f} s")
    del projects[FEW]
    seconds = {place: [run.seconds for run in of_it] for place, of_it in runs.items()}
    started = "; ".join(f"`{stage}` {spread(seconds[FEW, stage])} s" for stage in STAGES)
    times = [
        [
            f"{count:,}",
            *(spread([s / count * 1e3 for s in seconds[count, stage]]) for stage in STAGES),
            *(spread(_each(seconds[count, stage], seconds[FEW, stage], count)) for stage in STAGES),
        ]
        for count in projects
    ]
    memory = [
        [
            f"{count:,}",
            *(
                spread([printed.usage(run.printed)[stage][1] for run in runs[count, stage]])
                for stage in STAGES
            ),
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
        f"{counted(settings.rounds, 'round')}. Times are those of whole processes; start-up is "
        f"their time on {FEW} images: {started}.\n\n"
        + table(
            [
                "images",
                *(f"{stage}, ms an image" for stage in STAGES),
                *(f"{stage}, less start-up" for stage in STAGES),
            ],
            times,
        )
        + "\nMost memory at one time, MiB, as the stages print it:\n\n"
        + table(["images", *STAGES], memory)
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


def _each(seconds: list[float], started: list[float], count: int) -> list[float]:
    """Milliseconds that each image beyond the few of the start-up takes."""
    both = zip(seconds, started, strict=True)
    return [(whole - start) / (count - FEW) * 1e3 for whole, start in both]


def _bytes_on_disk(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
