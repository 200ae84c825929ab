"""Benchmark 5: two zips to a submission, by `dvc repro submit` and by a tutorial's script."""

import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import photos, printed
from benchmarks.measure import Contender, Outcome, interleave, python
from benchmarks.project import ONE_VIEW, Project, output, run_stage, with_recipe
from benchmarks.settings import Settings
from benchmarks.tables import counted, number, ratio, spread, table

TITLE = "Zips to a submission"

BACKBONE = "MobileNetV2"
TUTORIAL = "`benchmarks/tutorial.py`"
ON_DISK = ("data", ".dvc/cache")  # outputs, the row cache and DVC's
OURS: dict[str, Mapping[str, Any]] = {  # by OpenVINO, in float32 but for the last
    "`dvc repro submit`, the recipe as it is": {},
    "`dvc repro submit`, one view": ONE_VIEW,
    "`dvc repro submit`, one view, bfloat16": {**ONE_VIEW, "extract.precision": "bfloat16"},
}


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's tables: whole runs, then the stages of ours."""
    taken = photos.find()
    count, rounds = settings.end_to_end, settings.end_to_end_rounds
    train, test = _zips(folder, taken, count)
    inputs = {"data.train": str(train), "data.test": str(test), "resize.size": settings.size}
    contenders, projects = [], {}
    for at, (name, changes) in enumerate(OURS.items()):
        place = folder / f"project{at}"
        projects[name] = place

        def renew(place: Path = place, changes: Mapping[str, Any] = changes) -> None:
            shutil.rmtree(place, ignore_errors=True)
            with_recipe(place, taken, BACKBONE, {**inputs, **changes}).commit("the benchmark's")

        contenders.append(Contender(name, python("dvc", "repro", "submit"), place, before=renew))
    first = with_recipe(folder / "weights", taken, BACKBONE, inputs)
    run_stage(first, "fetch_weights", BACKBONE)
    weights = output(first, "fetch_weights", BACKBONE)
    work = folder / "tutorial"

    def empty() -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()

    contenders.append(
        Contender(
            TUTORIAL,
            python("benchmarks.tutorial", train, test, weights, settings.size, work),
            before=empty,
        )
    )
    outcomes = interleave(contenders, rounds, say)
    return (
        f"{count:,} {taken.words}, a fifth of them unlabelled, {BACKBONE} at {settings.size} px, "
        f"{counted(rounds, 'round')}. Ours in a fresh copy of the project with no "
        "cache. The tutorials' way unpacks the zips, loads and resizes with Pillow in a loop, "
        "runs `predict` by 16 in float32 and trains a dense head.\n\n"
        + _whole_runs(outcomes, projects, count * 3 * settings.size**2)
        + "\nStages of ours, in seconds and MiB, as they print them; what is left of the whole "
        "is DVC's own work and the start of each process:\n\n" + _stages(outcomes)
    )


def _zips(folder: Path, taken: photos.Photos, count: int) -> tuple[Path, Path]:
    """Zips of `count` photos, a fifth of them unlabelled."""
    unlabelled = count // 5
    train, test = folder / "train.zip", folder / "test.zip"
    labelled = photos.labelled(taken.train, count - unlabelled)
    photos.write_zip(train, photos.numbered("train", labelled, range(count)))
    others = photos.unlabelled(taken.test, unlabelled)
    photos.write_zip(test, photos.numbered("test", others, range(count)))
    return train, test


def _whole_runs(
    outcomes: dict[str, Outcome], projects: dict[str, Path], bytes_of_pixels: int
) -> str:
    rows = []
    for name, outcome in outcomes.items():
        if outcome.fault:
            rows.append([name, outcome.fault, "", "", "", ""])
            continue
        accuracy = (
            _accuracy(Project(projects[name]))
            if name in projects
            else re.findall(r"^accuracy (\S+ on \d+ images)", outcome.runs[-1].printed, re.M)[-1]
        )
        rows.append(
            [
                name,
                spread(outcome.seconds),
                ratio(outcome.seconds, outcomes[TUTORIAL].seconds),
                spread([peak / 2**20 for peak in outcome.peak_bytes]),
                f"{disk_bytes(projects[name]) / bytes_of_pixels:.2f} x" if name in projects else "",
                accuracy,
            ]
        )
    header = ["", "whole, s", "to the tutorials' way", "MiB", "disk, to the bytes of the pixels"]
    return table([*header, "accuracy on images held out"], rows)


def disk_bytes(project: Path) -> int:
    """Return the bytes that a run left in outputs and caches; hard links count once."""
    folders = [one for top in ON_DISK for one in os.walk(project / top)]
    files = [os.lstat(os.path.join(at, name)) for at, _, names in folders for name in names]
    sizes = {(one.st_dev, one.st_ino): one.st_size for one in files if stat.S_ISREG(one.st_mode)}
    return sum(sizes.values())


def _accuracy(project: Project) -> str:
    test = json.loads(project.read("metrics/evaluate.json"))["head"]["test"]
    return f"{test['accuracy']:.4f} on {test['images']} images"


def _stages(outcomes: dict[str, Outcome]) -> str:
    """A column a contender, a row a stage."""
    ours = {name: outcome for name, outcome in outcomes.items() if name in OURS}
    used = {
        name: [printed.usage(run.printed) for run in outcome.runs] for name, outcome in ours.items()
    }
    stages = dict.fromkeys(stage for runs in used.values() for one in runs for stage in one)
    rows = [
        [
            f"`{stage}`",
            *(
                f"{spread([one[stage][0] for one in runs])}; "
                f"{number(max(one[stage][1] for one in runs))} MiB"
                if runs
                else "-"
                for runs in used.values()
            ),
        ]
        for stage in stages
    ]
    rows.append(
        [
            "DVC, and starts",
            *(
                spread(
                    [
                        run.seconds - sum(seconds for seconds, _ in one.values())
                        for run, one in zip(ours[name].runs, runs, strict=True)
                    ]
                )
                if runs
                else "-"
                for name, runs in used.items()
            ),
        ]
    )
    return table(["", *used], rows)
