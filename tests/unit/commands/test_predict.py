"""`pipeline predict` gives any image the pipeline's probabilities, and names unreadable files."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from album import LEDGER, RESIZED, TRAIN
from bad_zips import zipped
from finished import choose, pipelines
from numpy.testing import assert_allclose
from PIL import Image

from pipeline.commands import predict
from pipeline.storage import arrays, ledger
from pipeline.training import network
from stages import fetch_weights

ROOT = Path(__file__).parents[3]
Say = Callable[..., SimpleNamespace]


@pytest.fixture
def say(project: Path, pipeline: Say) -> Say:
    return lambda *words: pipeline("predict", *words)


def change_params(section: str, **values: Any) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def one_view(**data: str) -> None:
    change_params("predict", views=1)
    change_params("data", **data)


def rows_of(out: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(out)))


def require_agreement(out: str) -> None:
    """The JSON has the pipeline's probabilities, which differ from image to image."""
    expected = pipelines()
    answers = {Path(answer["file"]).name: answer for answer in json.loads(out)}
    assert answers.keys() == expected.keys()
    assert len({tuple(np.round(values, 4)) for values in expected.values()}) > len(expected) / 2
    for name, answer in answers.items():
        assert_allclose(list(answer["probabilities"].values()), expected[name], atol=1e-4)


@pytest.mark.parametrize("model", ["head", "fine_tune"])
@pytest.mark.parametrize("engine", ["keras", "openvino"])
def test_an_image_of_the_data_set_gets_the_pipelines_probabilities(
    model: str, engine: str, say: Say
) -> None:
    choose(model)
    said = say(TRAIN, "--json", "--engine", engine)
    assert said.status == 0
    require_agreement(said.out)


def in_a_fresh_process(condition: str) -> None:
    """Predict the data set; `condition` is one of Python's, at the end."""
    code = (
        "import sys; from pipeline.commands import cli; "
        "status = cli.main(['predict', 'data/raw/train', '--json']); "
        f"assert {condition}; sys.exit(status)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    require_agreement(done.stdout)


@pytest.mark.slow
def test_only_the_first_run_after_a_training_starts_keras(project: Path) -> None:
    choose("fine_tune")
    in_a_fresh_process("'keras' in sys.modules")
    in_a_fresh_process("'keras' not in sys.modules")
    choose("head")
    in_a_fresh_process("'keras' in sys.modules")
    assert len([*Path("data/.predictor").glob("[!.]*")]) == 1


def test_a_head_on_features_by_openvino_needs_no_keras(
    project: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_params("extract", engine="openvino")
    monkeypatch.setattr(sys, "argv", ["fetch_weights", "convnet"])
    assert fetch_weights.main() == 0
    choose("head")
    monkeypatch.setattr(network, "load", None)
    said = say(TRAIN, "--json")
    assert said.status == 0, said.err
    require_agreement(said.out)


def test_a_damaged_copy_of_the_network_is_named_and_made_again(say: Say) -> None:
    one_view()
    image = sorted(TRAIN.iterdir())[0]
    expected = say(image, "--csv").out
    (weights,) = Path("data/.predictor").glob("*/network.bin")
    weights.write_bytes(weights.read_bytes()[:-1])
    said = say(image, "--csv")
    assert (said.status, said.out, said.err.count("\n")) == (1, "", 1)
    assert said.err.endswith(f"remove {weights.parent} and run the same command again\n")
    shutil.rmtree(weights.parent)
    assert say(image, "--csv").out == expected


def test_a_zip_a_folder_and_its_files_get_the_same(say: Say) -> None:
    with zipfile.ZipFile("some.zip", "w") as archive:
        archive.writestr("__MACOSX/x", b"ignored")
        for path in sorted(TRAIN.iterdir()):
            archive.write(path, f"inner/{path.name}")
    outs = [say(*inputs, "--csv").out for inputs in ([TRAIN], ["some.zip"], TRAIN.iterdir())]
    rows = [{Path(line[0]).name: line[1:] for line in rows_of(out)} for out in outs]
    assert len(rows[0]) == 17
    assert rows[0] == rows[1] == rows[2]
    assert outs[1].splitlines()[1].startswith("some.zip/inner/cat.")


def test_zips_and_links_out_inside_a_folder_are_named_and_the_others_predicted(say: Say) -> None:
    one_view()
    shutil.copytree(TRAIN, "album")
    with zipfile.ZipFile("album/inner.zip", "w") as archive:
        archive.writestr("1.jpg", b"")
    Path("album/out.jpg").symlink_to(sorted(TRAIN.iterdir())[0].resolve())
    Path("album/list.csv").write_text("1")
    said = say("album", "--csv")
    assert said.status == 1
    assert {row[0]: row[5] for row in rows_of(said.out)[1:] if row[5]} == {
        "album/inner.zip": "another zip; give it by itself, or unzip it",
        "album/out.jpg": "a link that leads out of the folder; put the file itself there",
    }
    assert said.err.splitlines()[-1].startswith("predict: 18 images, 2 unreadable, ")


def test_names_in_a_zip_are_read_in_the_encoding_of_the_parameters(say: Say) -> None:
    one_view()
    content = zipped([("==.jpg", sorted(TRAIN.iterdir())[0].read_bytes())])
    Path("some.zip").write_bytes(content.replace(b"==.jpg", "\u8868.jpg".encode("gbk")))
    assert "set data.zip_encoding" in say("some.zip", "--csv").err
    one_view(zip_encoding="gbk")
    assert rows_of(say("some.zip", "--csv").out)[1][0] == "some.zip/\u8868.jpg"


def test_unreadable_files_are_named_the_others_predicted_and_the_status_is_1(say: Say) -> None:
    one_view()
    Path("text.jpg").write_text("no image")
    good = sorted(TRAIN.iterdir())[0]
    files = ("text.jpg", good, "absent.png", good / "within", "x" * 300)
    said = say(*files, "--csv")
    assert said.status == 1
    header, first, second, *others = rows_of(said.out)
    assert header == ["file", "class", "probability", "cat", "dog", "error"]
    reason = "not an image of a known format (JPEG, PNG, WEBP, BMP, GIF, TIFF)"
    assert first == ["text.jpg", "", "", "", "", reason]
    assert (second[0], second[2], second[5]) == (str(good), max(second[3:5]), "")
    assert float(second[3]) + float(second[4]) == pytest.approx(1, abs=2e-6)
    assert [row[5] for row in others] == [
        "no file there any more, or a link to none",
        "no file there, as a part of its path is no folder",
        "a name that is too long for a file",
    ]
    lines = said.err.splitlines()
    assert lines[0] == (
        f"predict: text.jpg: expected an image, got {reason}; the others are predicted"
    )
    assert lines[-1].startswith("predict: 5 images, 4 unreadable, ")
    answers = json.loads(say(*files, "--json").out)
    assert answers[0] == {"file": "text.jpg", "error": reason}
    assert answers[1]["probability"] == float(second[2])
    archive = Path("photos.tar.gz")
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(good)
    (answer,) = json.loads(say(archive, "--json").out)
    assert answer["error"] == "a tar.gz archive, no image; unpack it and give the folder"
    assert say(*files).out.splitlines() == [
        f"{'file':300}  class  probability",
        f"{good!s:300}  {second[1]}    {float(second[2]):11.4f}",
    ]


def test_a_name_cannot_control_the_terminal_nor_break_the_csv(say: Say) -> None:
    one_view()
    name = 'a\x1b[31m,"\n\u202eb.png'
    shutil.copyfile(sorted(TRAIN.glob("*.png"))[0], name)
    escaped = 'a\\x1b[31m,"\\n\\u202eb.png'
    lines = say(name).out.splitlines()
    assert (len(lines), lines[1].startswith(f"{escaped}  ")) == (2, True)
    rows = rows_of(say(name, "--csv").out)
    assert (len(rows), rows[1][0]) == (2, escaped)
    assert json.loads(say(name, "--json").out)[0]["file"] == name


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--heatmap", "data"], "got 'data', which holds something else; name another one"),
        (["--heatmap", "new", "--engine", "openvino"], "as --heatmap needs gradients, got 'openvi"),
    ],
)
def test_impossible_requests_are_one_sentence(words: list[str], sentence: str, say: Say) -> None:
    said = say(sorted(TRAIN.iterdir())[0], *words)
    assert (said.status, said.out, said.err.count("\n")) == (1, "", 1)
    assert sentence in said.err


