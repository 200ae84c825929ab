"""Copies of this project under a recipe, and the commands of their stages."""

import hashlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks import photos
from benchmarks.measure import ROOT, Run, python, run
from benchmarks.photos import Photos
from pipeline.commands import recipe as recipes

sys.path.append(str(ROOT / "tests"))
from project import Project as Project

NO_ROW_CACHE = {"STAGES_ROW_CACHE_GIB": "0"}
FEW_IMAGES = {"split.valid": 0.25, "split.test": 0.25}  # so that each class is in every subset
ONE_VIEW = {"extract.views": 1, "predict.views": 1}
ROW_CACHE = "data/.rows"
OF_A_BACKBONE = ("fetch_weights", "extract")  # stages that run once per backbone
OUTPUTS = {
    "split": "data/split.csv",
    "resize": "data/resized.zarr",
    "fetch_weights": "data/weights/{}.weights.h5",
    "extract": "data/features/{}.zarr",
    "audit": "metrics/audit",
    "train_head": "data/head",
    "fine_tune": "data/model",
}


def with_recipe(
    folder: Path,
    taken: Photos,
    backbone: str,
    changes: Mapping[str, Any],
    recipe: str = "mobilenetv2",
) -> Project:
    """Copy the project to `folder` for one backbone, with trained weights if there is a file."""
    project = Project.copy_of_this(folder)
    network = {"preprocessing": "backbone", "pooling": "avg"}
    params = recipes.read(recipe)
    params["backbones"] = {backbone: weights_from(taken, backbone) | network}
    text = yaml.safe_dump(params, sort_keys=False)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    project.change(changes)
    return project


def of_labelled(
    folder: Path,
    taken: Photos,
    backbone: str,
    count: int,
    changes: Mapping[str, Any],
    recipe: str = "mobilenetv2",
) -> Project:
    """Make a project of `count` labeled images, which lie in `folder`/train.zip, and one view."""
    raw = folder / "train.zip"
    named = photos.numbered("train", photos.labelled(taken.train, count), range(count))
    photos.write_zip(raw, named)
    inputs = {"data.train": str(raw), "data.test": str(raw)}
    changes = {**FEW_IMAGES, **ONE_VIEW, **inputs, **changes}
    return with_recipe(folder / "project", taken, backbone, changes, recipe)


def weights_from(taken: Photos, backbone: str) -> dict[str, Any]:
    """Return the keys of a backbone's weights, without classifier."""
    path = taken.weights.get(backbone)
    if path is None:
        return {"weights": "random", "seed": 0, "include_top": False}
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"weights": "file", "path": str(path), "sha256": sha256, "include_top": False}


def at_hand(taken: Photos, backbone: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a backbone's section with the weights that are here in place of a download."""
    if section["weights"] == "imagenet":
        top = {"include_top": section["include_top"]}
        return {**section, **weights_from(taken, backbone), **top}
    if "path" not in section:
        return dict(section)
    return {**section, "path": str(taken.weights.get(Path(section["path"]).name, section["path"]))}


def command(stage: str, backbone: str) -> list[str]:
    """Return the command that `dvc repro` calls."""
    return python(f"stages.{stage}", *([backbone] if stage in OF_A_BACKBONE else []))


def output(project: Project, stage: str, backbone: str) -> Path:
    """Return the output that DVC removes before a stage runs."""
    return project.folder / OUTPUTS[stage].format(backbone)


def remove_output(project: Project, stage: str, backbone: str) -> None:
    """Remove a stage's output like DVC does."""
    path = output(project, stage, backbone)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def run_stage(
    project: Project, stage: str, backbone: str, environment: Mapping[str, str] | None = None
) -> Run:
    """Run a stage anew."""
    remove_output(project, stage, backbone)
    return run(command(stage, backbone), project.folder, environment)
