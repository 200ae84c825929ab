"""Training by gradient descent: one loop for dense heads and for fine-tuning.

Models return logits (n, n_classes); labels are int64 class indices. The weights of the epoch with
the lowest validation loss are kept, including epoch 0, before the first step.
"""

import itertools
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline import paths
from pipeline.runtime.errors import UserError
from pipeline.runtime.parallel import ahead
from pipeline.runtime.progress import progress
from pipeline.schema import FineTune, Training
from pipeline.storage import sealed_files
from pipeline.storage.ledger import Labels
from pipeline.training.head import Head, loss_and_accuracy
from pipeline.training.history import Epoch, best_epoch

Batch = tuple[NDArray[Any], NDArray[np.int64]]


class Steps(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Step size: linear warm-up over `warmup` steps, then constant or a cosine decay to 0.

    Step s of n after the warm-up has the factor (1 + cos(pi s / n)) / 2: I. Loshchilov and
    F. Hutter, "SGDR" (2017), equation 5, without restarts.
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


class TwoClasses(keras.layers.Layer):  # type: ignore[misc]
    """Turn a logit z, (n, 1), into those of two classes, (0, z): their softmax is z's sigmoid."""

    def call(self, logit: Any) -> Any:
        return keras.ops.concatenate([keras.ops.zeros_like(logit), logit], axis=-1)


class SmoothedCrossentropy(keras.losses.Loss):  # type: ignore[misc]
    """Cross-entropy of class indices (n,) and logits (n, k), with smoothed labels.

    The label has the weight 1 - s + s / k, every other class s / k: C. Szegedy et al., "Rethinking
    the Inception Architecture for Computer Vision" (2016), section 7.
    """

    def __init__(self, smoothing: float) -> None:
        super().__init__(name="smoothed_crossentropy")
        self._smoothing = smoothing

    def call(self, label: Any, logits: Any) -> Any:
        log_probability = keras.ops.log_softmax(logits)
        classes = keras.ops.one_hot(keras.ops.reshape(label, (-1,)), log_probability.shape[-1])
        of_label = keras.ops.sum(classes * log_probability, axis=-1)
        of_all = keras.ops.mean(log_probability, axis=-1)
        return -(1 - self._smoothing) * of_label - self._smoothing * of_all


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


def class_weights(settings: Training, labels: Labels, where: str) -> NDArray[np.float32] | None:
    """Return one weight per class; "balanced" is n / (n_classes * images of the class).

    Another number of weights than classes, in the section `where`, is a `UserError`.
    """
    weights, n_classes = settings.class_weights, len(labels.classes)
    if weights is None:
        return None
    if isinstance(weights, str):
        label = labels.label[labels.rows("train")]
        counts = np.bincount(label, minlength=n_classes)
        return (len(label) / (n_classes * counts)).astype(np.float32)
    if len(weights) != n_classes:
        raise UserError(
            f"params.yaml: {where}.class_weights: expected {n_classes} numbers, one per class, got "
            f"{len(weights)}; list them in the order of the classes"
        )
    return np.array(weights, np.float32)


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


def fit(
    model: keras.Model,
    settings: Training,
    labels: Labels,
    draw: Callable[[], Iterable[Batch]],
    predict: Callable[[NDArray[np.int64]], Iterable[NDArray[Any]]],
    where: str,
    *,
    start: Epoch | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[list[Epoch], str]:
    """Train `model` and leave it with the weights of its best epoch; return history and fault.

    A loss that is not finite is a fault that ends training, and a `UserError` before there are
    weights to keep. `draw` yields the shuffled batches of one pass over the images; `predict`
    yields logits (k, n_classes) of the listed rows under the current weights; `where` names the
    section of params.yaml in errors. `start` are the metrics before the first step, if the model is
    a candidate by then. With a checkpoint, an interrupted run of the same model, data and settings
    continues to the result of an uninterrupted one, bit for bit.
    """
    valid, images = labels.rows("valid"), len(labels.rows("train"))
    weights = class_weights(settings, labels, where)
    steps = settings.steps_per_epoch or math.ceil(images / settings.batch_size)
    seen = steps * settings.batch_size if settings.steps_per_epoch else images
    _compile(model, settings, steps)
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
            passes = itertools.chain.from_iterable(draw() for _ in itertools.count())
            drawn = itertools.islice(passes, steps)
            loss, accuracy = train_epoch(model, drawn, steps, weights, bar.update)
            with np.errstate(invalid="ignore"):  # infinite logits, reported below by their loss
                logits = np.concatenate([*predict(valid)])
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
    if fault and not best:
        raise UserError(fault)
    if fault:
        print(f"{where}: {fault}; the weights of the best epoch before it are kept")
    if best:
        model.set_weights(best)
    return epochs, fault


def train_epoch(
    model: keras.Model,
    batches: Iterable[Batch],
    steps: int,
    weights: NDArray[np.float32] | None,
    advance: Callable[[int], object],
) -> tuple[float, float]:
    """Take a step on each of `steps` batches; return the means of loss and accuracy over the rows.

    The device keeps both until the end, so that it does not wait between steps, and a thread draws
    the next batch while one is computed.
    """
    faults: list[BaseException] = []

    def drawn() -> Iterator[tuple[NDArray[Any], ...]]:
        try:
            for inputs, label in ahead(batches):
                advance(len(label))
                yield (inputs, label) if weights is None else (inputs, label, weights[label])
        except Exception as error:
            faults.append(error)

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
            # Without their number, TensorFlow counts a step for the end of the batches, too.
            logs = model.fit(drawn(), verbose=0, steps_per_epoch=steps, shuffle=False).history
    except ValueError:  # of Keras, if the first batch has a fault
        if not faults:
            raise
    if faults:
        raise faults[0]  # TensorFlow would wrap it
    return float(logs["loss"][0]), float(logs["accuracy"][0])


def _compile(model: keras.Model, settings: Training, steps: int) -> None:
    rate: Any = settings.learning_rate
    if isinstance(settings, FineTune) and (settings.warmup_epochs or settings.decay != "constant"):
        warmup = settings.warmup_epochs * steps
        rate = Steps(rate, warmup, settings.epochs * steps, settings.decay)
    options = {"learning_rate": rate, "global_clipnorm": settings.clip_norm}
    if settings.weight_decay:  # else AdamW's and Lion's own default
        options["weight_decay"] = settings.weight_decay
    config = {"class_name": settings.optimizer, "config": options}
    compile_for(model, keras.optimizers.get(config), settings.label_smoothing or 0.0)


def compile_for(
    model: keras.Model, optimizer: keras.Optimizer, label_smoothing: float = 0.0
) -> None:
    """Compile a model that returns logits for `train_epoch`."""
    model.compile(
        optimizer=optimizer,
        loss=SmoothedCrossentropy(label_smoothing)
        if label_smoothing
        else keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=keras.config.backend() == "jax",  # which would run operation by operation
    )
