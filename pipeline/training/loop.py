"""Training by gradient descent: one loop for dense heads and for fine-tuning.

Models return logits (n, n_classes); labels are int64 class indices. The weights of the epoch with
the lowest validation loss are kept, including epoch 0, before the first step.
"""

import importlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline import paths
from pipeline.runtime.parallel import ahead
from pipeline.runtime.progress import progress
from pipeline.schema import Training
from pipeline.storage import sealed_files
from pipeline.storage.ledger import Labels
from pipeline.training.head import Head, loss_and_accuracy
from pipeline.training.history import DivergedError, Epoch, OnEpoch, averaged, best_epoch
from pipeline.training.optimization import (
    NO_RATES,
    Batch,
    Prepared,
    Rates,
    class_weights,
    compile_model,
    prepared,
)

Ints = NDArray[np.int64]
# Takes batches, their number and what is told the rows of each; returns mean loss and accuracy.
TrainEpoch = Callable[[Iterable[Prepared], int, Callable[[int], object]], tuple[float, float]]


class TwoClasses(keras.layers.Layer):  # type: ignore[misc]
    """Turn a logit z, (n, 1), into those of two classes, (0, z): their softmax is z's sigmoid."""

    def call(self, logit: Any) -> Any:
        return keras.ops.concatenate([keras.ops.zeros_like(logit), logit], axis=-1)


