"""What a step of training minimizes, and how: loss, targets, class weights, learning rates.

`keras_setup.start` comes before the import.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.errors import UserError
from pipeline.schema import FineTune, Training
from pipeline.storage.ledger import Labels

Batch = tuple[NDArray[Any], NDArray[np.int64]]  # inputs and class indices, (k, ...) and (k,)
Prepared = tuple[NDArray[Any], ...]  # inputs, targets and perhaps weights, (k, ...) each
Rates = Mapping[int, float]  # factors of the learning rate, by `key_of` a variable
NO_RATES: Rates = MappingProxyType({})


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


def compile_model(
    model: keras.Model, settings: Training, steps: int, rates: Rates, rate: Any = None
) -> None:
    """Compile a model as its settings ask for, for `steps` in an epoch; `rate` replaces theirs."""
    if rate is None:
        rate = settings.learning_rate
        if isinstance(settings, FineTune) and (
            settings.warmup_epochs or settings.decay != "constant"
        ):
            warmup = settings.warmup_epochs * steps
            rate = Steps(rate, warmup, settings.epochs * steps, settings.decay)
    options = {"learning_rate": rate, "global_clipnorm": settings.clip_norm}
    if settings.weight_decay:  # else AdamW's and Lion's own default
        options["weight_decay"] = settings.weight_decay
    if settings.ema:
        options |= {"use_ema": True, "ema_momentum": settings.ema}
    kind = type(keras.optimizers.get(settings.optimizer))
    compile_for(model, (_with_rates(kind, rates) if rates else kind)(**options), settings)


def key_of(variable: Any) -> int:
    """Return the `id` of what an optimizer is given for a variable."""
    return id(variable.value if keras.config.backend() == "tensorflow" else variable)


def _with_rates(kind: type[keras.Optimizer], rates: Rates) -> type[keras.Optimizer]:
    """Return an optimizer whose steps of some variables are shorter."""

    class WithRates(kind):  # type: ignore[misc]
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            factor = rates.get(id(variable), 1.0)
            super().update_step(gradient, variable, learning_rate * factor)

    return WithRates


def compile_for(
    model: keras.Model, optimizer: keras.Optimizer, settings: Training | None = None
) -> None:
    """Compile a model that returns logits, for targets as `prepared` makes them.

    A focal loss weighs each image by (1 - p)^gamma, p the probability of its class: T.-Y. Lin et
    al., "Focal Loss for Dense Object Detection" (2017), equation 4.
    """
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    if settings and _has_shares(settings):
        smoothing = settings.label_smoothing or 0.0
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
        if settings.focal_gamma:
            loss = keras.losses.CategoricalFocalCrossentropy(
                1.0, settings.focal_gamma, from_logits=True, label_smoothing=smoothing
            )
        accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")
    model.compile(
        optimizer=optimizer,
        loss=loss,
        weighted_metrics=[accuracy],
        jit_compile=keras.config.backend() == "jax",  # which would run operation by operation
    )


def _has_shares(settings: Training) -> bool:
    """Tell whether targets are shares of classes (k, n_classes), not class indices (k,)."""
    return bool(settings.label_smoothing or settings.focal_gamma or _mixes(settings))


def _mixes(settings: Training) -> list[str]:
    """Return the kinds of mixing that the settings ask for."""
    names = ("mixup", "cutmix") if isinstance(settings, FineTune) else ("mixup",)
    return [name for name in names if getattr(settings, name)]


def prepared(
    batch: Batch,
    settings: Training,
    weights: NDArray[np.float32] | None,
    n_classes: int,
    rng: np.random.Generator,
) -> Prepared:
    """Return inputs, targets and, with class weights, weights of a batch.

    With mixup, each input is mixed with another one of the batch, and so are their targets: H.
    Zhang et al., "mixup" (2018). With CutMix, a rectangle of each image comes from another one: S.
    Yun et al., "CutMix" (2019), section 3.1. With both, each batch draws one of them.
    """
    inputs, label = batch
    if not _has_shares(settings):
        return (inputs, label) if weights is None else (inputs, label, weights[label])
    targets = np.eye(n_classes, dtype=np.float32)[label]
    if kinds := _mixes(settings):
        kind, other = kinds[rng.integers(len(kinds))], rng.permutation(len(label))
        alpha = getattr(settings, kind)
        share = np.float32(rng.beta(alpha, alpha))
        if kind == "mixup":
            inputs = share * inputs + (1 - share) * inputs[other]
        else:
            height, width = inputs.shape[1:3]
            sides = np.array([height, width]) * np.sqrt(1 - share)
            center = rng.random(2) * (height, width)
            (top, left), (bottom, right) = (
                np.clip(np.rint(center + half), 0, (height, width)).astype(int)
                for half in (-sides / 2, sides / 2)
            )
            inputs = inputs.copy()
            inputs[:, top:bottom, left:right] = inputs[other, top:bottom, left:right]
            share = np.float32(1 - (bottom - top) * (right - left) / (height * width))
        targets = share * targets + (1 - share) * targets[other]
    return (inputs, targets) if weights is None else (inputs, targets, targets @ weights)
