"""Run a frozen extractor on OpenVINO's CPU plugin, faster than Keras.

Input: uint8 (n, size, size, 3), RGB, 0 to 255, with the n that the model was compiled for. Output:
float32 (n, d). A row has the same bytes in every run and in every batch, for one version of
OpenVINO and one kind of processor. They differ with the precision, and from Keras' in the last
bits.

OpenVINO is an optional package, so only `compile_model` imports it.
"""

import importlib
import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.backbones import keras_setup
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import INSTRUCTION_SETS, processors

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
ONE_CALL = threading.Lock()  # two first calls at once can deadlock in OpenVINO's Python binding


def compile_model(
    model: keras.Model, batch_size: int, precision: str, threads: int | None
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Convert a model for OpenVINO, and compile it for this processor.

    Args:
        model: from images (n, size, size, 3) to features (n, d) float32; with float32 weights,
            under Keras' TensorFlow backend.
        batch_size: n.
        precision: of the arithmetic, "float32" or "bfloat16".
        threads: per operation; None for all that this process may use.

    Returns:
        Function from images uint8 (batch_size, size, size, 3) to features float32 (batch_size, d).
        Threads may share it, but calls run one after the other. It raises `ValueError` for images
        of another shape or dtype.

    Raises:
        UserError: OpenVINO is not installed, Keras has another backend, or the processor or
            `compute.instruction_set` has no bfloat16.
    """
    core = _imported().Core()
    if precision == "bfloat16":
        _require_bfloat16(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    expected = (batch_size, *model.input_shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.xml")
        signature = [keras.InputSpec("uint8", expected, name="images")]
        model.export(path, format="openvino", verbose=False, input_signature=signature)
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": str(threads or processors()),
            "NUM_STREAMS": "1",
            "ENABLE_CPU_PINNING": "NO",
        }
        request = core.compile_model(path, "CPU", options).create_infer_request()

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if images.dtype != np.uint8 or images.shape != expected:  # OpenVINO would cast
            raise ValueError(f"expected uint8 {expected}, got {images.dtype} {images.shape}")
        with ONE_CALL:
            outputs: NDArray[np.float32] = request.infer([images])[0]  # copies both ways
        return outputs

    return run


def _imported() -> Any:
    """Import the package without its telemetry."""
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
    return importlib.import_module("openvino")


def _require_bfloat16(capabilities: list[str]) -> None:
    """Refuse what OpenVINO would silently compute in float32, or not at all.

    oneDNN emulates bfloat16 from AVX512_CORE on, but OpenVINO needs the instructions: below
    AVX512_CORE_BF16 it fails, crashes or emulates them slowly.
    """
    if "BF16" not in capabilities:
        raise UserError(
            "params.yaml: extract.precision: expected float32, as this processor has no "
            "instructions for bfloat16, got 'bfloat16'; set extract.precision: float32"
        )
    names = list(INSTRUCTION_SETS)  # the least first
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if cap in names[: names.index("AVX512_CORE_BF16")]:
        raise UserError(
            "params.yaml: compute.instruction_set: expected AVX512_CORE_BF16 or null, as "
            f"extract.precision is bfloat16, got {cap!r}; change one of them"
        )
