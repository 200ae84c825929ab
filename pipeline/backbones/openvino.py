"""Run a Keras model by OpenVINO, an optional package, on the CPU.

A row has the same bytes in every run and in every batch, for one version of OpenVINO and one kind
of processor. They differ with the precision, and from Keras' in the last bits.
"""

import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.backbones import keras_setup
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import INSTRUCTION_SETS, processors

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def compile_model(
    model: keras.Model, batch_size: int, precision: str, threads: int | None
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Convert a model for OpenVINO, and compile it for this processor.

    Args:
        model: with float32 weights, from images (n, size, size, 3) to features (n, d) float32.
        precision: of the arithmetic, "float32" or "bfloat16".

    Returns:
        Function from images uint8 (batch_size, size, size, 3) to features float32 (batch_size, d);
        one thread may call it at a time.

    Raises:
        UserError: OpenVINO is not installed, Keras has another backend, or there is no bfloat16.
    """
    if importlib.util.find_spec("openvino") is None:
        raise UserError(
            "params.yaml: extract.engine: expected a package that is installed, got 'openvino'; "
            "run `pip install 'pipeline[openvino]'`, or set extract.engine: keras"
        )
    if keras.config.backend() not in ("tensorflow", "openvino"):  # the latter in `predict`
        raise UserError(
            "params.yaml: compute.backend: expected tensorflow, as extract.engine is openvino, "
            f"got {keras.config.backend()!r}; change one of them"
        )
    keras_setup.silence_openvino()
    core = importlib.import_module("openvino").Core()
    if precision == "bfloat16":
        _require_bfloat16(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.xml")
        images = keras.InputSpec("uint8", (batch_size, *model.input_shape[1:]), name="images")
        model.export(path, format="openvino", verbose=False, input_signature=[images])
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": str(threads or processors()),
            "NUM_STREAMS": "1",
            "ENABLE_CPU_PINNING": "NO",
        }
        request = core.compile_model(path, "CPU", options).create_infer_request()
    return lambda batch: request.infer([batch])[0]  # copies both ways


def _require_bfloat16(capabilities: list[str]) -> None:
    """Refuse what OpenVINO would silently compute in float32, or not at all.

    oneDNN emulates bfloat16 from AVX512_CORE on, but OpenVINO needs the instructions: below
    AVX512_CORE_BF16 it fails, crashes or emulates them slowly.
    """
    names = list(INSTRUCTION_SETS)  # the least first
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA")
    capped = cap in names[: names.index("AVX512_CORE_BF16")]
    if capped or "BF16" not in capabilities:
        raise UserError(
            "params.yaml: extract.precision: expected float32, as "
            f"{f'compute.instruction_set {cap}' if capped else 'this processor'} has no "
            "instructions for bfloat16, got 'bfloat16'; set extract.precision: float32"
        )
