"""Run batches of one size, on several accelerators that each take a part of every batch.

Data parallelism is the backend's: `keras.distribution` on JAX, `tf.distribute` on TensorFlow.
Without accelerators the processor provides as many virtual devices: slower, but the same code. With
one device nothing here has any effect.
"""

import contextlib
import importlib
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.errors import UserError

_count = 1
_strategy: Any = None  # TensorFlow's, with several devices
_built: weakref.WeakSet[Any] = weakref.WeakSet()  # models that have processed a batch


def use(backend: str, count: int) -> None:
    """Set the number of devices; once, after the backend was imported.

    Raises:
        UserError: the machine has accelerators, but fewer.
    """
    global _count, _strategy
    _count = count
    if count == 1:
        return
    if backend == "jax":
        devices = keras.distribution.list_devices()
        _require(count, len(devices))
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=devices[:count])
        )
        return
    tf = importlib.import_module("tensorflow")
    kind = "GPU"
    if accelerators := tf.config.list_physical_devices(kind):
        _require(count, len(accelerators))
    else:
        kind = "CPU"
        virtual = [tf.config.LogicalDeviceConfiguration()] * count
        processor = tf.config.list_physical_devices(kind)[0]
        tf.config.set_logical_device_configuration(processor, virtual)
    devices = tf.config.list_logical_devices(kind)[:count]
    _strategy = tf.distribute.MirroredStrategy([device.name for device in devices])


def scope() -> contextlib.AbstractContextManager[Any]:
    """Return a context; models built and compiled in it compute on all devices."""
    return contextlib.nullcontext() if _strategy is None else _strategy.scope()


def predict_on_batch(model: keras.Model, batch: NDArray[Any]) -> NDArray[np.float32]:
    """Return the outputs of a batch, each device computing its part."""
    parts = _parts(batch)
    if _count > 1 and _strategy is None:  # JAX; its `train_on_batch` does this by itself
        tensor = keras.ops.convert_to_tensor(parts)
        layout = keras.distribution.distribution().get_data_layout(tensor.shape)
        parts = keras.distribution.distribute_tensor(tensor, layout)
    return np.asarray(model.predict_on_batch(parts))[: len(batch)]


def run_padded(
    function: Callable[[NDArray[Any]], Any], batch: NDArray[Any], size: int
) -> NDArray[np.float32]:
    """Return the outputs of a batch of at most `size` rows, padded to `size` with zeros.

    Thus no row depends on how many others are in its batch.
    """
    rows = len(batch)
    if rows < size:
        padding = np.zeros((size - rows, *batch.shape[1:]), dtype=batch.dtype)
        batch = np.concatenate([batch, padding])
    return np.asarray(function(batch))[:rows]


def train_on_batch(
    model: keras.Model,
    inputs: NDArray[Any],
    label: NDArray[np.int64],
    example_weight: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Train one step on a batch, each device computing its part; return loss and metrics by name.

    Rows that fill the batch up to a multiple of the devices get weight 0, so the model must compile
    its metrics as `weighted_metrics`.

    Args:
        example_weight: of each row in loss and metrics, (n,); None for 1.
    """
    if _count == 1:
        return dict(
            model.train_on_batch(inputs, label, sample_weight=example_weight, return_dict=True)
        )
    if _strategy is not None and model not in _built:
        model.test_on_batch(inputs, label)  # since Keras cannot build metrics from parts
        _built.add(model)
    filled = len(label) + -len(label) % _count
    weight = np.zeros(filled, np.float32)
    weight[: len(label)] = 1 if example_weight is None else example_weight
    weight *= filled / len(label)  # the loss is the mean over all `filled` rows
    step = model.train_on_batch(
        _parts(inputs), _parts(label), sample_weight=_parts(weight), return_dict=True
    )
    return dict(step)


def _parts(batch: NDArray[Any]) -> Any:
    """Fill a batch up to a multiple of the devices; on TensorFlow split it, a part for each."""
    if _count == 1:
        return batch
    filled = range(len(batch) + -len(batch) % _count)
    batch = np.take(batch, filled, axis=0, mode="wrap")
    if _strategy is None:
        return batch
    tf = importlib.import_module("tensorflow")
    parts = np.split(batch, _count)
    return _strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )


def _require(count: int, available: int) -> None:
    if available < count:
        raise UserError(
            f"params.yaml: compute.devices: expected at most the {available} accelerators of this "
            f"machine, got {count}; lower it"
        )