def dense_head(
    n_features: int,
    hidden: Sequence[int],
    n_outputs: int,
    *,
    input_dropout: float = 0,
    dropout: float = 0,
    batch_norm: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Build the model from features (n, n_features) to logits (n, n_classes), float32.

    `hidden` are the units of relu layers, each with an optional batch norm before its relu and
    `dropout` after it; `input_dropout` comes first. One output, by a sigmoid, is for two classes.
    """
    x = features = keras.Input((n_features,), name="features")
    x = keras.layers.Dropout(input_dropout, seed=seed, name="input_dropout")(x)
    for number, units in enumerate(hidden):
        x = keras.layers.Dense(units, name=f"dense_{number}")(x)
        if batch_norm:
            x = keras.layers.BatchNormalization(name=f"norm_{number}")(x)
        x = keras.layers.Activation("relu", name=f"relu_{number}")(x)
        if dropout:
            name = f"dropout_{number}"
            x = keras.layers.Dropout(dropout, seed=seed + 1 + number, name=name)(x)
    x = keras.layers.Dense(n_outputs, name="logits")(x)
    if n_outputs == 1:
        x = TwoClasses(name="two_classes")(x)
    return keras.Model(features, x, name="head")


def head_arrays(model: keras.Model) -> Head:
    """Return the dense layers of a `dense_head` as arrays, with batch norms folded in."""
    layers: list[Any] = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layers.append(layer.get_weights())
        elif isinstance(layer, keras.layers.BatchNormalization):
            kernel, bias = layers[-1]
            gamma, beta, mean, variance = (one.astype(np.float64) for one in layer.get_weights())
            scale = gamma / np.sqrt(variance + layer.epsilon)
            bias = (bias - mean) * scale + beta
            layers[-1] = (kernel * scale).astype(np.float32), bias.astype(np.float32)
    kernels, biases = zip(*layers, strict=True)
    return Head(kernels, biases)


def head_model(head: Head, **options: Any) -> keras.Model:
    """Build a `dense_head`, with these options, that has the weights of a trained head."""
    *hidden, n_outputs = map(len, head.biases)
    model = dense_head(len(head.kernels[0]), hidden, n_outputs, **options)
    model.set_weights([*itertools.chain(*zip(head.kernels, head.biases, strict=True))])
    return model


class Checkpoint(NamedTuple):
    """The state after an epoch, from which an interrupted run continues."""

    name: str  # identifies the run's inputs
    rng: np.random.Generator  # that `draw` uses

    def write(
        self, model: keras.Model, epochs: Sequence[Epoch], best: Sequence[NDArray[Any]]
    ) -> None:
        """Keep weights, layers' seeds, optimizer, weights of the best epoch, history and `rng`."""
        state = {
            **{f"variable_{i}": np.asarray(one) for i, one in enumerate(_variables(model))},
            **{f"best_{i}": value for i, value in enumerate(best)},
            "epochs": np.array([astuple(epoch) for epoch in epochs]),
            "rng": np.array(json.dumps(self.rng.bit_generator.state)),
        }
        sealed_files.write_arrays(paths.CHECKPOINT, self.name, state)

    def read(self, model: keras.Model) -> tuple[list[Epoch], list[NDArray[Any]]] | None:
        """Restore a compiled model and `rng`; return history and best weights, None if absent."""
        state = sealed_files.read_arrays(paths.CHECKPOINT, self.name)
        if state is None:
            return None
        model.optimizer.build(model.trainable_variables)
        for i, variable in enumerate(_variables(model)):
            variable.assign(state[f"variable_{i}"])
        self.rng.bit_generator.state = json.loads(str(state["rng"]))
        epochs = [Epoch(int(number), *map(float, rest)) for number, *rest in state["epochs"]]
        return epochs, [state[f"best_{i}"] for i in range(len(model.get_weights()))]


def _variables(model: keras.Model) -> list[Any]:
    """Return weights and seeds of layers and optimizer, without metrics, which an epoch resets."""
    metrics = {id(variable) for variable in model.metrics_variables}
    variables = [*model.variables, *model.optimizer.variables]
    return [variable for variable in variables if id(variable) not in metrics]


class Learning(NamedTuple):
    """What is trained, and on what."""

    model: keras.Model  # to logits
    settings: Training
    labels: Labels
    where: str  # the section of params.yaml, in errors
    draw: Callable[[], Iterable[Batch]]  # the shuffled batches of one pass over the images
    predict: Callable[[Ints], Iterable[NDArray[Any]]]  # logits (k, n_classes) of the listed rows
    rng: np.random.Generator  # that `draw` uses, and what mixes images
    rates: Rates = NO_RATES

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        images = len(self.labels.rows("train"))
        return self.settings.steps_per_epoch or math.ceil(images / self.settings.batch_size)

    def batches(self, count: int) -> Iterator[Prepared]:
        """Yield so many batches to train on, from as many passes as it takes."""
        weights = class_weights(self.settings, self.labels, self.where)
        n_classes = len(self.labels.classes)
        passes = itertools.chain.from_iterable(self.draw() for _ in itertools.count())
        for batch in itertools.islice(passes, count):
            yield prepared(batch, self.settings, weights, n_classes, self.rng)


def fit(
    learning: Learning,
    *,
    start: Epoch | None = None,
    checkpoint: Checkpoint | None = None,
    on_epoch: OnEpoch = lambda epoch: None,
) -> tuple[list[Epoch], str]:
    """Train a model and leave it with the weights of its best epoch; return history and fault.

    A loss that is not finite is a fault that ends training, and `DivergedError` before there are
    weights to keep. `start` are the metrics before the first step, if the model is a candidate by
    then. With a checkpoint, an interrupted run of the same model, data and settings continues to
    the result of an uninterrupted one, bit for bit.
    """
    model, settings, labels, where = learning[:4]
    steps, valid = learning.steps, labels.rows("valid")
    images = len(labels.rows("train"))
    seen = steps * settings.batch_size if settings.steps_per_epoch else images
    compile_model(model, settings, steps, learning.rates)
    train_epoch = epoch_trainer(model)
    epochs = [start] if start else []
    best = model.get_weights() if start else []
    if checkpoint and (kept := checkpoint.read(model)):
        epochs, best = kept
    fault, done = "", epochs[-1].epoch if epochs else 0
    with progress(where, settings.epochs * seen) as bar:
        bar.update(done * seen)
        for number in range(done + 1, settings.epochs + 1):
            waited = epochs[-1].epoch - best_epoch(epochs).epoch if epochs else 0
            if settings.patience and waited >= settings.patience:
                break
            loss, accuracy = train_epoch(learning.batches(steps), steps, bar.update)
            with np.errstate(invalid="ignore"):  # infinite logits, reported below by their loss
                logits = np.concatenate([*learning.predict(valid)])
                val_loss, val_accuracy = loss_and_accuracy(logits, labels.label[valid])
            if not (math.isfinite(loss) and math.isfinite(val_loss)):
                fault = (
                    f"{where} epoch {number}: expected a finite loss, got {loss} on train and "
                    f"{val_loss} on valid at learning rate {settings.learning_rate}; lower "
                    f"{where}.learning_rate"
                )
                break
            epochs.append(Epoch(number, loss, accuracy, val_loss, val_accuracy))
            if best_epoch(epochs) is epochs[-1]:
                best = model.get_weights()
            if checkpoint:
                checkpoint.write(model, epochs, best)
            on_epoch(epochs[-1])
    if fault and not best:
        raise DivergedError(fault)
    if fault:
        print(f"{where}: {fault}; the weights of the best epoch before it are kept")
    if best:
        model.set_weights(best)
    return epochs, fault


def epoch_trainer(model: keras.Model) -> TrainEpoch:
    """Return a function that takes a step of a compiled model on each of so many batches.

    It returns the means of loss and accuracy over the rows. The device keeps both until the end, so
    that it does not wait between steps, and a thread draws the next batch while one is computed.
    On TensorFlow, Keras' `fit` takes 1.6 to 3 times as long for a dense head: it copies batches.
    """
    graph = None

    def train_epoch(
        batches: Iterable[Prepared], steps: int, advance: Callable[[int], object]
    ) -> tuple[float, float]:
        nonlocal graph

        def drawn() -> Iterator[Prepared]:
            for batch in ahead(batches):
                advance(len(batch[0]))
                yield batch

        if keras.config.backend() == "jax":
            logs = model.fit(drawn(), verbose=0, steps_per_epoch=steps, shuffle=False).history
            return float(logs["loss"][0]), float(logs["accuracy"][0])
        model.reset_metrics()
        for batch in drawn():
            graph = graph or _graph(model, batch)
            logs = graph(batch)
        model.optimizer.finalize_variable_values(model.trainable_variables)
        return float(logs["loss"]), float(logs["accuracy"])

    return train_epoch


def _graph(model: keras.Model, batch: Prepared) -> Callable[[Prepared], dict[str, Any]]:
    """Return the step of a compiled model as a graph of TensorFlow, for batches of any size."""
    tensorflow = importlib.import_module("tensorflow")
    specs = tuple(tensorflow.TensorSpec((None, *one.shape[1:]), one.dtype) for one in batch)
    model.optimizer.build(model.trainable_variables)
    graph: Callable[[Prepared], dict[str, Any]] = tensorflow.function(
        model.train_step, input_signature=[specs]
    )
    return graph


def rate_test(
    learning: Learning, lowest: float, highest: float, steps: int, least: int
) -> tuple[list[float], list[float]]:
    """Train for some steps at a learning rate that grows from `lowest` to `highest`.

    Return the rates and the loss of the batch before each step; it ends early where the loss is
    not finite or, after `least` steps, its average is four times the lowest one: L. Smith,
    "Cyclical Learning Rates for Training Neural Networks" (2017), section 3.3.
    """
    model, growth = learning.model, (highest / lowest) ** (1 / (steps - 1))
    schedule = keras.optimizers.schedules.ExponentialDecay(lowest, 1, growth)
    compile_model(model, learning.settings, steps, learning.rates, schedule)
    rates, losses = [], list[float]()
    with progress("lr-find", steps * learning.settings.batch_size) as bar:
        for step, batch in enumerate(ahead(learning.batches(steps))):
            model.reset_metrics()
            loss = float(model.train_on_batch(*batch)[0])
            bar.update(len(batch[0]))
            if not math.isfinite(loss):
                break
            rates.append(lowest * growth**step)
            losses.append(loss)
            average = averaged(losses)
            if step >= least and average[-1] > 4 * average.min():
                break
    return rates, losses
