"""Benchmark 6: what more views, another precision or another engine do to a frozen head's figures.

Every variant's features are extracted from the same photos; on each a logistic head is fitted on
`train`, its strength by cross-validation there. What is compared is the held-out `test` photos,
image by image (`pipeline/evaluation/bootstrap.py`): the luck of the draw of `test` is in the
intervals of the differences, that of the split is not.
"""

import itertools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import photos
from benchmarks.project import FEW_IMAGES, ONE_VIEW, Project, run_stage, with_recipe
from benchmarks.recipes import AUGMENT, Scores, logistic, shown
from benchmarks.settings import Settings
from benchmarks.tables import table

TITLE = "Views, precision, engine: what they do to accuracy"

BACKBONE = "MobileNetV2"


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's table."""
    taken = photos.find()
    most = max(settings.views)
    project = with_recipe(
        folder / "project",
        taken,
        BACKBONE,
        {
            **FEW_IMAGES,
            **ONE_VIEW,
            "resize.size": settings.size,
            "extract.views": most,
            "extract.augment": AUGMENT,
        },
    )
    labelled = folder / "photos.zip"
    named = photos.labelled(taken.train, settings.variants)
    photos.write_zip(labelled, photos.numbered("train", named, itertools.count()))
    project.change({"data.train": str(labelled), "data.test": str(labelled)})
    for stage in ("split", "resize", "fetch_weights", "extract"):
        run_stage(project, stage, BACKBONE)
    one, two = "1 view, float32", "2 views, float32"
    scored: dict[str, tuple[Scores, str | None]] = {one: (logistic(project.folder, 1, 1), None)}
    for views in settings.views[1:]:
        scored[f"{views} views, float32"] = (logistic(project.folder, views, views), one)
    say(f"{most} views of {settings.variants:,} images done")
    for name, changes in (
        ("2 views, bfloat16", {"extract.precision": "bfloat16"}),
        ("2 views, OpenVINO, float32", {"extract.engine": "openvino"}),
        (
            "2 views, OpenVINO, bfloat16",
            {"extract.engine": "openvino", "extract.precision": "bfloat16"},
        ),
    ):
        other = Project(folder / "other")
        shutil.copytree(project.folder, other.folder)
        other.change({"extract.views": 2, **changes})
        run_stage(other, "extract", BACKBONE)
        scored[name] = (logistic(other.folder, 2, 2), two)
        shutil.rmtree(other.folder)
        say(f"{name} done")
    return describe(scored)


def describe(scored: Mapping[str, tuple[Scores, str | None]]) -> str:
    """A row a variant: accuracy, log loss, and the differences from its reference."""
    lines = []
    for name, (figures, reference) in scored.items():
        line = [name, f"{figures.right.mean():.2%}", f"{figures.loss.mean():.4f}", reference or ""]
        if reference:
            other = scored[reference][0]
            line.append(shown(figures.right - other.right, "{:+.2%}"))
            line.append(shown(figures.loss - other.loss, "{:+.4f}"))
        lines.append(line + [""] * (6 - len(line)))
    count = max(len(figures.loss) for figures, _ in scored.values())
    header = ("features", "accuracy", "log loss", "compared with", "accuracy, +", "log loss, +")
    return f"{BACKBONE}, {count:,} `test` images; intervals of 95 %.\n\n{table(header, lines)}"
