"""Training by gradient descent: one loop for dense heads and for fine-tuning.

Models return logits (n, n_classes); labels are int64 class indices. The weights of the epoch with
the lowest validation loss are kept, including epoch 0, before the first step.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.errors import UserError
from pipeline.training.head import Head, loss_and_accuracy
from pipeline.training.history import Epoch, best_epoch

Batch = tuple[NDArray[Any], NDArray[np.int64]]
State = Mapping[str, NDArray[Any]]  # a checkpoint


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train.

    Attributes:
        optimizer: its name in Keras.
        learning_rate: the highest step size.
        epochs: at most.
        batch_size: images per batch.
        steps_per_epoch: batches per epoch; None for one pass over the images.
        patience: epochs without improvement before training stops; None to run all.
        class_weights: weight of each class in the loss; None for 1.
        warmup_epochs: during which the step size rises from 0.
        decay: "constant", or "cosine" from `learning_rate` to 0.
    """

    optimizer: str
    learning_rate: float
    epochs: int
    batch_size: int
    steps_per_epoch: int | None = None
    patience: int | None = None
    class_weights: Sequence[float] | None = None
    warmup_epochs: float = 0
    decay: str = "constant"

    def steps(self, images: int) -> int:
        """Return the batches per epoch over so many images."""
        return self.steps_per_epoch or math.ceil(images / self.batch_size)

    def seen(self, images: int) -> int:
        """Return the images seen in all epochs, if every batch but the last of a pass is full."""
        each = self.steps_per_epoch and self.steps_per_epoch * self.batch_size
        return self.epochs * (each or images)


@dataclass(frozen=True, slots=True)
class Trained:
    """The history, including the epoch `start`, and the fault that stopped training, if any."""

    epochs: list[Epoch]
    fault: str = ""


