"""`predict`: what the pipeline says, of any files; the unreadable ones are named."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # as `engine.start` would

import csv
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import requests
import yaml
from album import LEDGER, RESIZED, TRAIN
from finished import choose, copy_of, finish, in_this_process, pipelines
from numpy.testing import assert_allclose
from optional_packages import needs_openvino
from PIL import Image

from pipeline.commands import imagenet, predict
from pipeline.commands.formatters import printable
from pipeline.storage import arrays, ledger

ROOT = Path(__file__).parent.parent


class Said(NamedTuple):
    status: int
    out: str
    err: str


Say = Callable[..., Said]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    finish(folder)
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished project as working folder, its head chosen."""
    with in_this_process() as changed:
        changed.chdir(copy_of(finished, tmp_path / "project"))
        choose("head")
        yield tmp_path / "project"


@pytest.fixture
def say(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["predict", *map(str, words)])
        try:
            status = predict.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return Said(status, *capsys.readouterr())

    return run


def change(**sections: dict[str, Any]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    for name, changed in sections.items():
        params[name] |= changed
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def probabilities(out: str) -> dict[str, list[float]]:
    """By the last part of each file's name."""
    return {
        Path(answer["file"]).name: list(answer["probabilities"].values())
        for answer in json.loads(out)
    }


def require_agreement(out: str) -> None:
    found, expected = probabilities(out), pipelines()
    assert list(found) == sorted(expected, key=list(found).index)
    assert len({tuple(np.round(given, 4)) for given in expected.values()}) > len(expected) / 2
    for name, given in found.items():
        assert_allclose(given, expected[name], atol=1e-4)


@pytest.mark.parametrize("chosen", ["head", "fine_tune"])
@pytest.mark.parametrize("engine", ["keras", pytest.param("openvino", marks=needs_openvino)])
def test_an_image_of_the_data_set_gets_what_the_pipeline_gave_it(
    chosen: str, engine: str, say: Say
) -> None:
    choose(chosen)
    said = say(TRAIN, "--json", "--engine", engine)
    assert said.status == 0
    require_agreement(said.out)


@needs_openvino
@pytest.mark.slow
def test_a_fresh_process_takes_openvino_without_tensorflow_and_says_the_same(
    project: Path,
) -> None:
    choose("fine_tune")
    script = (
        "import sys; sys.argv = ['predict', 'data/raw/train', '--json']; "
        "from stages import predict; status = predict.main(); "
        "assert 'tensorflow' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("predict: 16 images, 0 unreadable, ")
    assert len(done.stderr.splitlines()) == 1
    require_agreement(done.stdout)


def test_a_zip_a_folder_and_its_files_get_the_same(say: Say) -> None:
    names = sorted(path.name for path in TRAIN.iterdir())
    with zipfile.ZipFile("some.zip", "w") as archive:
        archive.writestr("__MACOSX/x", b"passed over")
        for name in names:
            archive.write(TRAIN / name, f"inner/{name}")
    every = [say(*given, "--csv") for given in ([TRAIN], ["some.zip"], TRAIN.iterdir())]
    rows = [
        {Path(line[0]).name: line[1:] for line in csv.reader(io.StringIO(s.out))} for s in every
    ]
    assert len(rows[0]) == 17
    assert rows[0] == rows[1] == rows[2]
    assert every[1].out.splitlines()[1].startswith("some.zip/inner/cat.")


def test_the_table_is_aligned_and_shows_the_likeliest_class(say: Say) -> None:
    change(predict={"views": 1})
    first, other = sorted(TRAIN.iterdir())[:2]
    shutil.copyfile(other, "a longer name.png")
    said = say(first, "a longer name.png")
    found = {Path(a["file"]): a for a in json.loads(say(first, "a longer name.png", "--json").out)}
    width = max(len(str(name)) for name in found)
    expected = [f"{'file':{width}}  class  probability"]
    expected += [
        f"{name!s:{width}}  {answer['class']}    {answer['probability']:11.4f}"
        for name, answer in found.items()
    ]
    assert said.out.splitlines() == expected


def test_unreadable_files_are_named_the_others_predicted_and_the_status_is_1(say: Say) -> None:
    change(predict={"views": 1})
    Path("text.jpg").write_text("no image")
    good = sorted(TRAIN.iterdir())[0]
    said = say("text.jpg", good, "absent.png", "--csv")
    assert said.status == 1
    header, first, second, third = csv.reader(io.StringIO(said.out))
    assert header == ["file", "class", "probability", "cat", "dog", "error"]
    reason = "not an image of a known format (JPEG, PNG, WEBP, BMP, GIF, TIFF)"
    assert first == ["text.jpg", "", "", "", "", reason]
    assert (second[0], second[5]) == (str(good), "")
    assert float(second[3]) + float(second[4]) == pytest.approx(1, abs=2e-6)
    assert second[2] == max(second[3:5])
    assert third == ["absent.png", "", "", "", "", "no file there any more, or a link to none"]
    lines = said.err.splitlines()
    assert lines[:2] == [
        f"predict: text.jpg: expected an image, got {reason}; the others are predicted",
        "predict: absent.png: expected an image, got no file there any more, or a link to none; "
        "the others are predicted",
    ]
    assert lines[2].startswith("predict: 3 images, 2 unreadable, ")
    assert json.loads(say("text.jpg", "--json").out) == [{"file": "text.jpg", "error": reason}]


def test_a_name_cannot_steer_the_terminal_nor_break_the_csv(say: Say) -> None:
    change(predict={"views": 1})
    name = 'a\x1b[31m,"\n\u202eb.png'
    shutil.copyfile(sorted(TRAIN.glob("*.png"))[0], name)
    shown = 'a\\x1b[31m,"\\n\\u202eb.png'
    assert printable(name) == shown
    said = say(name)
    assert said.out.splitlines()[1].startswith(shown + "  ")
    assert len(said.out.splitlines()) == 2
    lines = list(csv.reader(io.StringIO(say(name, "--csv").out)))
    assert (len(lines), lines[1][0]) == (2, shown)
    assert json.loads(say(name, "--json").out)[0]["file"] == name


def test_the_backbones_own_five_classes_come_by_their_names(
    say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(predict={"views": 1})
    index = {str(number): [f"n{number}", f"thing_{number}"] for number in range(1000)}
    Path("index.json").write_text(json.dumps(index))
    given = np.zeros((1, 1000), np.float32)
    given[0, [7, 3, 999, 500, 1]] = [0.4, 0.3, 0.15, 0.1, 0.04]
    monkeypatch.setattr(imagenet, "function", lambda *_: lambda images: given)
    words = (sorted(TRAIN.iterdir())[0], "--imagenet", "--imagenet-classes", "index.json")
    (answer,) = json.loads(say(*words, "--json").out)
    assert answer["imagenet"] == [
        {"class": "thing_7", "probability": 0.4},
        {"class": "thing_3", "probability": 0.3},
        {"class": "thing_999", "probability": 0.15},
        {"class": "thing_500", "probability": 0.1},
        {"class": "thing_1", "probability": 0.04},
    ]
    assert (
        say(*words)
        .out.splitlines()[1]
        .endswith(
            "  thing_7 0.4000  thing_3 0.3000  thing_999 0.1500  thing_500 0.1000  thing_1 0.0400"
        )
    )
    header, row = csv.reader(io.StringIO(say(*words, "--csv").out))
    assert header[5:7] == ["imagenet_1", "imagenet_1_probability"]
    assert header[14] == "imagenet_5_probability"
    assert row[5:7] == ["thing_7", "0.400000"]


def test_what_cannot_be_done_is_told_in_one_sentence(
    say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = sorted(TRAIN.iterdir())[0]
    index = {str(number): ["", ""] for number in range(1000)}
    Path("index.json").write_text(json.dumps(index))
    full = Path("full")
    full.mkdir()
    (full / "mine.txt").write_text("")
    assert say(picture, "--imagenet", "--imagenet-classes", "index.json").err == (
        "error: predict --imagenet: expected a backbone that was trained on ImageNet, got "
        "'convnet', which has no classes of its own; leave --imagenet out\n"
    )
    monkeypatch.setattr(imagenet, "function", lambda *_: None)
    assert say(picture, "--imagenet-classes", "absent.json").err == (
        "error: predict --imagenet-classes: expected Keras' imagenet_class_index.json, got "
        "'absent.json' ([Errno 2] No such file or directory: 'absent.json'); correct the path\n"
    )
    assert say(picture, "--heatmap", "full").err == (
        "error: predict --heatmap: expected a new or an empty folder, got 'full', which holds "
        "something; name another one\n"
    )
    assert say(picture, "--heatmap", "new", "--engine", "openvino").err == (
        "error: predict --engine: expected keras, as --heatmap needs gradients, got 'openvino'; "
        "leave one of them out\n"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert say(picture, "--engine", "openvino").err == (
        "error: predict --engine: expected a package that is installed, got 'openvino'; "
        "run `pip install 'stages[openvino]'`, or give `--engine keras`\n"
    )


def test_heatmaps_are_pictures_of_the_images_with_colour_where_the_network_looked(
    say: Say,
) -> None:
    said = say(TRAIN, "--csv", "--heatmap", "maps")
    assert said.status == 0
    assert said.out == say(TRAIN, "--csv", "--engine", "keras").out
    pixels = arrays.Rows(RESIZED)
    members = [row.member for row in ledger.read_ledger(LEDGER) if row.accepted]
    names = {f"{Path(member).stem}.png" for member in members if member in pipelines()}
    assert {path.name for path in Path("maps").iterdir()} == names
    changed = []
    for row, member in enumerate(members):
        if member in pipelines():
            with Image.open(Path("maps", f"{Path(member).stem}.png")) as opened:
                differs = (np.asarray(opened) != pixels.read(row, row + 1)[0]).any(axis=-1)
            changed.append(differs.mean())
    assert max(changed) > 0.2
    assert min(changed) < 1  # where nothing speaks for the class, the image stays as it is


def test_a_path_through_a_file_or_a_name_too_long_is_named_and_the_rest_is_predicted(
    say: Say,
) -> None:
    picture = sorted(TRAIN.iterdir())[0]
    said = say(picture, picture / "within", "x" * 300, "--csv")
    assert said.status == 1
    assert [answer[-1] for answer in list(csv.reader(io.StringIO(said.out)))[2:]] == [
        "no file there, as a part of its path is no folder",
        "a name that is too long for a file",
    ]
    assert said.err.count("; the others are predicted\n") == 2


def test_without_network_the_names_of_the_classes_are_asked_for(
    say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise requests.ConnectionError

    monkeypatch.setenv("KERAS_HOME", "an empty folder")
    monkeypatch.setattr(requests.Session, "get", fail)
    monkeypatch.setattr(imagenet, "function", lambda *_: None)
    assert say(sorted(TRAIN.iterdir())[0], "--imagenet").err == (
        "error: predict --imagenet: expected to download imagenet_class_index.json from "
        "storage.googleapis.com, got no connection; connect once, or give "
        "`--imagenet-classes FILE`\n"
    )


def test_damaged_weights_of_the_fine_tuned_network_are_one_sentence(say: Say) -> None:
    choose("fine_tune")
    path = Path("data/model/model.weights.h5")
    path.write_bytes(path.read_bytes()[:1000])
    said = say(TRAIN)
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith(
        "error: data/model/model.weights.h5: expected the weights of the fine-tuned network, got "
        "a file that does not fit ("
    )
    assert said.err.endswith("); run `dvc repro fine_tune` again\n")
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("missing", "stage"),
    [
        ("data/split.csv", "split"),
        ("metrics/evaluate.json", "evaluate"),
        ("data/weights/convnet.weights.h5", "fetch_weights@convnet"),
        ("data/head/head.npz", "train_head"),
    ],
)
def test_what_has_not_run_yet_is_named(missing: str, stage: str, say: Say) -> None:
    Path(missing).unlink()
    assert say(TRAIN).err == (
        f"error: {missing}: expected the output of `{stage}`, got nothing at that path; "
        f"run `dvc repro {stage}` first\n"
    )


def test_pictures_lie_in_the_folder_and_none_takes_anothers_place(tmp_path: Path) -> None:
    found = []
    for name in ("a/cat.jpg", "b/cat.jpg", "b/cat.jpg", "../../etc/..", "x/..\\y\x1b.png", "…/ü 1"):
        found.append(predict.picture_path(tmp_path, name))
        found[-1].touch()
    names = [path.name for path in found]
    assert {path.parent for path in found} == {tmp_path}
    assert names[0] == "cat.png"
    assert names[1][:4] == "cat-"
    assert names[2] == names[1].replace(".png", "-2.png")
    assert names[3:] == ["image.png", "_y_.png", "ü_1.png"]
    assert len(predict.picture_path(tmp_path, "x" * 500).name) == predict.PICTURE_NAME + 4
