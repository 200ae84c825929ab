"""Fix what changes the last bits of a result: backend, threads, instruction set, batch size.

They are set from `params.yaml` before the first `import keras` of a process. Only `start` imports
Keras, not this module.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime import machine
from pipeline.runtime.errors import UserError

_started: tuple[str, int | None, str | None] | None = None


def start(backend: str, threads: int | None, instruction_set: str | None) -> None:
    """Import Keras with these settings; they overrule the environment and `~/.keras/keras.json`.

    A second call with the same settings does nothing.

    Args:
        backend: "tensorflow" or "jax".
        threads: per operation; None for all that this process may use.
        instruction_set: highest that oneDNN may use, one of `machine.INSTRUCTION_SETS`; None for
            the best available.

    Raises:
        UserError: settings beyond this machine, or others than at the first call.
        RuntimeError: other code has imported Keras before.
    """
    global _started
    settings = (backend, threads, instruction_set)
    if _started is not None:
        if _started == settings:
            return
        raise UserError(
            f"compute: expected a process in which Keras runs with {settings}, got one in which it "
            f"was started with {_started}; restart it (a worker of a cluster, for other params)"
        )
    if "keras" in sys.modules:
        raise RuntimeError("keras_setup.start() must be called before keras is imported")
    count = str(limit(threads, instruction_set))
    if importlib.util.find_spec(backend) is None:
        raise UserError(
            f"params.yaml: compute.backend: expected a package that is installed, got {backend!r}; "
            "install it, or set compute.backend: tensorflow"
        )
    os.environ |= {
        "KERAS_BACKEND": backend,
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": "1",
        "OMP_NUM_THREADS": count,
        "TF_DETERMINISTIC_OPS": "1",
        "TF_ENABLE_ONEDNN_OPTS": "1",
    }
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_unless_it_fails():
        keras = importlib.import_module("keras")
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)
    _started = settings


def limit(threads: int | None, instruction_set: str | None) -> int:
    """Set the highest instruction set of oneDNN; return the number of threads to use.

    Arguments and errors are those of `start`, which calls this.
    """
    machine.require(instruction_set)
    available = machine.processors()
    if threads is not None and threads > available:
        raise UserError(
            f"params.yaml: compute.threads: expected at most the {available} processors that this "
            f"process may use, got {threads}; lower it (results then differ in their last bits)"
        )
    os.environ.pop("ONEDNN_MAX_CPU_ISA", None)
    if instruction_set is not None:
        os.environ["ONEDNN_MAX_CPU_ISA"] = instruction_set  # read when a network is first compiled
    return threads or available


def run_padded(
    function: Callable[[NDArray[Any]], Any], batch: NDArray[Any], size: int
) -> NDArray[np.float32]:
    """Return the outputs of a batch padded with zeros to `size` rows, on which no row depends."""
    padding = np.zeros((size - len(batch), *batch.shape[1:]), dtype=batch.dtype)
    return np.asarray(function(np.concatenate([batch, padding])))[: len(batch)]


def silence_openvino() -> None:
    """Keep `import openvino` from sending telemetry, by a package of its own that is optional."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


@contextlib.contextmanager
def _quiet_unless_it_fails() -> Iterator[None]:
    """Show what TensorFlow logs before its log level takes effect only if the block raises."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except BaseException:
            captured.seek(0)
            os.write(stderr, captured.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
