"""Fix what changes the last bits: backend, threads, instructions, precision, batch size.

They are set from `params.yaml` before the first `import keras` of a process. Only `start` imports
Keras, not this module.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime import machine
from pipeline.runtime.errors import UserError

IN_FLIGHT = 3  # batches, so that a GPU has the next one when it ends one

T = TypeVar("T")
Wait = Callable[[], NDArray[Any]]

_started: tuple[str, int | None, str | None, str] | None = None


def start(
    backend: str, threads: int | None, instruction_set: str | None, precision: str = "float32"
) -> None:
    """Import Keras with these settings; they overrule the environment and `~/.keras/keras.json`.

    A second call with the same settings does nothing.

    Args:
        backend: "tensorflow" or "jax".
        threads: per operation; None for all that this process may use.
        instruction_set: highest that oneDNN may use, one of `machine.INSTRUCTION_SETS`; None for
            the best available.
        precision: "tf32" lets a GPU round the factors of float32 products to ten bits, as NVIDIA's
            do by default since Ampere; any other one forbids it.

    Raises:
        UserError: settings beyond this machine, or others than at the first call.
        RuntimeError: other code has imported Keras before.
    """
    global _started
    rounding = "tf32" if precision == "tf32" else "float32"
    settings = (backend, threads, instruction_set, rounding)
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
        "NVIDIA_TF32_OVERRIDE": "0",  # of cuBLAS and cuDNN
    }
    if rounding == "tf32":
        del os.environ["NVIDIA_TF32_OVERRIDE"]
    if backend == "jax":
        products = "tensorfloat32" if rounding == "tf32" else "highest"
        os.environ |= {
            "XLA_FLAGS": "--xla_gpu_deterministic_ops=true",
            "JAX_DEFAULT_MATMUL_PRECISION": products,
        }
        if threads is not None and hasattr(os, "sched_setaffinity"):  # JAX has no setting
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_unless_it_fails():
        keras = importlib.import_module("keras")
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)
    _started = settings


def in_flight(start: Callable[[T], Wait], batches: Iterable[T]) -> Iterator[NDArray[Any]]:
    """Yield the outputs of batches, in order, `IN_FLIGHT` of which are started at a time."""
    started = deque[Wait]()
    for batch in batches:
        started.append(start(batch))
        if len(started) == IN_FLIGHT:
            yield started.popleft()()
    for wait in started:
        yield wait()


def dtype(precision: str) -> str:
    """Return the dtype in which layers compute at a `precision` of params.yaml."""
    return "float32" if precision == "tf32" else precision


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


def padded(batch: NDArray[Any], size: int) -> NDArray[Any]:
    """Return a batch with rows of zeros up to `size`."""
    if len(batch) == size:
        return batch
    padding = np.zeros((size - len(batch), *batch.shape[1:]), dtype=batch.dtype)
    return np.concatenate([batch, padding])


def starter(model: Any, size: int) -> Callable[[NDArray[Any]], Wait]:
    """Return a function that starts a model in inference mode on a batch, and does not wait for it.

    It takes inputs (n, ...), at most `size`, pads them to that many, and returns a function that
    waits for their outputs, float32 (n, ...). Meanwhile the device computes, and the next batch can
    be started. The model's weights are those at the start of a batch.
    """
    if importlib.import_module("keras").config.backend() == "jax":
        jax = importlib.import_module("jax")
        stateless = jax.jit(lambda *arguments: model.stateless_call(*arguments, training=False)[0])

        def run(inputs: NDArray[Any]) -> Any:
            trained, others = model.trainable_variables, model.non_trainable_variables
            weights = [[one.value for one in variables] for variables in (trained, others)]
            return stateless(*weights, inputs)
    else:
        tensorflow = importlib.import_module("tensorflow")
        run = tensorflow.function(lambda inputs: model(inputs, training=False))

    def start(batch: NDArray[Any]) -> Wait:
        outputs = run(padded(batch, size))
        return lambda: np.asarray(outputs)[: len(batch)]

    return start


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
