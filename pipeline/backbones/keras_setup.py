"""Start Keras with a fixed backend, thread count, instruction set and number of devices.

Threads and instruction set change the last bits of a sum, so they are set from `params.yaml`
before the first `import keras` of a process. Only `start` imports Keras, not this module.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator

from pipeline.runtime import machine
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import processors

_started: tuple[str, int | None, str | None, int] | None = None


def start(backend: str, threads: int | None, instruction_set: str | None, devices: int = 1) -> None:
    """Fix everything that changes a result in this process, and import Keras.

    These settings overrule the user's environment and `~/.keras/keras.json`. A second call with the
    same settings does nothing.

    Args:
        backend: of Keras, "tensorflow" or "jax"; "openvino" can only predict.
        threads: per operation; None for all that this process may use.
        instruction_set: highest that oneDNN may use, by its names (AVX2, AVX512_CORE, ...; see
            "CPU Dispatcher Control" in oneDNN's documentation); None for the best available.
        devices: accelerators that share each batch; virtual ones on the CPU if there are none.

    Raises:
        UserError: fewer processors than `threads`, an instruction set that the processor lacks, a
            backend that is not installed, or other settings than at the first call.
        RuntimeError: other code has imported Keras before.
    """
    global _started
    settings = (backend, threads, instruction_set, devices)
    if _started is not None:
        if _started == settings:
            return
        raise UserError(
            f"compute: expected a process in which Keras runs with {settings}, got one in which it "
            f"was started with {_started}; restart it (a worker of a cluster, for other params)"
        )
    if "keras" in sys.modules:
        raise RuntimeError("keras_setup.start() must be called before keras is imported")
    machine.require(instruction_set)
    available = processors()
    if threads is not None and threads > available:
        raise UserError(
            f"params.yaml: compute.threads: expected at most the {available} processors that this "
            f"process may use, got {threads}; lower it (results then differ in their last bits)"
        )
    if importlib.util.find_spec(backend) is None:
        raise UserError(
            f"params.yaml: compute.backend: expected a package that is installed, got {backend!r}; "
            "install it, or set compute.backend: tensorflow"
        )
    count = str(threads or available)
    os.environ |= {
        "KERAS_BACKEND": backend,
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": "1",
        "OMP_NUM_THREADS": count,
        "TF_DETERMINISTIC_OPS": "1",
        "TF_ENABLE_ONEDNN_OPTS": "1",
    }
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.pop("ONEDNN_MAX_CPU_ISA", None)
    if instruction_set is not None:
        os.environ["ONEDNN_MAX_CPU_ISA"] = instruction_set
    if devices > 1:  # JAX reads this if it finds no accelerator
        virtual = f"--xla_force_host_platform_device_count={devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {virtual}".strip()
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
    """Keep `import openvino` from sending telemetry and leaving a user id in ~/intel.

    Its package openvino-telemetry is optional (openvino/tools/ovc/telemetry_utils.py).
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


@contextlib.contextmanager
def _quiet_unless_it_fails() -> Iterator[None]:
    """Capture what libraries write to stderr as they load; show it only if the block raises.

    TensorFlow's C++ code logs some lines before its log level takes effect.
    """
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
