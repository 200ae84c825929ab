"""ONNX files of any framework become networks with the features that their graphs define."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipeline.backbones import onnx_file, openvino
from pipeline.runtime.errors import UserError
from pipeline.schema import OnnxFile

SIZE = 8
MEAN, STD = [10.0, 20.0, 30.0], [2.0, 4.0, 8.0]
KERNEL = np.random.default_rng(0).standard_normal((5, 3), np.float32)
FLOAT, HALF, INT = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
NCHW, NHWC = ("n", 3, SIZE, SIZE), ("n", SIZE, SIZE, 3)


def images(size: int = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (5, size, size, 3), np.uint8)


def prepared() -> NDArray[np.float64]:
    values: NDArray[np.float64] = (images() - np.array(MEAN)) / np.array(STD)
    return values


def constant(name: str, values: Any, kind: Any = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, kind), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto] = (),
    inputs: Mapping[str, tuple[int, Any]] | None = None,
    outputs: Mapping[str, tuple[int, Any]] | None = None,
) -> bytes:
    described = [
        [helper.make_tensor_value_info(name, *one) for name, one in some.items()]
        for some in (inputs or {"x": (FLOAT, NCHW)}, outputs or {"y": (FLOAT, None)})
    ]
    graph = helper.make_graph(nodes, "drawn", described[0], described[1], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    return bytes(made.SerializeToString())


def convolution(kind: Any = np.float32, batch: Any = "n") -> bytes:
    """A 1 x 1 convolution: maps (n, 5, 8, 8)."""
    kernel = constant("w", KERNEL[:, :, None, None], kind)
    number = HALF if kind == np.float16 else FLOAT
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    return model(
        [node], [kernel], {"x": (number, (batch, *NCHW[1:]))}, {"y": (number, (batch, 5, 8, 8))}
    )


def tokens() -> bytes:
    """The pixels, row by row: (n, 64, 3)."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["y"], perm=[0, 2, 1]),
    ]
    return model(nodes, [constant("shape", [0, 3, -1])], outputs={"y": (FLOAT, ("n", 64, 3))})


def vector(layout: tuple[Any, ...] = NCHW, axes: Sequence[int] = (2, 3)) -> bytes:
    """The mean color: (n, 3)."""
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
    inputs = {"x": (FLOAT, layout)}
    return model([node], [constant("axes", list(axes))], inputs, {"y": (FLOAT, ("n", 3))})


def wanted(pooling: str, **others: Any) -> OnnxFile:
    settings = {"weights": "file", "path": "x.onnx", "sha256": "0" * 64, "mean": MEAN, "std": STD}
    return OnnxFile.model_validate({**settings, "pooling": pooling, **others})


def features(
    folder: Path, content: bytes, pooling: str, pixels: int = SIZE, **others: Any
) -> NDArray[np.float32]:
    onnx_file.convert("Net", wanted(pooling, **others), content, pixels, folder / "network")
    network = openvino.Network(folder / "network")
    network.compile("float32", 1, None)
    return network(images(pixels))


def maps() -> NDArray[np.float64]:
    """What `convolution` gives: (5 images, 8, 8, 5 channels)."""
    return prepared() @ KERNEL.T


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("avg", lambda: maps().mean(axis=(1, 2))),
        ("max", lambda: maps().max(axis=(1, 2))),
        ("flatten", lambda: maps().transpose(0, 3, 1, 2).reshape(5, -1)),
    ],
)
def test_maps_are_pooled(pooling: str, expected: Any, tmp_path: Path) -> None:
    found = features(tmp_path, convolution(), pooling)
    assert_allclose(found, expected(), rtol=1e-4, atol=1e-4)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("cls", lambda rows: rows[:, 0]),
        ("mean", lambda rows: rows[:, 1:].mean(axis=1)),
        ("cls_and_mean", lambda rows: np.hstack([rows[:, 0], rows[:, 1:].mean(axis=1)])),
    ],
)
def test_of_tokens_the_first_is_the_class_token(
    pooling: str, expected: Any, tmp_path: Path
) -> None:
    found = features(tmp_path, tokens(), pooling)
    assert_allclose(found, expected(prepared().reshape(5, -1, 3)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "others"),
    [
        (vector(), {}),
        (vector(NHWC, (1, 2)), {}),
        (vector(("n", "c", "h", "w")), {"layout": "NCHW"}),
        (vector((1, 3, SIZE, SIZE)), {}),  # a fixed number of images
        (vector(("n", 3, "h", "w")), {"size": SIZE}),
    ],
    ids=["NCHW", "NHWC", "dynamic axes", "one image", "dynamic size"],
)
def test_layouts_and_dynamic_axes(content: bytes, others: dict[str, Any], tmp_path: Path) -> None:
    found = features(tmp_path, content, "flatten", **others)
    assert_allclose(found, prepared().mean(axis=(1, 2)), rtol=1e-5, atol=1e-5)


def test_a_network_in_float16_gives_float32(tmp_path: Path) -> None:
    found = features(tmp_path, convolution(np.float16), "avg")
    assert_allclose(found, maps().mean(axis=(1, 2)), rtol=0.01, atol=0.05)
    assert found.dtype == np.float32


