"""`explain` in this process: the right images, with true colors, and what is known of each."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from pipeline.backbones import build, intermediate, keras_setup
from pipeline.evaluation.probabilities import log_softmax
from pipeline.explanation import network_images
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays, ledger
from pipeline.training import head, network
from stages import explain

SIZE = 48
OUT = Path("metrics/explain")
SURE = [9, 8, 7, 6, 5, 1, -1, -2, -3, 0.1, -0.2, 4]  # log-odds of the true class, image by image
AUDIT = {  # with the columns that are read
    "labels.csv": "member,source,suggested,likely\n7.jpg,train,cat,yes\n8.jpg,train,dog,no\n",
    "outliers.csv": "member,source\n3.jpg,train\n",
    "light.csv": "member,source,fault\n2.jpg,train,dark\n",
    "copies.csv": "member,source,group\n0.jpg,train,train/0\n1.jpg,train,train/0\n",
    "alike.csv": "member,source,other,other_source\n4.jpg,train,6.jpg,train\n",
}


@pytest.fixture(autouse=True)
def run(write_params: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve images, cats and dogs in turn, two of `train`; a rejected file among them."""
    section = {"examples": 2, "layers": 2, "filters": 2}
    backbone = {"weights": "random", "seed": 0, "include_top": False, "pooling": "avg"}
    backbones = {"convnet": backbone | {"preprocessing": "backbone", "unfreeze_from": "conv1"}}
    write_params(explain=section, backbones=backbones)
    monkeypatch.setattr(sys, "argv", ["stage"])
    monkeypatch.setattr(keras_setup, "start", lambda *_, **__: None)
    rows = [
        ledger.LedgerRow(
            f"{i}", "train", f"{i}.jpg", ("cat", "dog")[i % 2], i % 2,
            "train" if i < 2 else "test", f"{i}", 9, 9, "RGB", f"train/{i}", "",
        )
        for i in range(len(SURE))
    ]  # fmt: skip
    rows.insert(
        5, ledger.LedgerRow("x", "train", "<x>.jpg", "", -1, "", "", 0, 0, "", "", "cut short")
    )
    ledger.write_ledger(Path("data/split.csv"), rows)
    fingerprint = ledger.fingerprint(rows)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (len(SURE), SIZE, SIZE, 3)).astype(np.uint8)
    odds = np.array(SURE) * np.where(np.arange(len(SURE)) % 2, 1, -1)  # of dog
    predicted = log_softmax(np.stack([np.zeros_like(odds), odds], axis=1))
    for path, values in (
        ("data/resized.zarr", pixels),
        ("data/head/predictions.zarr", predicted),
        ("data/model/predictions.zarr", predicted),
    ):
        arrays.write(
            Path(path), [values], shape=values.shape, dtype=values.dtype, fingerprint=fingerprint
        )
    keras.utils.set_random_seed(0)
    Path("data/weights").mkdir()
    Path("metrics/audit").mkdir(parents=True)
    build.network("convnet", SIZE, False, None).save_weights("data/weights/convnet.weights.h5")
    kernel = rng.normal(0, 1, (build.CONVNET_FILTERS[-1], 2)).astype(np.float32)
    head.Head((kernel,), (np.zeros(2, np.float32),)).save(Path("data/head/head.npz"))
    figures = {"chosen": "head", "temperature": 2.0, "clip": 0.01}
    Path("metrics/evaluate.json").write_text(json.dumps(figures), encoding="utf-8")
    for name, lines in AUDIT.items():
        Path("metrics/audit", name).write_text(lines, encoding="utf-8")


def described() -> dict[str, Any]:
    assert explain.main() == 0
    content: dict[str, Any] = json.loads((OUT / "explain.json").read_text(encoding="utf-8"))
    return content


