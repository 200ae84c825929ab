"""How Keras is started: what the environment must say before it is imported.

The thread count and the instruction set change the last bits of a sum, so they come from
`params.yaml` and are fixed here, before the first `import keras` of a process. So only `start`
imports Keras, not this module.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator

from threadpoolctl import threadpool_limits

from pipeline.runtime import machine
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import processors

_started: tuple[str, int | None, str | None, int] | None = None


def start(backend: str, threads: int | None, instruction_set: str | None, devices: int = 1) -> None:
    """Fix all that changes a result for this process, and import Keras.

    What the user's environment or `~/.keras/keras.json` say of it is overruled.

    Args:
        backend: of Keras: "tensorflow", "jax" or "torch"; "openvino" can only predict.
        threads: of one operation; None for all that this process may use.
        instruction_set: highest that oneDNN may use, by its names (AVX2, AVX512_CORE, ...; see
            "CPU Dispatcher Control" in oneDNN's documentation); None for the best there is.
        devices: accelerators that share each batch; without any, the processor stands for them.

    A second call with the same settings does nothing.

    Raises:
        UserError: fewer processors than `threads`, an instruction set that the processor lacks, a
            backend that is not installed, or other settings than at the first call.
        RuntimeError: Keras was imported before, by others.
    """
    global _started
    settings = (backend, threads, instruction_set, devices)
    if _started is not None and _started != settings:
        raise UserError(
            f"compute: expected a process in which Keras runs with {settings}, got one in which it "
            f"was started with {_started}; restart it (a worker of a cluster, for other params)"
        )
    if _started is not None:
        return
    if "keras" in sys.modules:
        raise RuntimeError("engine.start() must be called before keras is imported")
    machine.require(instruction_set)
    available = processors()
    if threads is not None and threads > available:
        raise UserError(
            f"params.yaml: compute.threads: expected at most the {available} processors that this "
            f"machine gives, got {threads}; lower it (results then differ in their last bits)"
        )
    count = str(threads or available)
    if importlib.util.find_spec(backend) is None:
        raise UserError(
            f"params.yaml: compute.backend: expected a package that is installed, got {backend!r}; "
            "install it, or set compute.backend: tensorflow"
        )
    if devices > 1 and backend == "torch":
        raise UserError(
            f"params.yaml: compute.devices: expected 1 with compute.backend: torch, got {devices}; "
            "choose tensorflow or jax"
        )
    os.environ["KERAS_BACKEND"] = backend
    if devices > 1:  # heeded by JAX where it finds no accelerator
        virtual = f"--xla_force_host_platform_device_count={devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {virtual}".strip()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["TF_NUM_INTRAOP_THREADS"] = count
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    os.environ["OMP_NUM_THREADS"] = count
    os.environ["TF_DETERMINISTIC_OPS"] = "1"
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    os.environ.pop("ONEDNN_MAX_CPU_ISA", None)
    if instruction_set is not None:
        os.environ["ONEDNN_MAX_CPU_ISA"] = instruction_set
    if backend == "openvino":
        silence_openvino()
    with _quiet_unless_it_fails():
        keras = importlib.import_module("keras")
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)
    from pipeline.backbones.devices import use

    use(backend, devices)
    _started = settings


def silence_openvino() -> None:
    """No reports to OpenVINO's makers.

    `import openvino` alone sends one, and keeps a number of the user in ~/intel, by the package
    openvino-telemetry; without that one it is silent (openvino/tools/ovc/telemetry_utils.py).
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def limit_blas(threads: int | None) -> None:
    """Fix the threads of numpy's matrix products, which the environment no longer reaches."""
    threadpool_limits(threads or processors(), user_api="blas")


@contextlib.contextmanager
def _quiet_unless_it_fails() -> Iterator[None]:
    """Keep what libraries write to stderr as they load, and show it only if the block raises.

    TensorFlow greets with lines of its C++ log before its log level is in force.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
