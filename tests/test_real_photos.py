"""The recipe for Kaggle's Dogs vs. Cats on real photos, and memory at ten times as many images.

Runs where the environment variable REAL_DATA names a folder with `data/train.zip`, `data/test.zip`
and `weights/mobilenet_v2_imagenet_no_top.weights.h5`.
"""

import csv
import hashlib
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from project import ROOT, Project
from test_recipes import PUBLISHED

from benchmarks import photos
from benchmarks.project import weights_from

REAL_DATA = os.environ.get("REAL_DATA")
GIB = 2**30

pytestmark = [
    pytest.mark.skipif(REAL_DATA is None, reason="REAL_DATA names no folder of real photos"),
    pytest.mark.xdist_group("real"),
]


def with_mobilenet(folder: Path) -> Project:
    """A copy of the project under the Kaggle recipe, its weights from a file."""
    project = Project.copy_of_this(folder)
    recipe = ROOT / "recipes" / "mobilenetv2.yaml"
    shutil.copyfile(recipe, folder / "params.yaml")
    weights = Path(str(REAL_DATA)) / "weights" / "mobilenet_v2_imagenet_no_top.weights.h5"
    project.change(
        {
            "fetch_weights.MobileNetV2": {
                "source": "file",
                "path": str(weights),
                "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
                "include_top": False,
            }
        }
    )
    return project


def usage(printed: str) -> dict[str, tuple[float, float]]:
    """Seconds and MiB of each stage, from the line that it ends with."""
    found = re.findall(r"^(\w+): done in ([\d.]+) s, at most ([\d,]+) MiB$", printed, re.M)
    return {name: (float(s), float(mib.replace(",", ""))) for name, s, mib in found}


def show(used: dict[str, tuple[float, float]], what: str) -> None:
    print(f"\n{what}")
    for name, (seconds, mib) in used.items():
        print(f"  {name:13} {seconds:6.1f} s {mib:6.0f} MiB")
    print(f"  {'all':13} {sum(seconds for seconds, _ in used.values()):6.1f} s")


STAGES = {
    "split",
    "resize",
    "names",
    "fetch_weights",
    "extract",
    "train_head",
    "fine_tune",
    "audit",
    "evaluate",
    "explain",
    "report",
    "submit",
}


def test_frozen_mobilenetv2_classifies_the_photos_and_writes_the_submission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = with_mobilenet(tmp_path / "real")
    (project.folder / "data" / "raw").mkdir()
    for name in ("train.zip", "test.zip"):
        shutil.copyfile(Path(str(REAL_DATA)) / "data" / name, project.folder / "data/raw" / name)
    printed = project.run("dvc", "repro")
    used = usage(printed)
    with capsys.disabled():
        show(used, "10,000 real photos, MobileNetV2 at 224 px, zips to submission")
    assert used.keys() == STAGES
    assert max(mib for _, mib in used.values()) * 2**20 < 2 * GIB
    split = json.loads(project.read("metrics/split.json"))
    assert (split["found"], split["accepted"], split["unlabelled"]) == (10_000, 10_000, 2_000)
    figures = json.loads(project.read("metrics/evaluate.json"))
    test = figures["head"]["test"]
    assert test["images"] == 2_000
    assert test["accuracy"] >= 0.975
    assert test["log_loss"] <= 0.07
    header, *rows = csv.reader(project.read("data/submission.csv").splitlines())
    assert header == ["id", "label"]
    with zipfile.ZipFile(project.folder / "data/raw/test.zip") as archive:
        numbers = sorted(int(Path(name).stem) for name in archive.namelist() if name[-1] != "/")
    assert [int(name) for name, _ in rows] == numbers
    assert len(rows) == 2_000
    assert project.repro() == []
    _predict_says_what_the_pipeline_said(project)
    _an_export_says_nearly_the_same(project)