def test_heatmaps_color_the_image_where_the_network_looked(say: Say) -> None:
    said = say(TRAIN, "--csv", "--heatmap", "maps")
    assert said.status == 0
    assert said.out == say(TRAIN, "--csv", "--engine", "keras").out
    pixels = arrays.StoredArray(RESIZED)
    members = [row.member for row in ledger.read_ledger(LEDGER) if row.accepted]
    rows = {Path(name).stem: row for row, name in enumerate(members) if name in pipelines()}
    assert {path.stem for path in Path("maps").iterdir()} == rows.keys()
    changed = []
    for stem, row in rows.items():
        with Image.open(Path("maps", f"{stem}.png")) as opened:
            differs = (np.asarray(opened) != pixels.read(row, row + 1)[0]).any(axis=-1)
        changed.append(differs.mean())
    assert max(changed) > 0.2
    assert min(changed) < 1  # without evidence for the class, the image stays as it is


def test_heatmaps_stay_in_the_folder_and_none_replaces_that_of_another_file(tmp_path: Path) -> None:
    names = []
    for name in ("a/cat.jpg", "b/cat.jpg", "../../etc/..", "x/..\\y\x1b.png", "…/ü 1", "x" * 500):
        path = predict.heatmap_path(tmp_path, name)
        assert path.parent == tmp_path
        path.touch()
        names.append(path.name)
    assert (names[0], names[1][:4]) == ("cat.png", "cat-")
    assert names[2:] == ["image.png", "_y_.png", "ü_1.png", f"{'x' * predict.HEATMAP_NAME}.png"]
    assert len(set(names)) == len(names)


def test_a_file_that_is_missing_or_damaged_names_its_stage(say: Say) -> None:
    choose("fine_tune")
    path = Path("data/model/model.weights.h5")
    path.write_bytes(path.read_bytes()[:1000])
    said = say(TRAIN)
    assert (said.status, said.out, said.err.count("\n")) == (1, "", 1)
    assert said.err.startswith(f"error: {path}: expected the weights of the fine-tuned network, ")
    assert said.err.endswith("; run `dvc repro fine_tune` again\n")
    for missing, stage in (  # each is looked for before those above it
        ("data/head/head.npz", "train_head"),
        ("data/weights/convnet.weights.h5", "fetch_weights@convnet"),
        ("metrics/evaluate.json", "evaluate"),
    ):
        Path(missing).unlink()
        expected = f"error: {missing}: expected the output of `{stage}`, got not"
        assert say(TRAIN).err.startswith(expected)
