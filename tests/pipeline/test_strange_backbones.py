"""An ONNX file and a KerasHub preset go through the whole pipeline, on the embedded sample."""

import json
import os
import re
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from project import STAGES, Project

from pipeline.runtime.atomic_files import sha256

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("strange")]
PHOTOS = "data/sample/test.zip"
LOGISTIC = {"kind": "logistic", "max_iterations": 100}
FEW: dict[str, Any] = {"split.per_class_limit": 40, "split.valid": 0.25, "split.test": 0.25}
FEW |= {"train_head": LOGISTIC, "explain.layers": 1, "explain.filters": 1}


def write_onnx(path: Path) -> None:
    """Maps of a convolution with a stride of eight, their means: (n, 6)."""
    kernel = np.random.default_rng(0).standard_normal((6, 3, 8, 8), np.float32) / 50
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["maps"], strides=[8, 8]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["means"]),
        helper.make_node("Flatten", ["means"], ["y"]),
    ]
    shapes = {"x": ("n", 3, 64, 64), "y": ("n", 6)}
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    graph = helper.make_graph(nodes, "drawn", [x], [y], [numpy_helper.from_array(kernel, "kernel")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)


def predicted(project: Project, *words: str) -> list[dict[str, Any]]:
    printed = project.run("python", "-m", "pipeline", "predict", PHOTOS, "--json", *words)
    content: list[dict[str, Any]] = json.loads(
        printed[printed.index("[") : printed.rindex("]") + 1]
    )
    return content


def test_an_onnx_file_beside_a_network_of_keras(tmp_path: Path) -> None:
    project = Project.copy_of_this(tmp_path / "project")
    write_onnx(project.folder / "drawn.onnx")
    section = {
        "weights": "file",
        "path": "drawn.onnx",
        "pooling": "flatten",
        "sha256": sha256(project.folder / "drawn.onnx"),
        "mean": [127.5] * 3,
        "std": [127.5] * 3,
    }
    project.change({"backbones.Drawn": section, "extract.engine": "openvino"})
    project.change({**FEW, "fine_tune": None})
    ran = project.repro()
    assert {"fetch_weights@Drawn", "extract@Drawn"} <= {*ran}
    assert {one.partition("@")[0] for one in STAGES} == {one.partition("@")[0] for one in ran}
    pages = json.loads(project.read("metrics/explain/explain.json"))
    images = [image for gallery in pages["galleries"] for image in gallery["images"]]
    assert {image["heatmap"] for image in images} == {None}
    assert {layer["backbone"] for layer in pages["activations"]["layers"]} == {"convnet"}
    assert pages["without_maps"] == ["Drawn"]
    report = project.read("metrics/report/index.html")
    assert re.search("There are no heatmaps, as .*Drawn.* has no feature maps", report)
    assert 'id="heatmaps"' not in report
    for words in (["predict", PHOTOS, "--engine", "keras"], ["export"]):
        printed = project.run("python", "-m", "pipeline", *words, passes=False)
        assert re.search(
            "error: (export|predict --engine keras): expected .* got an ONNX file for Drawn; use",
            printed,
        )


def test_a_network_that_openvino_cannot_run_is_one_sentence(tmp_path: Path) -> None:
    hub = pytest.importorskip("keras_hub")
    project = Project.copy_of_this(tmp_path / "project")
    made = hub.models.SwinTransformerBackbone(
        image_shape=(64, 64, 3),
        patch_size=4,
        window_size=4,
        embed_dim=8,
        depths=[1, 1],
        num_heads=[1, 2],
    )
    made.save_to_preset(str(project.folder / "swin"))
    converter = {"config": {"scale": 1 / 127.5, "offset": -1.0}}
    (project.folder / "swin" / "image_converter.json").write_text(json.dumps(converter))
    section = {"weights": "preset", "path": "swin", "pooling": "mean"}
    project.change({"backbones": {"Swin": section}, "extract.engine": "openvino"})
    project.change({"fine_tune": None})
    printed = project.run("python", "-m", "stages.fetch_weights", "Swin", passes=False)
    sentence = (
        "error: params.yaml: extract.engine: expected keras, as OpenVINO cannot run Swin, got"
    )
    assert sentence in printed
    assert "Traceback" not in printed
    assert not (project.folder / "data/networks/Swin").exists()


def test_a_preset_of_tokens_is_fine_tuned(tmp_path: Path) -> None:
    hub = pytest.importorskip("keras_hub")
    project = Project.copy_of_this(tmp_path / "project")
    made = hub.models.ViTBackbone(
        patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, image_shape=(64, 64, 3)
    )
    made.save_to_preset(str(project.folder / "vit"))
    converter = {"config": {"scale": 1 / 127.5, "offset": -1.0}}
    (project.folder / "vit" / "image_converter.json").write_text(json.dumps(converter))
    section = {"weights": "preset", "path": "vit", "pooling": "cls_and_mean"}
    project.change({"backbones": {"Vit": section | {"unfreeze_from": "vit_encoder"}}})
    tune = {"epochs": 1, "warmup_epochs": 0, "cache_frozen": True, "augment": None}
    project.change({f"fine_tune.{key}": value for key, value in tune.items()})
    project.change({**FEW, "fine_tune.steps_per_epoch": None})
    ran = project.repro()
    assert {"fetch_weights@Vit", "extract@Vit", "fine_tune", "report"} <= {*ran}
    assert re.search(r"(?m)^[0-9a-f]{64}  Vit-preset$", project.read("data/weights.sha256"))
    assert json.loads(project.read("metrics/fine_tune.json"))["epochs"] == 1
    by_keras, by_openvino = (predicted(project, "--engine", one) for one in ("keras", "openvino"))
    assert len(by_keras) == 100
    first, second = (
        np.array([[*one["probabilities"].values()] for one in some])
        for some in (by_keras, by_openvino)
    )
    np.testing.assert_allclose(first, second, atol=1e-3)
    (project.folder / "vit" / "image_converter.json").write_text('{"config": {}}')
    printed = project.run("python", "-m", "stages.fetch_weights", "Vit", passes=False)
    assert "error: fetch_weights Vit-preset: expected the weights recorded in data/" in printed
    project.change({"backbones.Vit.sha256": "0" * 64})
    printed = project.run("python", "-m", "stages.fetch_weights", "Vit", passes=False)
    assert "error: params.yaml: backbones.Vit.sha256: expected that of vit, " in printed
    project.change({"backbones.Vit.sha256": None})
    printed = project.run(
        *("python", "-m", "pipeline", "predict", PHOTOS, "--heatmap", "maps"), passes=False
    )
    assert "error: predict --heatmap: expected backbones with feature maps, got none of" in printed
    assert not (project.folder / "maps").exists()
