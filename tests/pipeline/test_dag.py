"""What runs again, and what comes out the same: `dvc repro` for real, on the embedded sample."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from album import AUGMENT, LOGISTIC, contents
from PIL import Image
from project import ROOT, STAGES, Project
from sklearn.datasets import load_digits

from pipeline import paths
from pipeline.runtime.atomic_files import sha256
from pipeline.storage.arrays import StoredArray

OUTSIDE_DVC = (
    "SITE_CACHE",
    "ROW_CACHE",
    "FROZEN_ACTIVATIONS",
    "PREDICTOR",
    "CHECKPOINT",
    "MACHINES",
    "WEIGHT_DIGESTS",
)
FROM_HEAD = STAGES[STAGES.index("train_head") :]
HEAD_TO_SUBMIT = ["train_head", "fine_tune", "evaluate", "submit"]
Other = tuple[Project, list[str]]

pytestmark = pytest.mark.xdist_group("dag")


@pytest.fixture
def project(done: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to change."""
    return done.copy_to(tmp_path / "a copy")


def definitions() -> dict[str, dict[str, Any]]:
    content = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    return {name: stage.get("do", stage) for name, stage in content["stages"].items()}


@pytest.mark.parametrize("stage", sorted(definitions().keys() - {"code"}))
def test_a_stage_depends_on_its_code_and_on_no_source_file(stage: str) -> None:
    definition = definitions()[stage]
    assert not [dep for dep in definition.get("deps", []) if dep.endswith(".py")]
    listed = [entry["code.yaml"] for entry in definition["params"] if "code.yaml" in entry]
    assert [keys[0] for keys in listed] == [stage]


def test_dvc_yaml_and_the_library_name_the_same_paths() -> None:
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    named = {
        value.as_posix()
        for name, value in vars(paths).items()
        if isinstance(value, Path) and name not in ("DATA", "METRICS", "RECIPES", *OUTSIDE_DVC)
    }
    assert {path for path in named if path not in text} == set()


