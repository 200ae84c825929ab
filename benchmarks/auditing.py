"""Benchmark 10: how many swapped labels the audit finds, and how long it takes.

Labels of a share of the photos, drawn at random, are swapped in the ledger; `audit` runs as
`dvc repro` calls it, and its table is held against them. Labels that were wrong before count
against it. Then it runs once on many more images, most of them copies that differ in a corner.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import photos, printed
from benchmarks.measure import run
from benchmarks.project import Project, command, of_labelled, run_stage
from benchmarks.settings import Settings
from benchmarks.tables import table
from pipeline.storage import ledger, tables
from pipeline.storage.ledger import Row

TITLE = "The audit of labels"

BACKBONE = "MobileNetV2"
SWAPPED = 0.02
PRECISION_AT, RECALL_AT = 0.01, 0.05  # of the images, the most suspicious ones
LEDGER = "data/split.csv"


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's tables."""
    taken = photos.find()
    project = _extracted(folder / "swapped", taken, settings.variants, settings.size)
    sound = ledger.read_ledger(project.folder / LEDGER)
    lines = []
    for seed in range(settings.rounds):
        swapped = _swap(sound, seed)
        ledger.write_ledger(project.folder / LEDGER, swapped)
        _audit(project)
        wrong = {row.member for row, before in zip(swapped, sound, strict=True) if row != before}
        precision, recall = _found(project, wrong, len(sound))
        lines.append([str(seed), f"{len(wrong)}", f"{precision:.1%}", f"{recall:.1%}"])
        say(f"seed {seed}: precision {precision:.3f}, recall {recall:.3f}")
    shutil.rmtree(project.folder)
    many = _extracted(folder / "many", taken, settings.audited, settings.size)
    seconds, mib = printed.usage(_audit(many))["audit"]
    header = [
        *("seed", "labels swapped"),
        *(
            f"of the first {PRECISION_AT:.0%} swapped",
            f"of the swapped in the first {RECALL_AT:.0%}",
        ),
    ]
    return (
        f"{settings.variants:,} labelled {taken.words}, {SWAPPED:.0%} of the labels swapped, "
        f"{BACKBONE} at {settings.size} px.\n\n{table(header, lines)}\n"
        f"`audit` of {settings.audited:,} images: {seconds:.0f} s, at most {mib:,.0f} MiB.\n"
    )


def _extracted(folder: Path, taken: photos.Photos, count: int, size: int) -> Project:
    changes = {"resize.size": size, "split.near_duplicates": None}
    project = of_labelled(folder, taken, BACKBONE, count, changes)
    for stage in ("split", "resize", "fetch_weights", "extract"):
        run_stage(project, stage, BACKBONE)
    return project


def _audit(project: Project) -> str:
    shutil.rmtree(project.folder / "metrics" / "audit", ignore_errors=True)  # as DVC does
    return run(command("audit", BACKBONE), project.folder).printed


def _swap(rows: Sequence[Row], seed: int) -> list[Row]:
    """The ledger with the two labels of some rows swapped."""
    names = {row.index: row.label for row in rows if row.label}
    count = round(SWAPPED * len(rows))
    chosen = set(np.random.default_rng(seed).choice(len(rows), count, replace=False).tolist())
    return [
        replace(row, index=1 - row.index, label=names[1 - row.index]) if place in chosen else row
        for place, row in enumerate(rows)
    ]


def _found(project: Project, wrong: set[str], images: int) -> tuple[float, float]:
    """Precision and recall of the table's first lines."""
    lines = tables.read_csv(project.folder / "metrics" / "audit" / "labels.csv", "audit")
    members = [line["member"] for line in lines]
    first = members[: max(1, round(PRECISION_AT * images))]
    longer = members[: max(1, round(RECALL_AT * images))]
    return len(wrong.intersection(first)) / len(first), len(wrong.intersection(longer)) / len(wrong)
