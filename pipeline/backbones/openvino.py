"""OpenVINO's CPU plugin in place of Keras: the same frozen extractor, computed faster.

Input: uint8 (n, size, size, 3), RGB, 0 to 255, with the n that the model was compiled for. Output:
float32 (n, d). A row has the same bytes in every run and whatever stands beside it, for one version
of OpenVINO and one kind of processor; another precision gives other values, and none are Keras' to
the last bit.

OpenVINO is an optional package, so only `compile` imports it.
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
from pipeline.runtime.machine import processors

# Caps by `ONEDNN_MAX_CPU_ISA` below AVX512_CORE_BF16. The plugin heeds them where it runs oneDNN
# and nowhere else: told to compute in bfloat16 it fails, crashes or imitates it slowly.
WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
ONE_CALL = threading.Lock()  # two first calls at once can lock up in OpenVINO's Python binding


def compile(
    model: keras.Model, batch_size: int, precision: str, threads: int | None
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Convert a model for OpenVINO, and compile it for this processor.

    Args:
        model: of one input, images (n, size, size, 3), and one output, (n, d) float32; with
            float32 weights, under Keras' TensorFlow or OpenVINO backend.
        batch_size: n.
        precision: that is computed in, "float32" or "bfloat16".
        threads: of one operation; None for all that this process may use.

    Returns:
        Function from images uint8 (batch_size, size, size, 3) to outputs float32 (batch_size, d);
        any thread may call it, one call is worked on at a time.

    Raises:
        UserError: OpenVINO is not installed, Keras has another backend, or the processor or
            `compute.instruction_set` has no bfloat16.
        ValueError: by the function, of images of another shape or type.
    """
    openvino = _imported()
    core = openvino.Core()
    if precision == "bfloat16":
        _require_bfloat16(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    expected = (batch_size, *model.input_shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.xml")
        signature = [keras.InputSpec("uint8", expected, name="images")]
        model.export(path, format="openvino", verbose=False, input_signature=signature)
        compiled = core.compile_model(
            path,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
                "INFERENCE_NUM_THREADS": str(threads or processors()),
                "NUM_STREAMS": "1",
                "ENABLE_CPU_PINNING": "NO",
            },
        )

    request = compiled.create_infer_request()

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if images.dtype != np.uint8 or images.shape != expected:  # OpenVINO would cast
            raise ValueError(f"expected uint8 {expected}, got {images.dtype} {images.shape}")
        with ONE_CALL:
            outputs: NDArray[np.float32] = request.infer([images])[0]  # both copied
        return outputs

    return run


def _imported() -> Any:
    """The package, and no reports to its makers."""
    if importlib.util.find_spec("openvino") is None:
        raise UserError(
            "params.yaml: extract.engine: expected a package that is installed, got 'openvino'; "
            "run `pip install 'stages[openvino]'`, or set extract.engine: keras"
        )
    if keras.config.backend() not in ("tensorflow", "openvino"):
        raise UserError(
            "params.yaml: compute.backend: expected tensorflow, as extract.engine is openvino, "
            f"got {keras.config.backend()!r}; change one of them"
        )
    keras_setup.silence_openvino()
    return importlib.import_module("openvino")


def _require_bfloat16(capabilities: list[str]) -> None:
    """Refuse what OpenVINO would silently compute in float32, or not at all."""
    if "BF16" not in capabilities:
        raise UserError(
            "params.yaml: extract.precision: expected float32, as this processor has no "
            "instructions for bfloat16, got 'bfloat16'; set extract.precision: float32"
        )
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if cap in WITHOUT_BFLOAT16:
        raise UserError(
            "params.yaml: compute.instruction_set: expected AVX512_CORE_BF16 or null, as "
            f"extract.precision is bfloat16, got {cap!r}; change one of them"
        )
