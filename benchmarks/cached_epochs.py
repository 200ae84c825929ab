"""Benchmark 8: fine-tuning from cached activations against fine-tuning from the images.

Ten epochs each, without augmentation, from the same head, by the stage `fine_tune`. What the frozen
layers take, once, counts for the cached way.
"""

import shutil
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import photos, printed
from benchmarks.measure import Contender, Outcome, interleave
from benchmarks.project import Project, command, of_labelled, run_stage, weights_from
from benchmarks.settings import Settings
from benchmarks.tables import counted, ratio, spread, table

TITLE = "Epochs from cached activations"

LAYERS = {"VGG16": "block5_conv1", "MobileNetV2": "block_13_expand"}  # where training begins
EPOCHS = 10
WAYS = {"from the images": False, "from cached activations": True}
OUTPUTS = ("data/model", "data/.activations", "data/.training")


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's table."""
    taken = photos.find()
    rows = []
    for backbone, count in settings.cached_epochs.items():
        project = _prepared(folder / backbone, taken, backbone, count, settings.size)
        outcomes = interleave(_contenders(project, backbone), settings.rounds, say)
        rows += _rows(outcomes, backbone, count)
        shutil.rmtree(project.folder)
    header = [
        *("from", "images", "", "an epoch, s", "to that from the images"),
        *("whole stage, s", "to that from the images", "MiB"),
    ]
    return (
        f"{taken.words.capitalize()}, {settings.size} px, half of them to train on, float32, "
        f"{EPOCHS} epochs, {counted(settings.rounds, 'round')}. An epoch includes its validation "
        f"and, from cached activations, its share of the pass through the frozen "
        "layers; the whole stage also starts, and predicts every image.\n\n" + table(header, rows)
    )


def _prepared(folder: Path, taken: photos.Photos, backbone: str, count: int, size: int) -> Project:
    """A project whose head is trained."""
    changes = {
        "resize.size": size,
        "train_head.inverse_regularization": 0.01,
        f"backbones.{backbone}": {
            **weights_from(taken, backbone),
            "preprocessing": "backbone",
            "pooling": "avg",
            "unfreeze_from": LAYERS[backbone],
        },
        "fine_tune.learning_rate": 1e-5,
        "fine_tune.epochs": EPOCHS,
    }
    project = of_labelled(folder, taken, backbone, count, changes, "mobilenetv2-fine-tune")
    for stage in ("split", "resize", "fetch_weights", "extract", "train_head"):
        run_stage(project, stage, backbone)
    return project


def _contenders(project: Project, backbone: str) -> list[Contender]:
    def before(cached: bool) -> None:
        for name in OUTPUTS:
            shutil.rmtree(project.folder / name, ignore_errors=True)
        project.change({"fine_tune.cache_frozen": cached})

    return [
        Contender(
            way, command("fine_tune", backbone), project.folder, before=partial(before, cached)
        )
        for way, cached in WAYS.items()
    ]


def _rows(outcomes: dict[str, Outcome], backbone: str, count: int) -> list[list[str]]:
    epochs = {way: [_epoch(run.printed) for run in one.runs] for way, one in outcomes.items()}
    reference = next(iter(WAYS))
    return [
        [
            f"{backbone}, `{LAYERS[backbone]}`",
            f"{count:,}",
            way,
            spread(epochs[way]),
            ratio(epochs[way], epochs[reference]),
            spread(outcome.seconds),
            ratio(outcome.seconds, outcomes[reference].seconds),
            f"{statistics.median(outcome.peak_bytes) / 2**20:,.0f}",
        ]
        if not outcome.fault
        else [backbone, "", way, outcome.fault, "", "", "", ""]
        for way, outcome in outcomes.items()
    ]


def _epoch(told: str) -> float:
    seconds = printed.passes(told)
    return (seconds["fine_tune"] + seconds.get("frozen layers", 0)) / EPOCHS
