"""Copies of this project under the Kaggle recipe, and the commands of their stages."""

import hashlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import photos
from benchmarks.measure import ROOT, Run, python, run
from benchmarks.photos import Photos

sys.path.append(str(ROOT / "tests"))
from project import Project as Project

NO_ROW_CACHE = {"STAGES_ROW_CACHE_GIB": "0"}
FEW_IMAGES = {"split.valid": 0.25, "split.test": 0.25}  # so that each class reaches every subset
ONE_VIEW = {"extract.views": 1, "predict.views": 1}
ROW_CACHE = "data/.rows"


def with_recipe(folder: Path, taken: Photos, backbone: str, changes: Mapping[str, Any]) -> Project:
    """A copy in `folder` for one backbone; its weights are trained ones where there is a file."""
    project = Project.copy_of_this(folder)
    recipe = ROOT / "recipes" / "mobilenetv2.yaml"
    shutil.copyfile(recipe, folder / "params.yaml")
    project.change(
        {
            "fetch_weights": {backbone: weights_from(taken, backbone)},
            "extract.backbones": [backbone],
            "train_head.backbones": [backbone],
            **changes,
        }
    )
    return project


def of_labelled(
    folder: Path, taken: Photos, backbone: str, count: int, changes: Mapping[str, Any]
) -> Project:
    """One of so many labelled photos, which lie in `folder`/train.zip, and one view."""
    raw = folder / "train.zip"
    named = photos.numbered("train", photos.labelled(taken.train, count), range(count))
    photos.write_zip(raw, named)
    inputs = {"data.train": str(raw), "data.test": str(raw)}
    return with_recipe(
        folder / "project", taken, backbone, {**FEW_IMAGES, **ONE_VIEW, **inputs, **changes}
    )


def weights_from(taken: Photos, backbone: str) -> dict[str, Any]:
    """A section of `fetch_weights`, without classifier."""
    path = taken.weights.get(backbone)
    if path is None:
        return {"source": "random", "seed": 0, "include_top": False}
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"source": "file", "path": str(path), "sha256": sha256, "include_top": False}


def command(stage: str, backbone: str, last: str | None = None) -> list[str]:
    """What `dvc repro` would call, for a head on one backbone or, with `last`, on two."""
    first, last = backbone, last or backbone
    weights = f"data/weights/{first}.weights.h5"
    features = f"data/features/{first}.zarr"
    tuned = ["metrics/fine_tune.json", "metrics/fine_tune_history.csv"]
    arguments = {
        "split": ["data/label_fixes.csv", "data/split.csv", "metrics/split.json"],
        "resize": ["data/split.csv", "data/resized.zarr"],
        "fetch_weights": [first, weights],
        "extract": [first, "data/resized.zarr", weights, features],
        "audit": [
            *("data/split.csv", "data/resized.zarr", features, f"data/features/{last}.zarr"),
            *("metrics/audit.json", "metrics/audit"),
        ],
        "train_head": [
            *("data/split.csv", features, f"data/features/{last}.zarr"),
            *("data/head", "metrics/head.json", "metrics/head_history.csv"),
        ],
        "fine_tune": [
            *("data/split.csv", "data/resized.zarr", weights, f"data/weights/{last}.weights.h5"),
            *("data/head", "data/model", *tuned),
        ],
    }
    return python(f"stages.{stage}", *arguments[stage])


def remove_outputs(project: Project, stage: str, backbone: str) -> None:
    """As DVC does before it runs a stage."""
    output = project.folder / command(stage, backbone)[-1]
    if output.is_dir():
        shutil.rmtree(output)
    output.unlink(missing_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)


def run_stage(
    project: Project, stage: str, backbone: str, environment: Mapping[str, str] | None = None
) -> Run:
    """Run a stage anew."""
    remove_outputs(project, stage, backbone)
    return run(command(stage, backbone), project.folder, environment)
