"""KerasHub presets become backbones; what is no image backbone is refused in one sentence."""

import functools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import build, from_params, openvino, preset, weights
from pipeline.runtime.errors import UserError

hub = pytest.importorskip("keras_hub")
WHERE = "params.yaml: backbones.Net.path"
SIZE = 32
VIT = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
DINO = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
SIGLIP = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8}
LITE = {
    **{f"stackwise_{key}_coefficients": [1.0] for key in ("width", "depth")},
    "stackwise_kernel_sizes": [3],
    "stackwise_num_repeats": [1],
    "stackwise_strides": [1],
    "stackwise_input_filters": [8],
    "stackwise_output_filters": [8],
    "stackwise_expansion_ratios": [1],
    "stackwise_squeeze_and_excite_ratios": [0],
    "stackwise_block_types": ["v1"],
    "stackwise_force_input_filters": [0],
    "min_depth": 8,
    "activation": "relu6",
    "dropout": 0.0,
    "depth_divisor": 8,
}
SHAPE = {"image_shape": (SIZE, SIZE, 3)}
NETWORKS: dict[str, Callable[[], Any]] = {
    "vit": lambda: hub.models.ViTBackbone(**VIT, **SHAPE),
    "dino": lambda: hub.models.DINOV2Backbone(
        **DINO, **SHAPE, num_register_tokens=2, position_embedding_shape=(SIZE, SIZE, 3)
    ),
    "deit": lambda: hub.models.DeiTBackbone(**DINO, **SHAPE),
    "swin": lambda: hub.models.SwinTransformerBackbone(
        **SHAPE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    ),
    "siglip": lambda: hub.models.SigLIPVisionEncoder(**SIGLIP, **SHAPE),
    "lite": lambda: hub.models.EfficientNetBackbone(**LITE, input_shape=(SIZE, SIZE, 3)),
}
CONVERTER = {"config": {"scale": [0.5, 0.25, 0.125], "offset": -1.5}}


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, keras.Model]]:
    """A preset of each network with random weights, and the network."""
    folder = tmp_path_factory.mktemp("presets")
    made = {}
    for name, build_one in NETWORKS.items():
        keras.utils.set_random_seed(0)
        model = build_one()
        model.save_to_preset(str(folder / name))
        (folder / name / preset.CONVERTER).write_text(json.dumps(CONVERTER), encoding="utf-8")
        made[name] = folder / name, model
    return made


def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)


def expected(model: keras.Model) -> NDArray[np.float32]:
    scaled = images() * np.array([0.5, 0.25, 0.125], np.float32) - np.float32(1.5)
    inputs = {"images": scaled} if isinstance(model.input, dict) else scaled
    return np.asarray(model(inputs, training=False))


def extractor(folder: Path, pooling: str, pixels: int = SIZE, size: int | None = None) -> Any:
    found = preset.read(folder, WHERE)
    base = preset.load(found, size, folder / preset.WEIGHTS, WHERE)
    scaling = found.scaling
    options: dict[str, Any] = {"pixels": pixels, "tokens": found.tokens}
    return build.extractor(base, "Net", None, pooling, "float32", scaling, **options)


