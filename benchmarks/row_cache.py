"""Benchmark 3: what a change of the photos costs when the row cache knows most of them."""

import itertools
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks import photos, printed
from benchmarks.measure import Run
from benchmarks.project import FEW_IMAGES, ONE_VIEW, ROW_CACHE, Project, run_stage, with_recipe
from benchmarks.settings import Settings
from benchmarks.tables import counted, ratio, spread, table

TITLE = "The row cache"

BACKBONE = "MobileNetV2"
STAGES = ("resize", "extract")
FULL = "all, row cache empty"
ONE = "one image added"
ADDED = "1 % of the images added"
RENAMED = "all images renamed, in the same order"
SHUFFLED = "all images renamed, in another order"
RAISED = "`extract.views` raised from 1 to 2"
RENAMED_FROM, SHUFFLED_FROM = 1_000_000, 2_000_000  # first numbers of the new names


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's table."""
    taken = photos.find()
    count = settings.row_cache
    added = max(1, count // 100)
    order = list(range(count))
    random.Random(0).shuffle(order)
    zips = {
        FULL: _zips(folder / "full", taken, count, range(count), left_out=added + 1),
        ONE: _zips(folder / "one", taken, count, range(count), left_out=added),
        ADDED: _zips(folder / "added", taken, count, range(count)),
        RENAMED: _zips(folder / "renamed", taken, count, itertools.count(RENAMED_FROM)),
        SHUFFLED: _zips(
            folder / "shuffled", taken, count, (SHUFFLED_FROM + place for place in order)
        ),
    }
    project = with_recipe(
        folder / "project",
        taken,
        BACKBONE,
        {**FEW_IMAGES, **ONE_VIEW, "resize.size": settings.size},
    )
    project.change(zips[FULL])
    run_stage(project, "fetch_weights", BACKBONE)
    runs: dict[str, list[dict[str, Run]]] = defaultdict(list)
    for at in range(settings.rounds):
        shutil.rmtree(project.folder / ROW_CACHE, ignore_errors=True)
        project.change({"extract.views": 1})
        for step, changes in zips.items():
            project.change(changes)
            run_stage(project, "split", BACKBONE)
            runs[step].append(_stages(project, STAGES))
            say(f"round {at + 1}, {step}: {_seconds(runs[step][-1]):.1f} s")
        project.change({"extract.views": 2})
        runs[RAISED].append(_stages(project, STAGES[1:]))
        say(f"round {at + 1}, {RAISED}: {_seconds(runs[RAISED][-1]):.1f} s")
    seconds = {step: [_seconds(one) for one in of_step] for step, of_step in runs.items()}
    rows = [
        [
            step,
            *(_stage_seconds(of_step, stage) for stage in STAGES),
            spread(seconds[step]),
            ratio(seconds[step], seconds[FULL]),
            ratio(_beyond(seconds[step], seconds[ONE]), seconds[FULL]),
            *(_rows_computed(of_step[-1], stage) for stage in STAGES),
        ]
        for step, of_step in runs.items()
    ]
    return (
        f"{count:,} {taken.words} (the first run has {added + 1:,} fewer), {BACKBONE} at "
        f"{settings.size} px, one view until the last step, {counted(settings.rounds, 'round')}; "
        "each step starts from what the one before it left. Seconds are those that the stages "
        "`resize` and `extract` print at their end; one image added costs little but their "
        "start-up, so what a step takes beyond that is shown, too.\n\n"
        + table(
            [
                "",
                "resize, s",
                "extract, s",
                "both, s",
                "to the full run",
                "beyond one image, to the full run",
                "rows resized",
                "rows extracted",
            ],
            rows,
        )
    )


def _zips(
    folder: Path,
    taken: photos.Photos,
    count: int,
    numbers: range | Iterator[int],
    left_out: int = 0,
) -> dict[str, str]:
    """Zips of `count` photos, a fifth of them unlabelled, less the last labelled ones."""
    unlabelled = count // 5
    numbers = iter(numbers)
    train = photos.labelled(taken.train, count - unlabelled)
    named = photos.numbered("train", train, numbers)
    photos.write_zip(folder / "train.zip", itertools.islice(named, count - unlabelled - left_out))
    test = photos.numbered("test", photos.unlabelled(taken.test, unlabelled), numbers)
    photos.write_zip(folder / "test.zip", test)
    return {
        "data.train": str(folder / "train.zip"),
        "data.test": str(folder / "test.zip"),
    }


def _stages(project: Project, stages: tuple[str, ...]) -> dict[str, Run]:
    return {stage: run_stage(project, stage, BACKBONE) for stage in stages}


def _seconds(runs: Mapping[str, Run]) -> float:
    """That the stages print together."""
    return sum(printed.usage(run.printed)[stage][0] for stage, run in runs.items())


def _beyond(seconds: list[float], one: list[float]) -> list[float]:
    return [whole - start for whole, start in zip(seconds, one, strict=True)]


def _stage_seconds(runs: list[dict[str, Run]], stage: str) -> str:
    if stage not in runs[0]:
        return "not run"
    return spread([printed.usage(one[stage].printed)[stage][0] for one in runs])


def _rows_computed(runs: Mapping[str, Run], stage: str) -> str:
    return f"{printed.rows_computed(runs[stage].printed):,}" if stage in runs else "not run"
