"""The recipes on real photos, and memory at ten times as many images.

Runs where the environment variable REAL_DATA names a folder with `data/train.zip`, `data/test.zip`
and `weights/mobilenet_v2_imagenet_no_top.weights.h5`.
"""

import csv
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import STAGES, Project

from benchmarks import photos
from benchmarks.project import at_hand
from pipeline.commands import recipe

GIB = 2**30
FEW_PHOTOS: dict[str, Any] = {"split.per_class_limit": 24, "split.valid": 0.25, "split.test": 0.25}
FEW_PHOTOS |= {"explain.layers": 1, "explain.filters": 1}
# `sample` runs in CI by itself, `mobilenetv2` below, an ONNX file beside another network.
OTHERS = {"sample", "mobilenetv2", "mobilenetv2-gpu", "efficientnet-lite2"}
Usage = dict[str, tuple[float, float]]  # seconds and MiB of each stage
Repro = Callable[[Project, str], Usage]

pytestmark = pytest.mark.skipif(not os.environ.get("REAL_DATA"), reason="REAL_DATA names no folder")


def with_recipe(folder: Path, name: str) -> Project:
    """Copy the project under a recipe; ImageNet weights come from files, or are random."""
    project = Project.copy_of_this(folder)
    (folder / "params.yaml").write_text(recipe.render(name), encoding="utf-8")
    available = photos.find()
    for backbone, section in recipe.read(name)["backbones"].items():
        project.change({f"backbones.{backbone}": at_hand(available, backbone, section)})
    project.change({"data.train": str(available.train), "data.test": str(available.test)})
    return project


@pytest.fixture
def repro(capsys: pytest.CaptureFixture[str]) -> Repro:
    """repro(project, title) -> seconds and MiB of all stages, which it prints, too."""

    def repro(project: Project, title: str) -> Usage:
        printed = project.run("dvc", "repro")
        ends = re.findall(r"^(\w+): done in ([\d.]+) s, at most ([\d,]+) MiB$", printed, re.M)
        used = {name: (float(s), float(mib.replace(",", ""))) for name, s, mib in ends}
        with capsys.disabled():
            print(f"\n{title}")
            for name, (seconds, mib) in used.items():
                print(f"  {name:13} {seconds:6.1f} s {mib:6.0f} MiB")
            print(f"  {'all':13} {sum(seconds for seconds, _ in used.values()):6.1f} s")
        assert used.keys() == {stage.partition("@")[0] for stage in STAGES}
        return used

    return repro


def metrics(project: Project, name: str) -> Any:
    return json.loads(project.read(f"metrics/{name}.json"))


def test_frozen_mobilenetv2_classifies_the_photos_and_writes_the_submission(
    tmp_path: Path, repro: Repro
) -> None:
    project = with_recipe(tmp_path / "real", "mobilenetv2")
    used = repro(project, "10,000 real photos, MobileNetV2 at 224 px, zips to submission")
    assert max(mib for _, mib in used.values()) * 2**20 < 1.5 * GIB
    split = metrics(project, "split")
    assert (split["found"], split["accepted"], split["unlabelled"]) == (10_000, 10_000, 2_000)
    test = metrics(project, "evaluate")["head"]["test"]
    assert test["images"] == 2_000
    assert test["accuracy"] >= 0.975
    assert test["log_loss"] <= 0.07
    header, *rows = csv.reader(project.read("data/submission.csv").splitlines())
    assert header == ["id", "label"]
    with zipfile.ZipFile(photos.find().test) as archive:
        numbers = sorted(int(Path(name).stem) for name in archive.namelist() if name[-1] != "/")
    assert [int(name) for name, _ in rows] == numbers
    assert len(rows) == 2_000
    assert project.repro() == []
    _require_predictions_of_the_pipeline(project, dict(rows))
    _require_an_export_near_the_pipeline(project)