class Steps(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Step size: linear warm-up over `warmup` steps, then constant or a cosine decay to 0.

    The cosine is that of I. Loshchilov and F. Hutter, "SGDR" (2017), equation 5, without restarts;
    step s of n after the warm-up has the factor (1 + cos(pi s / n)) / 2.
    """

    def __init__(self, highest: float, warmup: float, total: int, decay: str) -> None:
        super().__init__()
        self.highest, self.warmup, self.total, self.decay = highest, warmup, total, decay

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        factor = keras.ops.minimum(1.0, (step + 1) / max(self.warmup, 1.0))
        if self.decay == "cosine":
            done = (step - self.warmup) / max(self.total - self.warmup, 1.0)
            factor *= (1 + keras.ops.cos(math.pi * keras.ops.clip(done, 0.0, 1.0))) / 2
        return self.highest * factor

    def get_config(self) -> dict[str, Any]:
        names = ("highest", "warmup", "total", "decay")
        return {name: getattr(self, name) for name in names}


class TwoClasses(keras.layers.Layer):  # type: ignore[misc]
    """Turn a logit z, (n, 1), into those of two classes, (0, z): their softmax is z's sigmoid."""

    def call(self, logit: Any) -> Any:
        return keras.ops.concatenate([keras.ops.zeros_like(logit), logit], axis=-1)

    def compute_output_shape(self, shape: tuple[int | None, int]) -> tuple[int | None, int]:
        return shape[0], 2


def dense_head(
    n_features: int,
    hidden: Sequence[int],
    n_outputs: int,
    *,
    input_dropout: float,
    dropout: float,
    batch_norm: bool = False,
    seed: int,
) -> keras.Model:
    """Build the model from features (n, n_features) to logits (n, n_classes), float32.

    Args:
        hidden: units of consecutive relu layers.
        n_outputs: one per class; 1 for two classes by a sigmoid.
        input_dropout: before the first layer.
        dropout: after each hidden layer.
        batch_norm: between each hidden layer's product and its relu.
        seed: of the dropout.
    """
    named: dict[str, Any] = {"dtype": "float32"}
    x = features = keras.Input((n_features,), name="features")
    x = keras.layers.Dropout(input_dropout, seed=seed, name="input_dropout", **named)(x)
    for number, units in enumerate(hidden):
        x = keras.layers.Dense(units, name=f"dense_{number}", **named)(x)
        if batch_norm:
            x = keras.layers.BatchNormalization(name=f"norm_{number}", **named)(x)
        x = keras.layers.Activation("relu", name=f"relu_{number}", **named)(x)
        if dropout:
            name = f"dropout_{number}"
            x = keras.layers.Dropout(dropout, seed=seed + 1 + number, name=name, **named)(x)
    x = keras.layers.Dense(n_outputs, name="logits", **named)(x)
    if n_outputs == 1:
        x = TwoClasses(name="two_classes", **named)(x)
    return keras.Model(features, x, name="head")


def head_arrays(model: keras.Model) -> Head:
    """Return the dense layers of a `dense_head` as arrays, with batch norms folded in."""
    kernels, biases = [], []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            kernel, bias = layer.get_weights()
            kernels.append(kernel)
            biases.append(bias)
        elif isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = (one.astype(np.float64) for one in layer.get_weights())
            scale = gamma / np.sqrt(variance + layer.epsilon)
            biases[-1] = ((biases[-1] - mean) * scale + beta).astype(np.float32)
            kernels[-1] = (kernels[-1] * scale).astype(np.float32)
    return Head(tuple(kernels), tuple(biases))


def head_model(head: Head, *, input_dropout: float, dropout: float, seed: int) -> keras.Model:
    """Build a `dense_head` with the weights of a trained head."""
    sizes = [len(bias) for bias in head.biases]
    model = dense_head(
        head.kernels[0].shape[0],
        sizes[:-1],
        sizes[-1],
        input_dropout=input_dropout,
        dropout=dropout,
        seed=seed,
    )
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    for layer, kernel, bias in zip(dense, head.kernels, head.biases, strict=True):
        layer.set_weights([kernel, bias])
    return model


def schedule(
    settings: Mapping[str, Any], label: NDArray[np.int64], n_classes: int, where: str
) -> Schedule:
    """Build a Schedule from the matching keys of a section; ignore the others.

    Args:
        label: int64 (n,), of the training images.
        where: name of the section in errors.

    Raises:
        UserError: class weights for another number of classes.
    """
    names = {field.name for field in fields(Schedule)} & settings.keys()
    weights = class_weights(settings["class_weights"], label, n_classes, where)
    return Schedule(**{**{name: settings[name] for name in names}, "class_weights": weights})


def class_weights(
    wanted: str | Sequence[float] | None, label: NDArray[np.int64], n_classes: int, where: str
) -> Sequence[float] | None:
    """Return one weight per class; "balanced" is n / (n_classes * images of the class).

    Args:
        label: int64 (n,), of the training images, every class at least once.

    Raises:
        UserError: another number of weights than classes.
    """
    if wanted is None:
        return None
    if isinstance(wanted, str):
        counts = np.bincount(label, minlength=n_classes)
        return [float(weight) for weight in len(label) / (n_classes * counts)]
    if len(wanted) != n_classes:
        raise UserError(
            f"params.yaml: {where}.class_weights: expected {n_classes} numbers, one per class, got "
            f"{len(wanted)}; list them in the order of the classes"
        )
    return wanted


def fit(
    model: keras.Model,
    schedule: Schedule,
    draw: Callable[[], Iterable[Batch]],
    validate: Callable[[], Batch],
    start: Epoch | None,
    where: str,
    done: Callable[[int], object],
    *,
    images: int,
    rng: Sequence[np.random.Generator] = (),
    resume: State | None = None,
    keep: Callable[[State], object] = lambda state: None,
) -> Trained:
    """Train `model` and leave it with the weights of its best epoch.

    A loss that is not finite ends training; the weights of the best epoch before it are kept.

    Args:
        draw: yields the shuffled training batches of one epoch.
        validate: returns logits and labels of the validation rows under the current weights.
        start: metrics of the model before the first step, if it is a candidate.
        where: name of the section of params.yaml in errors.
        done: called with the number of images of every batch.
        images: number of training images.
        rng: generators that `draw` uses; checkpoints include their states.
        resume: the last checkpoint of an interrupted run of the same model, data and settings; the
            result is that of an uninterrupted run, bit for bit.
        keep: called with a checkpoint after each epoch.

    Raises:
        UserError: a loss that is not finite before there are weights to keep.
    """
    steps = schedule.steps(images)
    _compile(model, schedule, steps)
    epochs = [start] if start else []
    best_weights = model.get_weights() if start else None
    if resume is not None:
        epochs, best_weights = _restore(model, resume, rng)
        resume = None  # as large as the model and its optimizer
        done(schedule.seen(images) // schedule.epochs * (len(epochs) - bool(start)))
    fault = ""
    while len(epochs) - bool(start) < schedule.epochs and not _out_of_patience(
        epochs, schedule.patience
    ):
        number = len(epochs) - bool(start) + 1
        loss, accuracy = _train_epoch(model, schedule, draw, steps, done)
        with np.errstate(invalid="ignore"):  # infinite logits, reported below by their loss
            val_loss, val_accuracy = loss_and_accuracy(*validate())
        if not (math.isfinite(loss) and math.isfinite(val_loss)):
            fault = (
                f"{where} epoch {number}: expected a finite loss, got {loss} on train and "
                f"{val_loss} on valid at learning rate {schedule.learning_rate}; lower "
                f"{where}.learning_rate"
            )
            break
        epochs.append(Epoch(number, loss, accuracy, val_loss, val_accuracy))
        if best_epoch(epochs) is epochs[-1]:
            best_weights = model.get_weights()
        keep(_state(model, epochs, best_weights, rng))
    if best_weights is not None:
        model.set_weights(best_weights)
    elif fault:
        raise UserError(fault)
    return Trained(epochs, fault)


def _train_epoch(
    model: keras.Model,
    schedule: Schedule,
    draw: Callable[[], Iterable[Batch]],
    steps: int,
    done: Callable[[int], object],
) -> tuple[float, float]:
    """Train for `steps` batches, over as many passes as needed; return mean loss and accuracy."""
    weights = None if schedule.class_weights is None else np.asarray(schedule.class_weights)
    passes = itertools.chain.from_iterable(draw() for _ in itertools.count())
    sums = np.zeros(3)  # of loss, of accuracy, of rows
    for inputs, label in itertools.islice(passes, steps):
        weight = None if weights is None else weights[label].astype(np.float32)
        logs = model.train_on_batch(inputs, label, sample_weight=weight, return_dict=True)
        sums += np.array([logs["loss"], logs["accuracy"], 1.0]) * len(label)
        done(len(label))
    loss, accuracy = (float(value) for value in sums[:2] / sums[2])
    return loss, accuracy


def _compile(model: keras.Model, schedule: Schedule, steps: int) -> None:
    rate: Any = schedule.learning_rate
    if schedule.warmup_epochs or schedule.decay != "constant":
        warmup = schedule.warmup_epochs * steps
        rate = Steps(rate, warmup, schedule.epochs * steps, schedule.decay)
    config = {"class_name": schedule.optimizer, "config": {"learning_rate": rate}}
    model.compile(
        optimizer=keras.optimizers.get(config),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )


def _out_of_patience(epochs: Sequence[Epoch], patience: int | None) -> bool:
    if patience is None or not epochs:
        return False
    losses = [epoch.val_loss for epoch in epochs]
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def _state(
    model: keras.Model,
    epochs: Sequence[Epoch],
    best: Sequence[NDArray[Any]] | None,
    rng: Sequence[np.random.Generator],
) -> State:
    """Return weights, layers' seeds, optimizer, best weights, epochs and generators."""
    return {
        **{f"model_{i}": np.asarray(value) for i, value in enumerate(_variables(model))},
        **{f"optimizer_{i}": np.asarray(v) for i, v in enumerate(model.optimizer.variables)},
        **{f"best_{i}": value for i, value in enumerate(best or ())},
        "epochs": np.array([astuple(epoch) for epoch in epochs]),
        "rng": np.array([json.dumps(one.bit_generator.state) for one in rng]),
    }


def _variables(model: keras.Model) -> list[Any]:
    """Return weights and seeds of layers, without the metrics, which every epoch resets."""
    metrics = {id(variable) for variable in model.metrics_variables}
    return [variable for variable in model.variables if id(variable) not in metrics]


def _restore(
    model: keras.Model, state: State, rng: Sequence[np.random.Generator]
) -> tuple[list[Epoch], list[NDArray[Any]]]:
    model.optimizer.build(model.trainable_variables)
    for name, variables in (("model", _variables(model)), ("optimizer", model.optimizer.variables)):
        for number, variable in enumerate(variables):
            variable.assign(state[f"{name}_{number}"])
    for one, text in zip(rng, state["rng"], strict=True):
        one.bit_generator.state = json.loads(str(text))
    epochs = [Epoch(int(number), *map(float, rest)) for number, *rest in state["epochs"]]
    return epochs, [state[f"best_{i}"] for i in range(len(model.get_weights()))]
