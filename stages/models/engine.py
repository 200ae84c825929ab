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

from stages.errors import UserError
from stages.threads import processors


def start(backend: str, threads: int | None, instruction_set: str | None) -> None:
    """Fix all that changes a result for this process, and import Keras.

    What the user's environment or `~/.keras/keras.json` say of it is overruled.

    Args:
        backend: of Keras: "tensorflow", "jax" or "torch".
        threads: of one operation; None for all that this process may use.
        instruction_set: highest that oneDNN may use, by its names (AVX2, AVX512_CORE, ...; see
            "CPU Dispatcher Control" in oneDNN's documentation); None for the best there is.

    Raises:
        UserError: fewer processors than `threads`, or a backend that is not installed.
        RuntimeError: Keras was imported before.
    """
    if "keras" in sys.modules:
        raise RuntimeError("engine.start() must be called before keras is imported")
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
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["TF_NUM_INTRAOP_THREADS"] = count
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    os.environ["OMP_NUM_THREADS"] = count
    os.environ["TF_DETERMINISTIC_OPS"] = "1"
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    os.environ.pop("ONEDNN_MAX_CPU_ISA", None)
    if instruction_set is not None:
        os.environ["ONEDNN_MAX_CPU_ISA"] = instruction_set
    with _quiet_unless_it_fails():
        keras = importlib.import_module("keras")
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)


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
