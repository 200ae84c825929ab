"""`export`: one model for others, checked against the pipeline, and a card about it."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # as `engine.start` would

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from album import TRAIN
from finished import choose, copy_of, finish, in_this_process, pipelines
from optional_packages import needs_openvino
from PIL import Image

from pipeline.commands import export, model_card
from pipeline.images import decode
from pipeline.runtime import atomic_files
from pipeline.storage import ledger
from pipeline.training import serving_model

ROOT = Path(__file__).parent.parent
OUT = Path("data/export")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    finish(folder)
    return folder


@pytest.fixture
def run(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Run]:
    """`export` in a copy of the finished project."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["export", *map(str, words)])
        return (export.main(), *capsys.readouterr())

    with in_this_process() as changed:
        changed.chdir(copy_of(finished, tmp_path / "project"))
        yield call


def valid() -> list[str]:
    rows = ledger.read_ledger(Path("data/split.csv"))
    return [row.member for row in rows if row.subset == "valid"]


@pytest.mark.parametrize("form", ["saved_model", pytest.param("openvino", marks=needs_openvino)])
@pytest.mark.parametrize("chosen", ["head", "fine_tune"])
def test_the_file_says_of_photos_in_their_own_sizes_what_the_pipeline_said(
    chosen: str, form: str, run: Run
) -> None:
    choose(chosen)
    status, out, err = run("--format", form)
    assert (status, err) == (0, "")
    served = serving_model.read(OUT, form)
    differences = []
    for member in valid():
        image = np.asarray(decode.decode((TRAIN / member).read_bytes()))
        differences.append(np.abs(served(image[None])[0] - pipelines()[member]).max())
    assert max(differences) < 0.05
    told = re.search(r"the largest difference in probability is ([\d.]+),", out)
    assert told is not None
    assert float(told[1]) == pytest.approx(max(differences), abs=2e-6)
    assert told[0] in (OUT / export.CARD).read_text(encoding="utf-8")
    assert json.loads((OUT / export.CLASSES).read_text()) == {"classes": ["cat", "dog"]}
    batch = served(np.stack([np.full((30, 20, 3), value, np.uint8) for value in (0, 90, 255)]))
    assert batch.shape == (3, 2)
    np.testing.assert_allclose(batch.sum(axis=1), 1, atol=1e-5)
    assert [path.name for path in Path("data").glob(".partial*")] == []


@needs_openvino
@pytest.mark.slow
def test_two_processes_write_the_same_bytes_for_openvino_and_its_card(run: Run) -> None:
    written = []
    for _ in range(2):
        words = [sys.executable, "-m", "pipeline.commands.export", "--format", "openvino"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        written.append({path.name: path.read_bytes() for path in OUT.iterdir()})
    assert sorted(written[0]) == ["MODEL_CARD.md", "classes.json", "model.bin", "model.xml"]
    assert written[0] == written[1]


def test_the_card_tells_data_figures_intervals_views_hashes_and_no_time(run: Run) -> None:
    assert run()[0] == 0
    card = (OUT / export.CARD).read_text(encoding="utf-8")
    final = json.loads(Path("metrics/evaluate.json").read_text())["final"]["test"]
    low, high = json.loads(Path("metrics/intervals.json").read_text())["final"]["test"]["accuracy"]
    counts = json.loads(Path("metrics/split.json").read_text())["subsets"]["cat"]
    assert f"| accuracy | {final['accuracy']:.4f} | {low:.4f} to {high:.4f} |" in card
    assert f"| cat | {counts['train']} | {counts['valid']} | {counts['test']} |" in card
    assert "- The pipeline averages 3 views, this model 2:" in card
    for path in ("data/weights/convnet.weights.h5", "data/head/head.npz", "data/split.csv"):
        assert f"| `{path}` | `{atomic_files.sha256(Path(path))}` |" in card
    data = OUT / "model" / "saved_model.pb"
    assert f"| `model/saved_model.pb` | `{atomic_files.sha256(data)}` |" in card
    assert re.search(r"\| keras \| \d+\.\d+", card)
    assert "Commit: " in card
    assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", card)


def test_a_name_is_shown_in_the_card_and_not_obeyed() -> None:
    assert model_card.escaped("a|b*[x](y)_`c`\n#1") == (
        "a\\|b\\*\\[x\\]\\(y\\)\\_\\`c\\`\N{REPLACEMENT CHARACTER}\\#1"
    )


def test_a_larger_difference_than_the_tolerance_keeps_nothing(run: Run) -> None:
    status, out, err = run("--tolerance", "1e-9")
    assert (status, out) == (1, "")
    assert re.fullmatch(
        r"error: export: expected the pipeline's own probabilities up to 1e-09, got a difference "
        r"of 0\.\d{6} at \w+\.\d+\.\w+; find out why, or give another --tolerance\n",
        err,
    )
    assert not OUT.exists()


def test_another_image_under_the_same_name_is_not_compared(run: Run) -> None:
    member = valid()[0]
    Image.new("RGB", (20, 20)).save(TRAIN / member)
    assert run()[2] == (
        f"error: data/raw/train member {member}: expected the bytes that `split` judged, got "
        "others or none; run `dvc repro` to judge what is there now\n"
    )
    assert not OUT.exists()


def test_what_is_no_earlier_export_is_not_replaced(run: Run) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    assert run("--out", "mine")[2] == (
        "error: export --out: expected a new folder or one of an earlier export, got 'mine', "
        "which holds something else; name another one\n"
    )
    for name in ("MODEL_CARD.md", "classes.json"):  # which other models have, too
        Path("mine", name).write_text("of another model")
    assert "which holds something else" in run("--out", "mine")[2]
    assert Path("mine/thesis.txt").read_text() == "years of work"


def test_formats_that_there_are_not_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--format", "onnx")[2] == (
        "error: export --format: expected saved_model or openvino, got 'onnx'; choose one\n"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run("--format", "openvino")[2] == (
        "error: export --format: expected a package that is installed, got 'openvino'; "
        "run `pip install 'stages[openvino]'`, or choose saved_model\n"
    )
