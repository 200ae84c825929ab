"""Benchmark 6: what more views, another precision or another engine do to a frozen head's figures.

Every variant's features are extracted from the same photos; on each a logistic head is fitted on
`train`, with the strength of regularisation that does best on `valid`. What is compared is the
held-out `test` photos, image by image: the intervals are those of a paired bootstrap (B. Efron and
R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13) of the difference from another
variant, so the luck of the draw of `test` is in them, that of the split is not.
"""

import itertools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import photos
from benchmarks.project import FEW_IMAGES, ONE_VIEW, Project, run_stage, with_recipe
from benchmarks.settings import Settings
from benchmarks.tables import table
from stages.models import head
from stages.store import arrays, tables

TITLE = "Views, precision, engine: what they do to accuracy"

BACKBONE = "MobileNetV2"
FEATURES = Path("data/features", f"{BACKBONE}.zarr")
STRENGTHS = (0.0003, 0.001, 0.003, 0.01)  # scikit-learn's C
RESAMPLES = 10_000
Scores = dict[str, NDArray[np.float64]]


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's table."""
    taken = photos.find()
    most = max(settings.views)
    project = with_recipe(
        folder / "project",
        taken,
        BACKBONE,
        {**FEW_IMAGES, **ONE_VIEW, "resize.size": settings.size, "extract.views": most},
    )
    labelled = folder / "photos.zip"
    named = photos.labelled(taken.train, settings.variants)
    photos.write_zip(labelled, photos.numbered("train", named, itertools.count()))
    project.change({"data.train": str(labelled), "data.test": str(labelled)})
    for stage in ("split", "resize", "fetch_weights", "extract"):
        run_stage(project, stage, BACKBONE)
    one, two = "1 view, float32", "2 views, float32"
    scored: dict[str, tuple[Scores, str | None]] = {one: (score(project.folder, 1), None)}
    for views in settings.views[1:]:
        scored[f"{views} views, float32"] = (score(project.folder, views), one)
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
        scored[name] = (score(other.folder, 2), two)
        shutil.rmtree(other.folder)
        say(f"{name} done")
    return describe(scored)


def score(folder: Path, views: int) -> Scores:
    """Of every `test` image the loss in nats and whether it was classified well."""
    rows = tables.read_ledger(folder / "data" / "split.csv")
    labels = tables.labels(rows)
    features = arrays.Rows(folder / FEATURES, tables.fingerprint(rows))
    subsets = {
        name: (features.take(labels.rows(name))[:, :views], labels.label[labels.rows(name)])
        for name in ("train", "valid", "test")
    }
    best = min(
        (_fit(*subsets["train"], len(labels.classes), strength) for strength in STRENGTHS),
        key=lambda fitted: head.loss_and_accuracy(
            _predicted(fitted, subsets["valid"][0]), subsets["valid"][1]
        )[0],
    )
    log_probability, label = _predicted(best, subsets["test"][0]), subsets["test"][1]
    return {
        "loss": -log_probability[np.arange(len(label)), label].astype(np.float64),
        "right": (log_probability.argmax(axis=1) == label).astype(np.float64),
    }


def _fit(
    features: NDArray[np.float32], label: NDArray[np.int64], classes: int, strength: float
) -> head.Head:
    return head.fit_logistic(
        features.astype(np.float32),  # a copy: it is overwritten
        label,
        classes,
        inverse_regularization=strength,
        max_iterations=500,
    )[0]


def _predicted(fitted: head.Head, features: NDArray[np.float32]) -> NDArray[np.float32]:
    return head.mean_log_probability(
        [fitted.logits(features[:, view]) for view in range(features.shape[1])]
    )


def describe(scored: Mapping[str, tuple[Scores, str | None]]) -> str:
    """A row a variant: accuracy, log loss, and the differences from its reference."""
    count = len(next(iter(scored.values()))[0]["loss"])
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    lines = []
    for name, (figures, reference) in scored.items():
        line = [name, f"{figures['right'].mean():.2%}", f"{figures['loss'].mean():.4f}"]
        line.append(reference or "")
        for what, shown in (("right", "{:+.2%}"), ("loss", "{:+.4f}")):
            if reference is None:
                line.append("")
                continue
            difference = figures[what] - scored[reference][0][what]
            low, high = np.quantile(difference[drawn].mean(axis=1), (0.025, 0.975))
            given = [shown.format(value) for value in (difference.mean(), low, high)]
            line.append(f"{given[0]} ({given[1]}..{given[2]})")
        lines.append(line)
    header = ("features", "accuracy", "log loss", "compared with", "accuracy, +", "log loss, +")
    return f"{BACKBONE}, {count:,} `test` images; intervals of 95 %.\n\n{table(header, lines)}"