def _require_predictions_of_the_pipeline(project: Project, submitted: dict[str, str]) -> None:
    """Compare `predict` with the submission, which is clipped and rounded to 1e-6."""
    command = f"python -m pipeline predict {photos.find().test} --csv 2>/dev/null >predicted.csv"
    project.run("bash", "-c", command)
    clip = metrics(project, "evaluate")["clip"]
    predictions = list(csv.DictReader(project.read("predicted.csv").splitlines()))
    assert len(predictions) == 2_000
    for prediction in predictions:
        expected = float(submitted[Path(prediction["file"]).stem])
        assert abs(min(max(float(prediction["dog"]), clip), 1 - clip) - expected) < 1e-4


def _require_an_export_near_the_pipeline(project: Project) -> None:
    printed = project.run("python", "-m", "pipeline", "export", "--format", "openvino")
    match = re.search(r"probability is ([\d.]+), the mean [\d.]+, and (\d+) got", printed)
    assert match is not None
    assert float(match[1]) < 0.02
    assert match[2] == "0"


def test_ten_times_as_many_images_stay_under_two_gibibytes(tmp_path: Path, repro: Repro) -> None:
    """100,000 images: the drawn ones, each made unique by a square in its corner."""
    project = with_recipe(tmp_path / "many", "mobilenetv2")
    drawn = photos.drawn()
    for key, path, times in (("train", drawn.train, 100), ("test", drawn.test, 200)):
        out = tmp_path / f"{key}.zip"
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w") as many:
            for member in map(Path, archive.namelist()):
                content = archive.read(member.as_posix())
                *label, number = member.stem.split(".")
                for copy in range(times):
                    stem = ".".join([*label, str(int(number) * times + copy)])
                    many.writestr(
                        (member.parent / f"{stem}.jpg").as_posix(),
                        photos.copy(content, copy) if photos.readable(content) else content,
                    )
        project.change({f"data.{key}": str(out)})
    project.change({"resize.size": 64, "extract.views": 1, "predict.views": 1})
    project.change({"explain.layers": 1, "explain.filters": 1})
    used = repro(project, "100,000 drawn images, MobileNetV2 at 64 px, zips to submission")
    split = metrics(project, "split")
    assert (split["found"], split["rejected"]) == (100_000, 100)
    assert max(mib for _, mib in used.values()) * 2**20 < 1.5 * GIB


def of_each_shape() -> list[str]:
    """One recipe of each shape; the others have another network, pooling, views or numbers."""
    shapes: dict[str, tuple[bool, str]] = {}
    for name in {*recipe.names()} - OTHERS:
        params = recipe.read(name)
        networks = [*params["backbones"].values()]
        whole = networks[0]["pooling"].endswith("predictions")
        tune = params["fine_tune"] or {}
        shape = (
            *(len(networks) > 1, networks[0]["weights"] == "random", whole),
            *(params["train_head"]["kind"], bool(tune), tune.get("cache_frozen")),
        )
        own = any("path" in one for one in networks)  # an ONNX file or a preset
        shapes[str(shape)] = max((own, name), shapes.get(str(shape), (False, "")))
    return sorted(name for _, name in shapes.values())


@pytest.mark.parametrize("name", of_each_shape())
def test_a_recipe_runs_whole_on_a_few_photos(name: str, tmp_path: Path, repro: Repro) -> None:
    """Train one epoch on 48 photos."""
    project = with_recipe(tmp_path / "recipe", name)
    params = recipe.read(name)
    fewer: dict[str, Any] = {"data.test": str(photos.find().train)}
    for section in ("extract", "predict"):
        fewer[f"{section}.views"] = min(3, params[section]["views"])
    if params["train_head"]["kind"] == "dense":
        fewer["train_head.epochs"] = min(1, params["train_head"]["epochs"])
        fewer["train_head.steps_per_epoch"] = None
    if params["fine_tune"] is not None:
        fewer["fine_tune.epochs"] = 1
        fewer["fine_tune.steps_per_epoch"] = None
        fewer["fine_tune.warmup_epochs"] = 0
    project.change(FEW_PHOTOS | fewer)
    repro(project, f"recipe {name} on 48 photos")
    assert metrics(project, "head")["kind"] == params["train_head"]["kind"]
    assert metrics(project, "fine_tune")["epochs"] == int(params["fine_tune"] is not None)
    assert metrics(project, "evaluate")["chosen"] in ("head", "fine_tune")
