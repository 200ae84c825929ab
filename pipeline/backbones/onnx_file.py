"""Convert an ONNX file to the network that `openvino.Network` reads, without Keras.

Images come in as uint8 (n, pixels, pixels, 3); resizing, mean and standard deviation before the
graph, and pooling behind it, are added. The file is read from memory, so that OpenVINO finds no
data outside of it, which its sha256 would not cover.
"""

import contextlib
import importlib
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from pipeline.backbones import keras_setup, openvino_files
from pipeline.runtime.errors import UserError
from pipeline.schema import OnnxFile

CHANNELS = 3
AXES = {"NCHW": (2, 3), "NHWC": (1, 2)}  # of height and width
POOLINGS = {  # by the rank of the output: vectors, tokens with a class token first, maps
    2: ("flatten",),
    3: ("cls", "mean", "cls_and_mean"),
    4: ("avg", "max", "flatten"),
}
MOST_SHOWN = 160  # characters of OpenVINO's message


def convert(name: str, wanted: OnnxFile, content: bytes, pixels: int, folder: Path) -> None:
    """Write the network of an ONNX file's `content` into `folder`, which is created.

    Args:
        name: of the backbone, for errors.
        pixels: height and width of the images.

    Raises:
        UserError: no ONNX file, or one whose inputs or outputs do not fit; an operation that
            OpenVINO does not have.
    """
    keras_setup.silence_openvino()
    library = importlib.import_module("openvino")
    key = f"params.yaml: backbones.{name}"
    try:
        with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
            graph = library.Core().read_model(content)
    except RuntimeError as error:
        raise UserError(
            f"{key}.path: expected an ONNX file that OpenVINO {library.__version__.split('-')[0]} "
            f"reads, with its weights inside, got {_reason(error)!r}; export it again as one file, "
            "in a lower opset"
        ) from None
    layout, size = _input(graph, wanted, key, pixels)
    output = _output(graph, wanted.output, key)
    features = _pooled(output, wanted.pooling, layout, f"{key}.pooling")
    graph = library.Model([features], graph.get_parameters())
    try:
        graph = _preprocessed(graph, wanted, layout, pixels, size)
        openvino_files.for_any_number(graph, pixels)
    except RuntimeError as error:
        raise UserError(
            f"{key}.path: expected a graph for any number of images of {size} pixels, got "
            f"{_reason(error)!r}; correct size, or export it with a dynamic batch axis"
        ) from None
    shape = graph.outputs[0].partial_shape
    if len(shape) != 2 or shape[1].is_dynamic:
        raise UserError(
            f"{key}: expected features (n, d), got {shape} for images of {size} pixels; correct "
            "size or output"
        )
    folder.mkdir(parents=True)
    openvino_files.write(graph, folder)


def _input(graph: Any, wanted: OnnxFile, key: str, pixels: int) -> tuple[str, int]:
    """Return the layout of the input, and its height and width."""
    found = ", ".join(map(_described, graph.inputs))
    shape = [*graph.inputs[0].partial_shape] if len(graph.inputs) == 1 else []
    if len(shape) != 4 or not graph.inputs[0].element_type.is_real():
        raise UserError(
            f"{key}.path: expected a network with one input, images (n, 3, height, width) or (n, "
            f"height, width, 3) of real numbers, got {found or 'no input'}; export the part that "
            "takes images"
        )
    layouts = {"NCHW": shape[1], "NHWC": shape[3]}
    possible = [one for one, axis in layouts.items() if axis == CHANNELS]
    if wanted.layout is None and len(possible) != 1:
        raise UserError(
            f"{key}.layout: expected NCHW or NHWC, as the shape of the input does not tell, got "
            f"null for {found}; name one"
        )
    layout = wanted.layout or possible[0]
    if not _may_be(layouts[layout], CHANNELS):
        raise UserError(f"{key}.layout: expected the layout of {found}, got {layout!r}; change it")
    height, width = (shape[axis] for axis in AXES[layout])
    own = None if height.is_dynamic else height.get_length()
    size = wanted.size or own or pixels
    if not (_may_be(height, size) and _may_be(width, size)):
        raise UserError(
            f"{key}.size: expected the height and width of {found}, got {size}; correct it, or "
            "export the network for that size"
        )
    return layout, size


