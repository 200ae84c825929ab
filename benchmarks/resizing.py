"""Benchmark 2: photos in their own sizes to square pixels."""

import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks import photos, printed
from benchmarks.measure import Contender, interleave, python
from benchmarks.project import (
    FEW_IMAGES,
    NO_ROW_CACHE,
    command,
    remove_output,
    run_stage,
    with_recipe,
)
from benchmarks.settings import Settings
from benchmarks.tables import counted, ratio, spread, table

TITLE = "Resizing photos"

OTHERS = {  # what the script calls it: what the table calls it, its filter, what it must import
    "pillow": ("Pillow, plain loop", "bicubic, antialiased", "PIL"),
    "opencv": ("OpenCV", "bilinear, aliased", "cv2"),
    "opencv_area": ("OpenCV, INTER_AREA", "box, antialiased", "cv2"),
    "vips": ("pyvips thumbnail", "lanczos, JPEG decoded at reduced size", "pyvips"),
    "tensorflow": ("tf.io.decode_jpeg, tf.image.resize", "bilinear, aliased", "tensorflow"),
}
OURS = "bicubic, antialiased"
STAGE = "ours, stage `resize`, all cores"
BACKBONE = "MobileNetV2"  # of the recipe; it plays no part here


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's table."""
    taken = photos.find()
    count, size = settings.resizing, settings.size
    raw = folder / "originals.zip"
    images = photos.numbered("train", photos.labelled(taken.originals, count), range(count))
    photos.write_zip(raw, images)
    project = with_recipe(
        folder / "project",
        taken,
        BACKBONE,
        {**FEW_IMAGES, "data.train": str(raw), "data.test": str(raw), "resize.size": size},
    )
    run_stage(project, "split", BACKBONE)

    def resizer(name: str, cores: int) -> list[str]:
        return python("benchmarks.contenders.resizers", name, raw, count, size, cores)

    one_core = [
        Contender("ours, one core", resizer("ours", 1)),
        *(
            Contender(told, resizer(name, 1), needs=[package])
            for name, (told, _, package) in OTHERS.items()
        ),
    ]
    more_cores = [
        Contender("ours, two cores", resizer("ours", 2)),
        Contender(
            STAGE,
            command("resize", BACKBONE),
            project.folder,
            NO_ROW_CACHE,
            before=lambda: remove_output(project, "resize", BACKBONE),
        ),
    ]
    outcomes = interleave([*one_core, *more_cores], settings.rounds, say)
    rates = {
        name: [printed.images_per_second(run.printed) for run in outcome.runs]
        for name, outcome in outcomes.items()
    }
    fastest = max(
        (rates[one.name] for one in one_core if rates[one.name]), key=statistics.median, default=[]
    )
    whole = f"{STAGE}, with start-up"
    outcomes[whole] = outcomes[STAGE]
    rates[whole] = [count / seconds for seconds in outcomes[STAGE].seconds]
    filters = {told: kind for told, kind, _ in OTHERS.values()}
    rows = [
        [name, outcome.fault, "", ""]
        if outcome.fault
        else [name, filters.get(name, OURS), spread(rates[name]), ratio(rates[name], fastest)]
        for name, outcome in outcomes.items()
    ]
    return (
        f"{count:,} {taken.words} in their own sizes, in a zip, to {size} x {size} px, "
        f"{counted(settings.rounds, 'round')}; one core each if nothing else is said. All but the "
        "stage leave the pixels in memory; the stage also compares each photo with the ledger, and "
        "writes `resized.zarr`.\n\n"
        + table(["", "filter", "img/s", "to the fastest on one core"], rows)
    )