POOLED: list[tuple[str, str, Callable[[NDArray[Any]], NDArray[Any]]]] = [
    ("vit", "cls", lambda x: x[:, 0]),
    ("vit", "mean", lambda x: x[:, 1:].mean(axis=1)),
    ("vit", "cls_and_mean", lambda x: np.hstack([x[:, 0], x[:, 1:].mean(axis=1)])),
    ("dino", "cls", lambda x: x[:, 0]),
    ("dino", "mean", lambda x: x[:, 3:].mean(axis=1)),  # behind the class and two registers
    ("deit", "cls_and_mean", lambda x: np.hstack([x[:, 0], x[:, 2:].mean(axis=1)])),
    ("swin", "mean", lambda x: x.mean(axis=1)),
    ("siglip", "flatten", lambda x: x),
    ("lite", "avg", lambda x: x.mean(axis=(1, 2))),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pooling", "pool"), POOLED, ids=lambda one: str(one)[:8])
def test_features_are_those_of_the_preset_by_keras_and_by_openvino(
    presets: dict[str, tuple[Path, keras.Model]],
    name: str,
    pooling: str,
    pool: Callable[[NDArray[Any]], NDArray[Any]],
    tmp_path: Path,
) -> None:
    folder, model = presets[name]
    wanted, ours = pool(expected(model)), extractor(folder, pooling)
    largest = np.abs(wanted).max()
    assert_allclose(ours.predict_on_batch(images()), wanted, rtol=0, atol=2e-5 * largest)
    if name == "swin":  # its windows are counted for one image
        with pytest.raises(RuntimeError):
            weights.convert(ours, tmp_path / "network")
        return
    weights.convert(ours, tmp_path / "network")
    network = openvino.Network(tmp_path / "network")
    network.compile("float32", 1, None)
    assert_allclose(network(images()), wanted, rtol=0, atol=2e-5 * largest)


@pytest.mark.parametrize("name", ["vit", "lite"])
def test_features_in_bfloat16_are_near_those_in_float32(
    presets: dict[str, tuple[Path, keras.Model]],
    name: str,
    params: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder, _ = presets[name]
    monkeypatch.chdir(tmp_path)
    paths.network("Net").mkdir(parents=True)
    preset.write(preset.read(folder, WHERE), paths.preset("Net"))
    section = {"weights": "preset", "path": "x", "pooling": "cls" if name == "vit" else "avg"}
    checked = config.check(params | {"backbones": {"Net": section}, "fine_tune": None})
    of = functools.partial(from_params.extractor, checked, "Net", SIZE, folder / preset.WEIGHTS)
    exact, rounded = (np.asarray(of(one)(images())) for one in ("float32", "bfloat16"))
    assert exact.dtype == rounded.dtype == np.float32
    difference = np.abs(exact - rounded).max() / np.abs(exact).max()
    assert 0 < difference < 0.05
    assert keras.config.dtype_policy().name == "float32"


def test_images_of_another_size_are_resized_to_the_presets_own(
    presets: dict[str, tuple[Path, keras.Model]],
) -> None:
    folder, _ = presets["vit"]
    found = preset.read(folder, WHERE)
    assert found.size == SIZE
    assert extractor(folder, "cls", pixels=48).input_shape == (None, 48, 48, 3)


def test_a_preset_is_read_as_it_was_stored(
    presets: dict[str, tuple[Path, keras.Model]], tmp_path: Path
) -> None:
    found = preset.read(presets["dino"][0], WHERE)
    preset.write(found, tmp_path / "preset.json")
    assert preset.stored(tmp_path / "preset.json") == found
    assert found.scaling == build.Scaling([0.5, 0.25, 0.125], [-1.5, -1.5, -1.5])


@pytest.mark.parametrize(
    ("name", "pooling", "sentence"),
    [
        ("vit", "flatten", "pooling: expected cls or mean or cls_and_mean, as the output has the"),
        ("lite", "cls", "pooling: expected avg or max or flatten, as the output has the shape"),
        ("siglip", "mean", "pooling: expected flatten, as the output has the shape"),
    ],
)
def test_a_pooling_that_does_not_fit_is_refused(
    presets: dict[str, tuple[Path, keras.Model]], name: str, pooling: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        extractor(presets[name][0], pooling)


def test_a_size_that_the_position_embedding_cannot_take_is_refused(
    presets: dict[str, tuple[Path, keras.Model]],
) -> None:
    sentence = (
        "expected the weights of ViTBackbone at 48 pixels, got a file that does not fit .*; change "
        "backbones.Net.path, or size beside it"
    )
    with pytest.raises(UserError, match=sentence):
        extractor(presets["vit"][0], "cls", size=48)


Change = Callable[[dict[str, Any]], object]
BAD: dict[str, tuple[str, Change, str]] = {
    "of text": (
        preset.CONFIG,
        lambda json: json.update(
            registered_name="keras_hub>BertBackbone", class_name="BertBackbone"
        ),
        "expected a preset of one of CLIPVisionEncoder, .*, got 'keras_hub>BertBackbone'",
    ),
    "of another package": (
        preset.CONFIG,
        lambda json: json.update(registered_name="os>ViTBackbone"),
        "expected a preset of one of .*, got 'os>ViTBackbone'; take an image backbone",
    ),
    "with an object inside": (
        preset.CONFIG,
        lambda json: json["config"].update(activation={"class_name": "Lambda", "config": {}}),
        "expected numbers, texts and lists of them in config.json, got an object in 'activation'",
    ),
    "that cannot be built": (
        preset.CONFIG,
        lambda json: json["config"].update(hidden_dim="wide"),
        "expected a preset that this KerasHub builds, got ",
    ),
    "with a scale of text": (
        preset.CONVERTER,
        lambda json: json["config"].update(scale="half"),
        "expected scale and offset as a number or three in image_converter.json, got 'half'",
    ),
}


@pytest.mark.parametrize(("file", "change", "sentence"), BAD.values(), ids=BAD)
def test_a_preset_that_is_none_of_an_image_network_is_refused(
    presets: dict[str, tuple[Path, keras.Model]],
    file: str,
    change: Change,
    sentence: str,
    tmp_path: Path,
) -> None:
    for path in presets["vit"][0].iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / file).read_text(encoding="utf-8"))
    change(content)
    (tmp_path / file).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=sentence) as refused:
        preset.load(preset.read(tmp_path, WHERE), None, tmp_path / preset.WEIGHTS, WHERE)
    assert str(refused.value).startswith(f"{WHERE}: ")