def _predict_says_what_the_pipeline_said(project: Project) -> None:
    """Of the unlabelled photos, whose submission is clipped and rounded to 1e-6."""
    command = "python -m pipeline predict data/raw/test.zip --csv 2>/dev/null >predicted.csv"
    project.run("bash", "-c", command)
    clip = json.loads(project.read("metrics/evaluate.json"))["clip"]
    submitted = dict(list(csv.reader(project.read("data/submission.csv").splitlines()))[1:])
    answers = list(csv.DictReader(project.read("predicted.csv").splitlines()))
    assert len(answers) == 2_000
    for answer in answers:
        expected = float(submitted[Path(answer["file"]).stem])
        assert abs(min(max(float(answer["dog"]), clip), 1 - clip) - expected) < 1e-4


def _an_export_says_nearly_the_same(project: Project) -> None:
    printed = project.run("python", "-m", "pipeline", "export", "--format", "openvino")
    found = re.search(r"probability is ([\d.]+), the mean [\d.]+, and (\d+) got", printed)
    assert found is not None
    assert float(found[1]) < 0.02
    assert found[2] == "0"


def test_ten_times_as_many_images_stay_under_two_gibibytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """100,000 images: the drawn ones, each made unique by a square in its corner."""
    project = with_mobilenet(tmp_path / "many")
    (project.folder / "data" / "raw").mkdir()
    for name, times in (("train.zip", 100), ("test.zip", 200)):
        with (
            zipfile.ZipFile(ROOT / "data" / "sample" / name) as drawn,
            zipfile.ZipFile(project.folder / "data" / "raw" / name, "w") as many,
        ):
            for member in map(Path, drawn.namelist()):
                content = drawn.read(member.as_posix())
                *label, number = member.stem.split(".")
                for copy in range(times):
                    stem = ".".join([*label, str(int(number) * times + copy)])
                    many.writestr(
                        (member.parent / f"{stem}.jpg").as_posix(),
                        photos.copy(content, copy) if photos.readable(content) else content,
                    )
    project.change({"resize.size": 64})
    used = usage(project.run("dvc", "repro"))
    with capsys.disabled():
        show(used, "100,000 drawn images, MobileNetV2 at 64 px, zips to submission")
    assert used.keys() == STAGES
    split = json.loads(project.read("metrics/split.json"))
    assert (split["found"], split["rejected"]) == (100_000, 100)
    assert max(mib for _, mib in used.values()) * 2**20 < 2 * GIB


RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "sample"])
def test_a_recipe_runs_whole_on_a_few_photos(name: str, tmp_path: Path) -> None:
    """One epoch on 80 photos; weights that are not at hand are random."""
    project = Project.copy_of_this(tmp_path / "recipe")
    path = project.folder / "params.yaml"
    shutil.copyfile(ROOT / "recipes" / f"{name}.yaml", path)
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = photos.find()
    for backbone, section in params["fetch_weights"].items():
        if section["source"] == "imagenet":
            top = section["include_top"]
            project.change(
                {f"fetch_weights.{backbone}": weights_from(found, backbone) | {"include_top": top}}
            )
    few = {"split.per_class_limit": 40, "split.valid": 0.25, "split.test": 0.25}
    inputs = {"data.train": str(found.train), "data.test": str(found.train)}
    less = {
        "extract.views": min(3, params["extract"]["views"]),
        "predict.views": min(3, params["predict"]["views"]),
        "fine_tune.warmup_epochs": 0,
    }
    dense, tune = params["train_head"]["dense"], params["fine_tune"]
    epochs = {
        "train_head.dense.epochs": min(1, dense["epochs"]),
        "fine_tune.epochs": min(1, tune["epochs"]),
        "train_head.dense.steps_per_epoch": None,
        "fine_tune.steps_per_epoch": None,
    }
    project.change({**few, **inputs, **less, **epochs})
    assert usage(project.run("dvc", "repro")).keys() == STAGES
    told = json.loads(project.read("metrics/head.json"))
    if name in PUBLISHED:
        assert told["parameters"] == PUBLISHED[name].head
    tuned = json.loads(project.read("metrics/fine_tune.json"))
    assert tuned["epochs"] == epochs["fine_tune.epochs"]
    figures = json.loads(project.read("metrics/evaluate.json"))
    assert figures["chosen"] in ("head", "fine_tune")