def test_images_are_resized_to_what_the_network_takes(tmp_path: Path) -> None:
    """The mean color of a smooth image is that of the smaller one, but for its border."""
    found = features(tmp_path, vector(), "flatten", pixels=2 * SIZE)
    expected = ((images(2 * SIZE) - np.array(MEAN)) / np.array(STD)).mean(axis=(1, 2))
    assert_allclose(found, expected, rtol=0.15)


def test_one_of_several_outputs_is_taken(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["maps"]),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
    ]
    outputs = {"maps": (FLOAT, NCHW), "mean": (FLOAT, ("n", 3))}
    content = model(nodes, [constant("axes", [2, 3])], outputs=outputs)
    found = features(tmp_path, content, "flatten", output="mean")
    assert_allclose(found, prepared().mean(axis=(1, 2)), rtol=1e-5, atol=1e-5)
    with pytest.raises(
        UserError, match="output: expected the name of one of the outputs maps, mea"
    ):
        features(tmp_path / "other", content, "flatten")


def test_the_files_are_the_same_on_every_run(tmp_path: Path) -> None:
    for name in ("one", "two"):
        onnx_file.convert("Net", wanted("avg"), convolution(), SIZE, tmp_path / name)
    for name in ("network.xml", "network.bin", "network.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def outside() -> bytes:
    """A convolution whose kernel lies in another file."""
    made = onnx.load_from_string(convolution())
    (kernel,) = made.graph.initializer
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    kernel.external_data.add(key="location", value="kernel.bin")
    return bytes(made.SerializeToString())


def three_inputs() -> bytes:
    nodes = [
        helper.make_node("Add", ["x", "y"], ["two"]),
        helper.make_node("Add", ["two", "z"], ["all"]),
    ]
    outputs = {"all": (FLOAT, NCHW)}
    return model(nodes, (), dict.fromkeys("xyz", (FLOAT, NCHW)), outputs)


def text() -> bytes:
    ids = (INT, ("n", 7))
    return model([helper.make_node("Identity", ["ids"], ["y"])], (), {"ids": ids}, {"y": ids})


def positioned() -> bytes:
    """Any size is declared; the constant that is added has one."""
    node = helper.make_node("Add", ["x", "place"], ["y"])
    place = constant("place", np.zeros((1, 3, SIZE, SIZE)), np.float32)
    return model([node], [place], {"x": (FLOAT, ("n", 3, "h", "w"))}, {"y": (FLOAT, None)})


def with_ids() -> bytes:
    node = helper.make_node("ArgMax", ["x"], ["y"], axis=1)
    return model([node], outputs={"y": (INT, ("n", 1, SIZE, SIZE))})


def unknown() -> bytes:
    return model([helper.make_node("Surprise", ["x"], ["y"], domain="elsewhere")])


BAD = {
    "no ONNX": (
        b"GIF89a",
        "avg",
        {},
        r"path: expected an ONNX file that OpenVINO [\d.]+ reads, wit",
    ),
    "nothing": (b"", "avg", {}, "path: expected an ONNX file that OpenVINO"),
    "weights elsewhere": (
        outside(),
        "avg",
        {},
        "path: expected an ONNX file that .*, with its wei",
    ),
    "an unknown operation": (unknown(), "avg", {}, "path: expected an ONNX file .*Surprise"),
    "three inputs": (
        *(three_inputs(), "avg", {}),
        "path: expected a network with one input, .*, got x f32 .*, y f32 .*, z f32",
    ),
    "a text network": (
        *(text(), "avg", {}),
        "path: expected a network with one input, images .* got ids i64",
    ),
    "ids for features": (with_ids(), "avg", {}, "output: expected features, real numbers"),
    "an unknown output": (
        vector(),
        "flatten",
        {"output": "z"},
        "output: expected one of the output",
    ),
    "tokens, flattened": (tokens(), "flatten", {}, "pooling: expected cls or mean or cls_and_mean"),
    "maps without tokens": (convolution(), "cls", {}, "pooling: expected avg or max or flatten"),
    "a vector, averaged": (vector(), "avg", {}, "pooling: expected flatten, as the output has the"),
    "axes that do not tell": (
        *(vector(("n", "c", "h", "w")), "flatten", {}),
        "layout: expected NCHW or NHWC, as the shape of the input does not tell",
    ),
    "another layout": (vector(), "flatten", {"layout": "NHWC"}, "layout: expected the layout of x"),
    "a size of which the graph knows nothing": (
        *(positioned(), "avg", {"size": 16}),
        "path: expected a graph for any number of images of 16 pixels, got ",
    ),
    "another size": (
        vector(),
        "flatten",
        {"size": 16},
        "size: expected the height and width of x f",
    ),
}


@pytest.mark.parametrize(("content", "pooling", "others", "sentence"), BAD.values(), ids=BAD)
def test_a_file_that_does_not_fit_is_one_sentence(
    content: bytes, pooling: str, others: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        onnx_file.convert("Net", wanted(pooling, **others), content, SIZE, tmp_path / "network")
    assert str(refused.value).startswith("params.yaml: backbones.Net.")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "network").exists()