def test_a_preset_without_weights_or_with_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a preset, .*, got none of 'config.json'"):
        preset.digest(tmp_path, WHERE)
    (tmp_path / preset.CONFIG).write_text("[1", encoding="utf-8")
    (tmp_path / preset.CONVERTER).write_text(json.dumps(CONVERTER), encoding="utf-8")
    with pytest.raises(UserError, match="expected JSON that KerasHub has saved in config"):
        preset.read(tmp_path, WHERE)
    with pytest.raises(UserError, match=r"got none of 'model.weights.h5'"):
        preset.digest(tmp_path, WHERE)


def test_the_digest_is_that_of_what_sha256sum_prints(tmp_path: Path) -> None:
    for name in preset.FILES:
        (tmp_path / name).write_text(name, encoding="utf-8")
    run = functools.partial(
        subprocess.run, cwd=tmp_path, capture_output=True, check=True, encoding="utf-8"
    )
    printed = run(["sha256sum", *preset.FILES]).stdout
    assert preset.digest(tmp_path, WHERE) == run(["sha256sum"], input=printed).stdout[:64]


def test_a_name_that_cannot_be_downloaded_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object) -> str:
        raise OSError("no route to host\nat all")

    monkeypatch.setattr("pipeline.backbones.keras_private.preset_file", offline)
    with pytest.raises(UserError, match=r"got 'dinov2_small' \(no route to host at all\); connect"):
        preset.find(WHERE, "dinov2_small")


def test_the_schema_takes_a_preset(params: dict[str, Any]) -> None:
    section = {"weights": "preset", "path": "folder", "pooling": "cls"}
    params["backbones"] = {"Net": section}
    params["fine_tune"] = None
    settings = config.settings(config.check(params))
    assert settings["extract"]["Net"]["preset"] == "folder"
    params["backbones"]["Net"] = section | {"sha256": "0" * 64, "seed": 1}
    with pytest.raises(
        UserError, match=r"backbones\.Net\.seed: expected one of weights, path, sha2"
    ):
        config.check(params)