def test_galleries_hold_the_images_that_their_titles_say() -> None:
    galleries = {gallery["title"]: gallery["images"] for gallery in described()["galleries"]}
    shown = {title: [image["member"] for image in images] for title, images in galleries.items()}
    assert len(shown.pop("Correct, random sample")) == 2
    assert set(shown.pop("Wrong, random sample")) <= {f"{i}.jpg" for i in (6, 7, 8, 10)}
    assert shown == {
        "Most confident and correct: cat": ["2.jpg", "4.jpg"],
        "Most confident and wrong: cat": ["8.jpg", "6.jpg"],
        "Most confident and correct: dog": ["3.jpg", "11.jpg"],
        "Most confident and wrong: dog": ["7.jpg"],
        "Least confident": ["9.jpg", "10.jpg"],
        "Likely label errors": ["7.jpg"],
        "Outliers": ["3.jpg"],
        "Poor exposure or focus": ["2.jpg"],
        "Copies": ["0.jpg", "1.jpg"],
        "Similar features": ["4.jpg", "6.jpg"],
        "Rejected files": ["<x>.jpg"],
    }
    image = galleries["Most confident and wrong: dog"][0]
    assert image == {
        "picture": "images/7.png",
        "heatmap": "heatmaps/7.png",
        "member": "7.jpg",
        "source": "train",
        "subset": "test",
        "label": "dog",
        "said": "cat",
        "probability": round(1 / (1 + np.exp(-2 / 2)), 4),  # log-odds of 2, temperature 2
        "note": "",
    }
    pixels = arrays.StoredArray(Path("data/resized.zarr")).read(0, len(SURE))
    with Image.open(OUT / "images/7.png") as opened:
        assert (np.asarray(opened) == pixels[7]).all()
    notes = {title: [image["note"] for image in images] for title, images in galleries.items()}
    assert notes["Likely label errors"] == ["cat instead?"]
    assert notes["Poor exposure or focus"] == ["dark"]
    assert notes["Copies"] == ["group train/0"] * 2
    assert notes["Similar features"] == ["pair 1"] * 2
    assert notes["Rejected files"] == ["cut short"]
    assert galleries["Rejected files"][0]["picture"] is None
    assert galleries["Copies"][0]["heatmap"] is None


def test_every_named_image_is_there_and_no_other_and_the_bytes_repeat() -> None:
    found = described()
    named = {
        image[kind]
        for gallery in found["galleries"]
        for image in gallery["images"]
        for kind in ("picture", "heatmap")
    } - {None}
    named |= {layer["picture"] for layer in found["activations"]["layers"] + found["filters"]}
    named.add(found["activations"]["picture"])
    assert named == {path.relative_to(OUT).as_posix() for path in OUT.rglob("*.png")}
    assert [layer["layer"] for layer in found["filters"]] == ["conv1", "conv4"]
    before = {path: path.read_bytes() for path in OUT.rglob("*.*")}
    assert described() == found
    assert {path: path.read_bytes() for path in OUT.rglob("*.*")} == before


def test_a_chosen_image_and_chosen_layers_are_shown(write_params: Callable[..., None]) -> None:
    write_params(explain={"image": "11.jpg", "layers": ["conv2"], "filters": 0})
    found = described()
    assert found["activations"]["member"] == "11.jpg"
    assert [layer["layer"] for layer in found["activations"]["layers"]] == ["conv2"]
    assert found["filters"] == []


def test_what_is_not_there_is_told_in_a_sentence_and_nothing_is_written(
    write_params: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    image = "the name of an image as in data/split.csv, or null, got '99.jpg'; correct it"
    layers = (
        "names of layers whose output has height and width, got 'conv9'; the nearest are conv4, "
        "conv3, conv2"
    )
    for key, value, expected in (("image", "99.jpg", image), ("layers", ["conv9"], layers)):
        write_params(explain={"image": None} | {key: value})
        assert explain.main() == 1
        sentence = f"error: params.yaml: explain.{key}: expected {expected}\n"
        assert capsys.readouterr().err == sentence
    assert not OUT.exists()


def test_of_two_backbones_each_shows_the_named_layers_that_it_has() -> None:
    extractors = {
        name: build.extractor(build.network(name, SIZE, False, None), name, None, "avg")
        for name in ("convnet", "gabor")
    }
    net = network.Network(extractors, None, None)
    only_gabors = intermediate.spatial_layers(extractors["gabor"])[-1]
    assert only_gabors not in intermediate.spatial_layers(extractors["convnet"])
    layers = {"convnet": ["conv2"], "gabor": [only_gabors]}
    assert network_images.layers(net, ["conv2", only_gabors]) == layers


def test_a_layer_without_height_and_width_is_refused() -> None:
    inputs = keras.Input((8, 8, 3))
    flat = keras.layers.GlobalAveragePooling2D(name="flat")(keras.layers.Conv2D(2, 3)(inputs))
    extractor = build.extractor(keras.Model(inputs, flat), "convnet", "flat", "avg")
    with pytest.raises(UserError, match="output has height and width, got 'flat'; the nearest are"):
        network_images.layers(network.Network({"convnet": extractor}, None, None), ["flat"])