@pytest.mark.parametrize("name", ["code.yaml", "settings.yaml"])
def test_no_setting_is_hidden_from_dvcs_run_cache(name: str) -> None:
    """DVC leaves these keys out of its run-cache's hash (_get_cache_hash in dvc/stage/cache.py)."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r"(?m)^\s*(?:- )?(size|nfiles):", text) == []


def test_a_second_run_does_nothing(done: Project) -> None:
    assert done.run("dvc", "repro").endswith("Data and pipelines are up to date.\n")
    assert done.repro() == []


def test_resized_images_are_stored_once_and_come_back_from_the_row_cache(
    done: Project, project: Project
) -> None:
    shards = [path for path in (done.folder / paths.RESIZED / "c").rglob("*") if path.is_file()]
    assert {path.stat().st_nlink for path in shards} == {2}  # one of them in the row cache
    cached = {
        path.read_bytes() for path in (done.folder / ".dvc/cache").rglob("*") if path.is_file()
    }
    assert cached.isdisjoint(path.read_bytes() for path in shards)
    shutil.rmtree(project.folder / paths.RESIZED)
    printed = project.run("dvc", "repro")
    assert re.findall(r"^Running stage '(.+)':$", printed, re.M) == ["resize"]
    assert " 0 computed, " in printed
    assert project.git("status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("changes", "targets", "ran"),
    [
        ({"submit.clip": 0.2}, (), ["submit", "report"]),
        ({"split.seed": 1}, ("audit", "submit"), ["split", "resize", "audit", *HEAD_TO_SUBMIT]),
        ({"resize.size": 50}, ("resize",), ["resize"]),  # by its own name from the run-cache
    ],
)
def test_a_key_reruns_the_stages_that_use_it_and_what_follows(
    changes: dict[str, Any], targets: tuple[str, ...], ran: list[str], project: Project
) -> None:
    project.change(changes)
    assert project.repro(*targets) == ["code", *ran]


def test_a_head_key_reruns_the_head_and_going_back_trains_nothing(
    other: Other, tmp_path: Path
) -> None:
    assert other[1] == ["code", *FROM_HEAD]
    project = other[0].copy_to(tmp_path / "a copy")
    project.git("checkout", "--quiet", "main", "--", "params.yaml")
    assert project.repro() == ["code", "evaluate"]


def test_another_commit_is_compared_by_its_predictions(other: Other, tmp_path: Path) -> None:
    project, _ = other
    compare = ("-m", "pipeline", "compare", "main", "--out", str(tmp_path / "compared"))
    printed = project.run(sys.executable, *compare)
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if "log loss |" in line]
    assert [line[:2] for line in lines] == [["valid", "120"], ["test", "120"]]
    here = json.loads(project.read("metrics/evaluate.json"))["final"]["test"]["log_loss"]
    there = json.loads(project.git("show", "main:metrics/evaluate.json"))["final"]["test"]
    expected = pytest.approx([there["log_loss"], here], abs=1e-4)
    assert [float(text) for text in lines[1][3:5]] == expected
    assert here != there["log_loss"]
    assert "| `train_head.inverse_regularization` | `0.01` | `0.02` |\n" in printed
    svgs = {path.stem for path in (tmp_path / "compared" / "plots").iterdir()}
    assert {"head_loss", "head_roc", "fine_tune_reliability", "final_thresholds"} <= svgs


def test_a_clone_without_data_is_compared_by_intervals(other: Other, tmp_path: Path) -> None:
    clone = Project(tmp_path / "clone")
    other[0].git("clone", "--quiet", ".", str(clone.folder))
    printed = clone.run(sys.executable, "-m", "pipeline", "compare", "origin/main")
    assert "predictions of origin&#47;main are neither in DVC's cache nor on a remote" in printed
    assert "| subset | metric | `origin/main` | this run | |\n" in printed
    assert (clone.folder / "comparison" / "plots" / "head_loss.svg").is_file()


def test_an_experiment_tries_a_value_without_a_commit(project: Project) -> None:
    printed = project.run("dvc", "exp", "run", "--name", "tried", "-S", "submit.clip=0.02")
    assert re.findall(r"^Running stage '(.+)':$", printed, re.M) == ["code", "submit", "report"]
    assert project.git("log", "--format=%s").splitlines() == ["reproduced", "as it is"]
    shown = project.run("dvc", "exp", "show", "--csv", "--only-changed")
    lines = list(csv.DictReader(shown.splitlines()))
    clips = {line["Experiment"] or line["rev"]: line["params.yaml:submit.clip"] for line in lines}
    assert clips == {"workspace": "0.02", "main": "auto", "tried": "0.02"}
    printed = project.run(sys.executable, "-m", "pipeline", "compare", "main", "tried")
    assert "| `submit.clip` | `auto` | `0.02` |\n" in printed
    assert "\n1 parameter and 0 metrics differ.\n" in printed


def test_queued_experiments_run_in_copies_and_leave_the_working_tree_alone(
    project: Project,
) -> None:
    site_cache = str(project.folder / paths.SITE_CACHE)
    project.run(
        "dvc", "config", "--local", "core.site_cache_dir", site_cache
    )  # as `make repro` does
    project.run("dvc", "exp", "run", "--queue", "--name", "queued", "-S", "submit.clip=0.03")
    try:
        printed = project.run("dvc", "exp", "run", "--run-all")
    finally:
        project.run("dvc", "queue", "stop")
    assert re.findall(r"^Running stage '(.+)':$", printed, re.M) == [
        "code",
        "resize",
        "submit",
        "report",
    ]
    assert project.git("status", "--porcelain") == ""
    assert re.search(r"queued .*Success", project.run("dvc", "queue", "status"))
    assert list((project.folder / ".dvc" / "tmp" / "exps").glob("tmp*")) == []
    project.run("dvc", "exp", "apply", "queued")
    assert yaml.safe_load(project.read("params.yaml"))["submit"]["clip"] == 0.03


def test_photos_in_data_raw_can_be_given_to_dvc(tmp_path: Path) -> None:
    """As queued experiments need it. DVC takes no .dvc file from a folder that it deems ignored."""
    project = Project.copy_of_this(tmp_path / "project")
    photo = project.folder / "data" / "raw" / "photos.zip"
    photo.parent.mkdir()
    photo.write_bytes(b"photos")
    project.run("dvc", "add", "data/raw/photos.zip")
    assert project.git("status", "--porcelain", "-uall") == "?? data/raw/photos.zip.dvc\n"
    photo.unlink()
    project.run("dvc", "checkout", "--allow-missing")
    assert photo.read_bytes() == b"photos"


def test_files_of_operating_systems_beside_images_rerun_nothing(tmp_path: Path) -> None:
    """DVC leaves them out of the hash of a folder that `data/inputs/train` links to."""
    project = Project.copy_of_this(tmp_path / "project")
    folder = tmp_path / "photos"  # outside of the project
    (folder / "cats").mkdir(parents=True)
    link = project.folder / "data" / "inputs" / "train"
    link.unlink(missing_ok=True)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(folder)
    names = (".DS_Store", "cats/Thumbs.db", "cats/desktop.ini", "cats/._1.jpg")
    for name in names:
        (folder / name).write_bytes(b"x")
    ignored = project.run("dvc", "check-ignore", *(f"data/inputs/train/{name}" for name in names))
    assert ignored.split() == [f"data/inputs/train/{name}" for name in names]


def test_one_more_view_is_all_that_is_computed(project: Project) -> None:
    project.change({"extract.views": 3, "extract.augment": AUGMENT})
    printed = project.run("dvc", "repro", "extract@convnet")
    # Two of the 899 images have the same bytes.
    assert re.search(r"\b89[89] computed, 1,79[89] known before$", printed, re.M)


def test_another_backbone_extracts_only_the_new_one(project: Project) -> None:
    convnet = yaml.safe_load(project.read("params.yaml"))["backbones"]["convnet"]
    project.change({"backbones.MobileNet": {**convnet, "pooling": "avg", "unfreeze_from": None}})
    ran = project.repro("train_head")
    assert ran == ["code", "fetch_weights@MobileNet", "extract@MobileNet", "train_head"]
    project.git("checkout", "--quiet", "--", "params.yaml", "dvc.lock")
    assert project.repro("train_head") == ["code"]
    features = project.folder / "data" / "features"
    assert [path.name for path in features.glob("[!.]*")] == ["convnet.zarr"]


def test_without_fine_tuning_the_head_passes_through_fine_tuning(project: Project) -> None:
    project.change({"fine_tune": None})
    assert project.repro("submit") == ["code", *HEAD_TO_SUBMIT[1:]]
    assert contents(project.folder / "data/head") == contents(project.folder / "data/model")


def test_a_branch_shows_its_params_metrics_and_plots(other: Other, tmp_path: Path) -> None:
    project, _ = other
    params = project.run("dvc", "params", "diff", "main", "other")
    changed = ["train_head.inverse_regularization", "0.01", "0.02"]
    lines = sorted(line.split() for line in params.splitlines()[1:])
    assert lines == [["params.yaml", *changed], ["settings.yaml", *changed]]
    metrics = project.run("dvc", "metrics", "diff", "main", "other")
    assert re.search(r"metrics/head.json +best.val_loss", metrics)
    project.run("dvc", "plots", "diff", "main", "other", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for revision in ("main", "other"):
        assert f'"rev": "{revision}"' in page
        history = project.git("show", f"{revision}:metrics/head_history.csv").splitlines()
        assert history[1].split(",")[3] in page


def test_the_submission_has_a_row_for_every_unlabelled_image_in_natural_order(
    done: Project,
) -> None:
    header, *lines = csv.reader(done.read("data/submission.csv").splitlines())
    assert header == ["id", "label"]
    assert [name for name, _ in lines] == [str(number) for number in range(1, 101)]
    assert all(0.01 <= float(probability) <= 0.99 for _, probability in lines)


@pytest.mark.slow
def test_jax_runs_all_stages_on_features_close_to_those_of_tensorflow(
    done: Project, project: Project
) -> None:
    weights = project.folder / "convnet.weights.h5"
    shutil.copyfile(done.folder / paths.weights("convnet"), weights)
    of_file = {"weights": "file", "path": weights.name, "sha256": sha256(weights), "seed": None}
    project.change({f"backbones.convnet.{key}": value for key, value in of_file.items()})
    project.change({"compute.backend": "jax"})
    # `audit` needs not run where both backends give the same bytes.
    assert {*STAGES} - {*project.repro()} <= {"split", "resize", "audit"}
    by_jax, by_tensorflow = (
        StoredArray(one.folder / paths.features("convnet")) for one in (project, done)
    )
    here, there = (one.read(0, len(one)) for one in (by_jax, by_tensorflow))
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5 * np.abs(there).max())


def test_the_ledger_finds_the_planted_faults(done: Project) -> None:
    rows = list(csv.DictReader(done.read("data/split.csv").splitlines()))
    assert len(rows) == 900
    rejected = [(row["member"], row["reason"]) for row in rows if row["reason"]]
    assert rejected == [("train/cat.7.jpg", "truncated image")]
    twins = [row for row in rows if row["group"] == "train/dog.12"]
    assert [row["member"] for row in twins] == ["train/dog.12.jpg", "train/dog.25.jpg"]
    assert twins[0]["subset"] == twins[1]["subset"]


def test_a_wrong_key_of_a_later_stage_stops_the_first_one_with_one_sentence(
    project: Project,
) -> None:
    project.change({"split.seed": 5, "train_head.kind": "forest"})
    printed = project.run("dvc", "repro", passes=False)
    assert (
        "\nerror: params.yaml: train_head.kind: expected one of 'logistic' or 'dense', "
        "got 'forest'; change it\n"
    ) in printed
    assert "failed to reproduce 'code'" in printed
    assert "Traceback" not in printed


@pytest.mark.xdist_group("digits")
def test_ten_classes_in_ten_folders_work(tmp_path: Path) -> None:
    """scikit-learn's handwritten digits, 8 x 8, as PNG files in a folder for each class."""
    project = Project.copy_of_this(tmp_path / "digits")
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = project.folder / "data" / "raw" / "digits" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * (255 / 16)).round().astype("uint8")).save(path)
    project.change(
        {
            "data.train": "data/raw/digits",
            "data.test": "data/raw/digits",
            "split.near_duplicates": None,  # half of the digits are nearly the same as another one
            "extract.views": 1,  # a mirrored digit is none
            "predict.views": 1,
            "train_head": LOGISTIC | {"inverse_regularization": 0.1},
            "fine_tune": None,
            "explain.filters": 1,
            "explain.layers": 1,
            "compute.threads": 1,
        }
    )
    project.repro()
    test = json.loads(project.read("metrics/evaluate.json"))["head"]["test"]
    assert test["images"] == 269
    assert test["accuracy"] > 0.97
    assert list(test["per_class"]) == [str(digit) for digit in range(10)]
    assert project.read("data/submission.csv") == "id,0,1,2,3,4,5,6,7,8,9\n"
