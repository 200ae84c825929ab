"""Training by gradient descent: one loop for dense heads and for fine-tuning.

Models give logits (n, n_classes); labels are int64 class indices. The weights kept are those of the
epoch with the lowest validation loss, epoch 0, before the first step, included.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from stages.errors import UserError
from stages.models import devices
from stages.models.head import Head, loss_and_accuracy
from stages.models.history import Epoch

Batch = tuple[NDArray[Any], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train: Keras' optimizer name, step size, most epochs, epochs to wait for a better."""

    optimizer: str
    learning_rate: float
    epochs: int
    patience: int


def dense_head(
    n_features: int, hidden: Sequence[int], dropout: float, n_classes: int
) -> keras.Model:
    """Features (n, n_features) to logits: dropout, relu layers of `hidden` units, one linear."""
    x = features = keras.Input((n_features,), name="features")
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    for number, units in enumerate(hidden):
        x = keras.layers.Dense(units, activation="relu", name=f"dense_{number}")(x)
    logits = keras.layers.Dense(n_classes, name="logits", dtype="float32")(x)
    return keras.Model(features, logits, name="head")


def head_arrays(model: keras.Model) -> Head:
    """The dense layers of a `dense_head` as arrays."""
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    pairs = [layer.get_weights() for layer in dense]
    return Head(tuple(kernel for kernel, _ in pairs), tuple(bias for _, bias in pairs))


def head_model(head: Head, dropout: float) -> keras.Model:
    """A `dense_head` with the weights of a trained head."""
    sizes = [len(bias) for bias in head.biases]
    model = dense_head(head.kernels[0].shape[0], sizes[:-1], dropout, sizes[-1])
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    for layer, kernel, bias in zip(dense, head.kernels, head.biases, strict=True):
        layer.set_weights([kernel, bias])
    return model


def stack(models: Sequence[keras.Model], shape: tuple[int, ...], name: str) -> keras.Model:
    """One model that runs the given ones after the other, on inputs (n, *shape)."""
    x = first = keras.Input(shape, name="images")
    for model in models:
        x = model(x)
    return keras.Model(first, x, name=name)


def fit(
    model: keras.Model,
    schedule: Schedule,
    draw: Callable[[], Iterable[Batch]],
    validate: Callable[[], Batch],
    start: Epoch | None,
    where: str,
    done: Callable[[int], object],
) -> list[Epoch]:
    """Train `model`, and leave it with the weights of its best epoch.

    Args:
        draw: gives the shuffled training batches of one epoch.
        validate: gives logits and labels of the validation rows under the current weights.
        start: the model before the first step, if it is a candidate.
        where: names the section of params.yaml in errors.
        done: told the number of images of every batch.

    Returns:
        All epochs that were run, `start` first.

    Raises:
        UserError: a loss that is not finite.
    """
    with devices.scope():
        model.compile(
            optimizer=keras.optimizers.get(
                {
                    "class_name": schedule.optimizer,
                    "config": {"learning_rate": schedule.learning_rate},
                }
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            jit_compile=False,
        )
    history = [start] if start else []
    best = start.val_loss if start else math.inf
    best_weights = model.get_weights() if start else None
    waited = 0
    for number in range(1, schedule.epochs + 1):
        sums = np.zeros(3)  # of loss, of accuracy, of rows
        for inputs, label in draw():
            logs = devices.train_on_batch(model, inputs, label)
            sums += np.array([logs["loss"], logs["accuracy"], 1.0]) * len(label)
            done(len(label))
        loss, accuracy = (float(value) for value in sums[:2] / sums[2])
        with np.errstate(invalid="ignore"):  # infinite logits; their loss is nan, told below
            val_loss, val_accuracy = loss_and_accuracy(*validate())
        if not (math.isfinite(loss) and math.isfinite(val_loss)):
            raise UserError(
                f"{where} epoch {number}: expected a finite loss, got {loss} on train and "
                f"{val_loss} on valid at learning rate {schedule.learning_rate}; lower "
                f"{where}.learning_rate"
            )
        history.append(Epoch(number, loss, accuracy, val_loss, val_accuracy))
        if val_loss < best:
            best, best_weights, waited = val_loss, model.get_weights(), 0
        else:
            waited += 1
            if waited == schedule.patience:
                break
    if best_weights is not None:
        model.set_weights(best_weights)
    return history
