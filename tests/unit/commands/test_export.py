"""`pipeline export` writes one model that is checked against the pipeline, and a card about it."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from album import TRAIN
from finished import choose, pipelines
from PIL import Image

from pipeline.commands import export
from pipeline.images import decode
from pipeline.runtime import atomic_files
from pipeline.storage import ledger
from pipeline.training import serving_model

ROOT = Path(__file__).parents[3]
OUT = Path("data/export")
Run = Callable[..., SimpleNamespace]


@pytest.fixture
def run(project: Path, pipeline: Run) -> Run:
    return lambda *words: pipeline("export", *words)


def valid() -> list[str]:
    rows = ledger.read_ledger(Path("data/split.csv"))
    return [row.member for row in rows if row.subset == "valid"]


@pytest.mark.parametrize("form", ["saved_model", "openvino"])
@pytest.mark.parametrize("model", ["head", "fine_tune"])
def test_the_file_gives_images_in_their_own_sizes_the_pipelines_probabilities(
    model: str, form: str, run: Run
) -> None:
    choose(model)
    said = run("--format", form)
    assert said.status == 0, said.err
    served = serving_model.read(OUT, form)
    differences = []
    for member in valid():
        image = np.asarray(decode.decode((TRAIN / member).read_bytes()).image)
        differences.append(np.abs(served(image[None])[0] - pipelines()[member]).max())
    assert max(differences) < 0.05
    largest = re.search(r"the largest difference in probability is ([\d.]+),", said.out)
    assert largest is not None
    assert float(largest[1]) == pytest.approx(max(differences), abs=2e-6)
    assert largest[0] in (OUT / export.CARD).read_text(encoding="utf-8")
    assert json.loads((OUT / export.CLASSES).read_text()) == {"classes": ["cat", "dog"]}
    batch = served(np.stack([np.full((30, 20, 3), value, np.uint8) for value in (0, 90, 255)]))
    np.testing.assert_allclose(batch.sum(axis=1), np.ones(3), atol=1e-5)
    assert list(Path("data").glob(".partial*")) == []


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_for_openvino_and_its_card(project: Path) -> None:
    written = []
    for _ in range(2):
        words = [sys.executable, "-m", "pipeline", "export", "--format", "openvino"]
        subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        written.append({path.name: path.read_bytes() for path in OUT.iterdir()})
    assert sorted(written[0]) == ["MODEL_CARD.md", "classes.json", "model.bin", "model.xml"]
    assert written[0] == written[1]


def test_the_card_has_data_metrics_intervals_views_hashes_and_no_time(run: Run) -> None:
    assert run().status == 0
    card = (OUT / export.CARD).read_text(encoding="utf-8")
    final = json.loads(Path("metrics/evaluate.json").read_text())["final"]["test"]
    low, high = json.loads(Path("metrics/intervals.json").read_text())["final"]["test"]["accuracy"]
    counts = json.loads(Path("metrics/split.json").read_text())["subsets"]["cat"]
    assert f"| accuracy | {final['accuracy']:.4f} | {low:.4f} to {high:.4f} |" in card
    assert f"| cat | {counts['train']} | {counts['valid']} | {counts['test']} |" in card
    assert "- The pipeline averages 3 views, this model 2:" in card
    for path in ("data/weights/convnet.weights.h5", "data/head/head.npz", "data/split.csv"):
        assert f"| `{path}` | `{atomic_files.sha256(Path(path))}` |" in card
    digest = atomic_files.sha256(OUT / "model" / "saved_model.pb")
    assert f"| `model/saved_model.pb` | `{digest}` |" in card
    assert re.search(r"\| keras \| \d+\.\d+", card)
    assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", card)


def test_a_larger_difference_or_another_image_writes_nothing(run: Run) -> None:
    said = run("--tolerance", "1e-9")
    assert (said.status, said.out) == (1, "")
    assert re.search(r"got a difference of 0\.\d{6} at \w+\.\d+\.\w+; find out why", said.err)
    member = valid()[0]  # an image that has changed is not compared
    Image.new("RGB", (20, 20)).save(TRAIN / member)
    assert f"data/raw/train member {member}: expected the bytes that `split` read" in run().err
    assert not OUT.exists()


def test_the_head_of_several_folds_is_compared_with_what_it_predicts_itself(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["train_head"]["folds"], params["fine_tune"] = 3, None
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["stage"])
    for stage in ("train_head", "fine_tune", "evaluate"):
        shutil.rmtree(
            {"train_head": "data/head", "fine_tune": "data/model"}.get(stage, "none"), True
        )
        assert importlib.import_module(f"stages.{stage}").main() == 0
    out_of_fold = pipelines()
    said = run("--format", "openvino")
    assert said.status == 0, said.err
    served = serving_model.read(OUT, "openvino")
    apart = []
    for member in valid():
        image = np.asarray(decode.decode((TRAIN / member).read_bytes()).image)
        apart.append(np.abs(served(image[None])[0] - out_of_fold[member]).max())
    stated = re.search(r"the largest difference in probability is ([\d.]+),", said.out)
    assert stated is not None
    assert float(stated[1]) < min(0.05, max(apart))
    card = (OUT / export.CARD).read_text(encoding="utf-8")
    assert "The head is the mean of several, each trained on `train` and `valid` without" in card


def test_only_an_earlier_export_is_replaced(run: Run) -> None:
    Path("mine").mkdir()
    for name in ("thesis.txt", "MODEL_CARD.md", "classes.json"):  # other models have cards, too
        Path("mine", name).write_text("years of work")
    assert "got 'mine', which holds something else; name another one" in run("--out", "mine").err
    assert Path("mine/thesis.txt").read_text() == "years of work"
