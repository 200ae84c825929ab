"""Benchmark 9: recipes on every photo, each held out once.

How hard the photos of one `test` are differs by more than recipes do. So the photos are dealt into
quarters; each is `test` once, and 800 in 6,000 of the others are `valid`. Extraction is done once,
heads and fine-tuning four times, by the stages as `dvc repro` calls them.
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import photos, recipes
from benchmarks.measure import run
from benchmarks.project import Project, command, run_stage
from benchmarks.settings import Settings
from benchmarks.tables import table
from pipeline.images import judge
from pipeline.storage import arrays, ledger
from pipeline.storage.ledger import Ledger, LedgerRow

TITLE = "Recipes on every photo, each held out once"

BASE = "mobilenetv2"
RECIPES = (
    *(BASE, "ensemble", "mobilenetv2-fine-tune", "ensemble-fine-tune"),
    *("efficientnet-lite2", "efficientnet-lite2-ensemble"),
)
PARTS = 4
VALID = 2 / 15  # of what is not `test`: a tenth of all
LEDGER = "data/split.csv"


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's table."""
    taken, train = photos.find(), folder / "train.zip"
    named = photos.labelled(taken.train, settings.variants)
    photos.write_zip(train, photos.numbered("train", named, range(settings.variants)))
    project = Project.copy_of_this(folder / "project")
    scored: dict[str, recipes.Scores] = {}
    for recipe in RECIPES:
        params = recipes.follow(project, recipe, taken, train)
        for stage in ("split", "resize"):
            run_stage(project, stage, "")
        for backbone in params["backbones"]:
            run_stage(project, "fetch_weights", backbone)
            run_stage(project, "extract", backbone)  # finds what an earlier recipe has computed
        say(f"{recipe}: features extracted")
        scored[recipe] = _held_out(project, params, say)
    rows = [
        [
            f"`{name}`",
            f"{len(figures.loss):,}",
            recipes.shown(figures.right, "{:.2%}"),
            recipes.shown(figures.loss, "{:.4f}"),
            "" if name == BASE else recipes.shown(figures.loss - scored[BASE].loss, "{:+.4f}"),
        ]
        for name, figures in scored.items()
    ]
    header = ["recipe", "images", "accuracy", "log loss", f"log loss, + to `{BASE}`"]
    return (
        f"{settings.variants:,} labelled {taken.words}, in {PARTS} parts, each held out once; "
        "intervals of 95 %.\n\n" + table(header, rows)
    )


def deal(rows: Sequence[LedgerRow], classes: Sequence[str], part: int) -> Ledger:
    """The ledger with another split: `test` is the given part, the same photos every time."""
    order = sorted(
        {row.sha256 for row in rows}, key=lambda key: hashlib.sha256(key.encode()).digest()
    )
    held_out = set(order[part::PARTS])
    preset = {True: "test", False: ""}
    alone = (replace(row, group=row.sha256, subset=preset[row.sha256 in held_out]) for row in rows)
    dealt = Ledger(alone)
    judge.assign(dealt, classes, valid=VALID, test=1 / PARTS, seed=0)
    return dealt


def _held_out(
    project: Project, params: dict[str, Any], say: Callable[[str], object]
) -> recipes.Scores:
    """Of every photo the scores of the model that it was held out from."""
    ledger_at = project.folder / LEDGER
    rows = [row for row in ledger.read_ledger(ledger_at) if row.label and row.accepted]
    labels = ledger.labels(rows)
    loss, right = np.empty(len(rows)), np.empty(len(rows))
    stages = {"train_head": "head", "fine_tune": "model"}
    if params.get("fine_tune") is None:
        del stages["fine_tune"]
    for part in range(PARTS):
        dealt = deal(rows, labels.classes, part)
        ledger.write_ledger(ledger_at, dealt)
        for stage, model in stages.items():
            shutil.rmtree(project.folder / "data" / model, ignore_errors=True)  # as DVC does
            run(command(stage, ""), project.folder)
        stored = arrays.StoredArray(project.folder / "data" / model / "predictions.zarr")
        test = ledger.labels(dealt).rows("test")
        figures = recipes.scores(stored.take(test), labels.label[test])
        loss[test], right[test] = figures
        say(f"part {part + 1}, {model}: log loss {figures.loss.mean():.4f}")
    return recipes.Scores(loss, right)
