"""A frozen network in OpenVINO's format, run on the CPU without Keras.

`openvino_files` writes it. A row has the same bytes in every run and in every batch, for one
version of OpenVINO and one kind of processor. They differ with the precision, and from Keras' in
the last bits.
"""

import contextlib
import importlib
import json
import os
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backbones import keras_setup
from pipeline.backbones.openvino_files import ABOUT, GRAPH, WEIGHTS
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError, of_the_machine
from pipeline.runtime.machine import INSTRUCTION_SETS

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
BATCH = {"float32": 1, "bfloat16": 2}  # images per request; the last bits may depend on it
MOST_REQUESTS = 8  # at a time: each has activations of its own
AT_ONCE = 64  # images that callers pass, so that all requests are busy


class Network:
    """A network in a folder: from images uint8 (n, size, size, 3) to features float32 (n, d)."""

    def __init__(self, folder: Path) -> None:
        """Read what `openvino_files` wrote: `features` (d), and a sha256 of it, `digest`."""
        self._folder, self._lock = folder, threading.Lock()
        atomic_files.require(folder, f"fetch_weights@{folder.name}")
        with self._refusing():
            text = (folder / ABOUT).read_text(encoding="utf-8")
            about = json.loads(text)
            self.features, self._sha256 = int(about["features"]), dict(about["sha256"])
        self.digest = atomic_files.sha256(folder / ABOUT)

    def compile(self, precision: str, threads: int | None, instruction_set: str | None) -> None:
        """Compile for this processor; `precision` of the arithmetic is "float32" or "bfloat16".

        Raise a `UserError` for a damaged file, or a processor without bfloat16.
        """
        with self._refusing():
            for name in (GRAPH, WEIGHTS):
                if atomic_files.sha256(self._folder / name) != self._sha256[name]:
                    raise ValueError(f"another {name}")
        count = keras_setup.limit(threads, instruction_set)
        requests = min(count, MOST_REQUESTS)
        keras_setup.silence_openvino()
        core = importlib.import_module("openvino").Core()
        if precision == "bfloat16":
            _require_bfloat16(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        network = core.read_model(self._folder / GRAPH)
        network.reshape([BATCH[precision], *[*network.inputs[0].partial_shape][1:]])
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": str(count),
            "NUM_STREAMS": str(requests),
            "ENABLE_CPU_PINNING": "NO",
        }
        self._batch_size = BATCH[precision]
        compiled = core.compile_model(network, "CPU", options)
        self._requests = [compiled.create_infer_request() for _ in range(requests)]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute features, with several requests at a time; threads take turns.

        One thread starts all requests, as two threads of Python that start requests of one network
        can block each other for ever (OpenVINO 2026.4).
        """
        size = self._batch_size
        features = np.empty((len(images), self.features), np.float32)
        running: deque[tuple[Any, slice]] = deque()

        def finish() -> Any:
            request, rows = running.popleft()
            request.wait()
            computed = request.get_output_tensor(0).data
            features[rows] = computed[: len(features[rows])]
            return request

        with self._lock:
            free = list(self._requests)
            for start in range(0, len(images), size):
                request = free.pop() if free else finish()
                batch = images[start : start + size]
                tensor = request.get_input_tensor().data
                tensor[: len(batch)], tensor[len(batch) :] = batch, 0
                request.start_async()
                running.append((request, slice(start, start + size)))
            while running:
                finish()
        return features

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError) as error:
            if of_the_machine(error, self._folder):
                raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UserError(
                f"{self._folder}: expected a converted network, as it was written, got {reason!r}; "
                f"remove {self._folder} and run the same command again"
            ) from None


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