def _output(graph: Any, name: str | None, key: str) -> Any:
    """Return the node output to take features from."""
    names = [_name(one) for one in graph.outputs]
    if name is None and len(names) > 1:
        raise UserError(
            f"{key}.output: expected the name of one of the outputs {', '.join(names)}, got null; "
            "name one"
        )
    if name is not None and name not in names:
        raise UserError(
            f"{key}.output: expected one of the outputs {', '.join(names)}, got {name!r}; change it"
        )
    result = graph.outputs[names.index(name) if name else 0]
    if not result.element_type.is_real() or result.partial_shape.rank.is_dynamic:
        raise UserError(
            f"{key}.output: expected features, real numbers of known rank, got "
            f"{_described(result)}; name another output"
        )
    return result.node.input_value(0)


def _pooled(output: Any, pooling: str, layout: str, key: str) -> Any:
    """Return features (n, d), float32, of an output."""
    ops = importlib.import_module("openvino.opset15")
    shape = output.get_partial_shape()
    possible = POOLINGS.get(shape.rank.get_length(), ())
    if pooling not in possible:
        raise UserError(
            f"{key}: expected {' or '.join(possible) or 'an output of rank 2, 3 or 4'}, as the "
            f"output has the shape {shape}, got {pooling!r}; change it"
        )
    x = ops.convert(output, "f32")
    if pooling in ("avg", "max"):
        reduce = ops.reduce_mean if pooling == "avg" else ops.reduce_max
        return reduce(x, list(AXES[layout]), keep_dims=False).output(0)
    if pooling == "flatten":
        return ops.reshape(x, [0, -1], special_zero=True).output(0)
    first = ops.gather(x, 0, 1)
    others = ops.slice(x, [1], [2**31 - 1], [1], [1])
    mean = ops.reduce_mean(others, [1], keep_dims=False)
    parts = {"cls": [first], "mean": [mean], "cls_and_mean": [first, mean]}[pooling]
    return ops.concat(parts, axis=1).output(0)


def _preprocessed(graph: Any, wanted: OnnxFile, layout: str, pixels: int, size: int) -> Any:
    """Prepend resizing, normalization and the conversion of the layout to a graph."""
    library = importlib.import_module("openvino")
    preprocess = importlib.import_module("openvino.preprocess")
    dimensions = {"N": -1, "C": CHANNELS, "H": size, "W": size}
    graph.reshape([dimensions[axis] for axis in layout])
    steps = preprocess.PrePostProcessor(graph)
    images = steps.input()
    images.tensor().set_element_type(library.Type.u8).set_layout(library.Layout("NHWC"))
    images.tensor().set_shape([-1, pixels, pixels, CHANNELS])
    images.model().set_layout(library.Layout(layout))
    process = images.preprocess().convert_element_type(library.Type.f32)
    if size != pixels:
        process.resize(preprocess.ResizeAlgorithm.RESIZE_BICUBIC_PILLOW)
    process.mean(list(map(float, wanted.mean))).scale(list(map(float, wanted.std)))
    return steps.build()


def _may_be(dimension: Any, size: int) -> bool:
    return bool(dimension.is_dynamic or dimension.get_length() == size)


def _described(port: Any) -> str:
    return f"{_name(port)} {port.element_type.to_string()} {port.partial_shape}"


def _name(port: Any) -> str:
    return min(port.get_names(), key=len, default="")


def _reason(error: Exception) -> str:
    """Return the last sentences of OpenVINO's message, which begins with lines of its source."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception", "Check", "To facilitate"))]
    return textwrap.shorten(" ".join(told[-2:] or lines), MOST_SHOWN, placeholder="...")
