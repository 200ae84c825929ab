"""Extract one feature vector per view of each image, shard by shard, by Keras or OpenVINO.

Reads pixels, uint8 (n, size, size, 3), and weights; writes features (n, views, d).

On OpenVINO's CPU plugin a row has the same bytes in every run and in every batch, for one version
of OpenVINO and one kind of processor. They differ with the precision, and from Keras' in the last
bits. OpenVINO is an optional package, so only `compile_model` imports it.
"""

import functools
import importlib
import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import keras_setup
from pipeline.runtime import atomic_files, parallel
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import INSTRUCTION_SETS, processors
from pipeline.schema import Params
from pipeline.storage import arrays, cache_key
from pipeline.storage.cached_shards import CachedShards

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
ONE_CALL = threading.Lock()  # two first calls at once can deadlock in OpenVINO's Python binding
_computing = threading.Lock()


class Extraction(CachedShards):
    """The work of stage `extract`; the row cache identifies an image by its pixels' sha256."""

    def __init__(self, backbone: str, out: Path, params: Params) -> None:
        self.backbone, self.params = backbone, params
        self.dtype = np.dtype(params.extract.dtype)
        self.pixels, self.weights = paths.RESIZED.resolve(), paths.weights(backbone).resolve()
        super().__init__(out)

    def cache_keys(self) -> list[str]:
        settings = config.settings(self.params)["extract"][self.backbone]
        views, augment = settings.pop("views"), settings.pop("augment")
        settings |= {
            "backbone": self.backbone,
            "weights": atomic_files.sha256(self.weights),
            "processors": processors() if self.params.compute.threads is None else None,
        }
        return [
            cache_key.of(
                "extract", {**settings, "view": view, "augment": augment if view > 1 else None}
            )
            for view in range(views)
        ]

    def compute(
        self, part: int, rows: NDArray[np.int64], done: parallel.Done
    ) -> Iterator[NDArray[Any]]:
        at = 0
        batches = self.images.batches(self.params.extract.batch_size, rows)
        for batch in parallel.timed(batches, done, "read"):
            digests = [self.keys[row] for row in rows[at : at + len(batch)]]
            at += len(batch)
            with _computing, done.timed("compute"):
                features = self._features(batch, digests, part)
            yield features

    @functools.cached_property
    def images(self) -> arrays.StoredArray:
        return arrays.StoredArray(self.pixels)

    @functools.cached_property
    def keys(self) -> list[bytes]:  # type: ignore[override]
        return [digest.tobytes() for digest in self.images.digests]

    @functools.cached_property
    def row_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.params.extract.views, self.width

    @functools.cached_property
    def width(self) -> int:
        """Number of features per view; the network is built only if no cached row tells."""
        if row_bytes := self.caches[0].row_bytes:
            return row_bytes // self.dtype.itemsize
        with _computing:
            return self._network[1]

    @functools.cached_property
    def _network(self) -> tuple[Callable[[NDArray[Any]], Any], int]:
        """A function from a batch of images to features, and the number of features."""
        params = self.params
        keras_setup.start(**params.compute.model_dump())
        from pipeline.backbones import devices, from_params

        by_openvino, precision = params.extract.engine == "openvino", params.extract.precision
        with devices.scope():
            model = from_params.extractor(
                params,
                self.backbone,
                self.images.shape[1],
                self.weights,
                fold_for="float32" if by_openvino else precision,
            )
        width = int(model.output_shape[-1])
        if by_openvino:
            threads, size = params.compute.threads, params.extract.batch_size
            return compile_model(model, size, precision, threads), width
        return functools.partial(devices.predict_on_batch, model), width

    def _features(self, images: NDArray[np.uint8], digests: list[bytes], view: int) -> NDArray[Any]:
        """Return the features of a view in the stored dtype; refuse values beyond its range."""
        function, _ = self._network
        from pipeline.backbones import devices, from_params

        seen = from_params.view(self.params, images, digests, view)
        features = devices.run_padded(function, seen, self.params.extract.batch_size)
        with np.errstate(over="ignore"):
            stored: NDArray[Any] = features.astype(self.dtype)
        if not np.isfinite(stored).all():
            raise UserError(
                f"extract: expected features that fit into {self.dtype}, got values up to "
                f"{np.abs(features).max():g}; set extract.dtype: float32, or check the weights"
            )
        return stored


def compile_model(
    model: Any, batch_size: int, precision: str, threads: int | None
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Convert a model for OpenVINO, and compile it for this processor.

    Args:
        model: of Keras' TensorFlow backend with float32 weights, from images (n, size, size, 3)
            to features (n, d) float32.
        precision: of the arithmetic, "float32" or "bfloat16".

    Returns:
        Function from images uint8 (batch_size, size, size, 3) to features float32 (batch_size, d).
        Threads may share it, but calls run one after the other. It raises `ValueError` for images
        of another shape or dtype.

    Raises:
        UserError: OpenVINO is not installed, Keras has another backend, or the processor or
            `compute.instruction_set` has no bfloat16.
    """
    core = _openvino().Core()
    import keras

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


def _openvino() -> Any:
    """Import the package without its telemetry."""
    if importlib.util.find_spec("openvino") is None:
        raise UserError(
            "params.yaml: extract.engine: expected a package that is installed, got 'openvino'; "
            "run `pip install 'pipeline[openvino]'`, or set extract.engine: keras"
        )
    import keras

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
