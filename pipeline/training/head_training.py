"""Train a head on stored features, as `train_head` in `params.yaml` describes it.

Features are (n, views, d); training uses all views, metrics average the first `predict.views`.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from pipeline.backbones import keras_setup
from pipeline.runtime import environment
from pipeline.runtime.errors import UserError
from pipeline.runtime.progress import progress
from pipeline.schema import DenseHead, LogisticHead, Params
from pipeline.storage import array_views
from pipeline.storage.arrays import Readable
from pipeline.storage.ledger import Labels
from pipeline.training import head, logistic
from pipeline.training.history import Epoch

GIB = 2**30
BATCH = 256  # rows per batch in inference
BUFFER_BYTES = 256 * 2**20  # of features that are shuffled together

Logits = Callable[[head.FloatArray], head.FloatArray]


class Fitted(NamedTuple):
    """A trained head, its history, and what else `metrics/head.json` reports."""

    head: head.Head
    history: list[Epoch]
    report: dict[str, object]


def train(params: Params, features: Readable, labels: Labels) -> Fitted:
    """Fit the head of the configured kind on `train`.

    Raises:
        UserError: too little memory, or parameters that do not fit the number of classes.
    """
    settings = params.train_head
    if isinstance(settings, LogisticHead):
        return _train_logistic(settings, params, features, labels)
    return _train_dense(settings, params, features, labels)


def predict(
    features: Readable, views: int, logits: Logits, rows: NDArray[np.int64] | None = None
) -> Iterator[head.FloatArray]:
    """Yield log-probabilities (k, n_classes) of all rows, or the listed ones, over views."""
    return head.predictions(features.batches(BATCH, rows), views, logits)


def _train_logistic(
    settings: LogisticHead, params: Params, features: Readable, labels: Labels
) -> Fitted:
    train_rows = labels.rows("train")
    _require_memory(len(train_rows), features.shape[1:])
    values = np.empty((len(train_rows), *features.shape[1:]), np.float32)
    done = 0
    for batch in features.batches(BATCH, train_rows):
        values[done : done + len(batch)] = batch
        done += len(batch)
    fitted = logistic.fit(
        values,
        labels.label[train_rows],
        len(labels.classes),
        inverse_regularization=settings.inverse_regularization,
        max_iterations=settings.max_iterations,
    )
    if fitted.iterations == settings.max_iterations:
        print(
            f"train_head: not converged after {fitted.iterations} iterations; raise max_iterations"
        )
    scores = _score(features, labels, params.predict.views, fitted.head.logits)
    report: dict[str, object] = {"inverse_regularization": fitted.inverse_regularization}
    return Fitted(fitted.head, [Epoch(fitted.iterations, *scores)], report)


def _require_memory(images: int, shape: tuple[int, ...]) -> None:
    """Refuse a logistic regression on more features than fit into memory.

    They are kept once, in float32; a tenth is left for everything else.
    """
    needed, free = 4 * images * math.prod(shape), psutil.virtual_memory().available
    if 1.1 * needed > free:
        raise UserError(
            f"train_head: expected features that fit into the {free / GIB:.3g} GiB of free memory, "
            f"got {needed / GIB:.3g} GiB, {math.prod(shape):,} numbers for each of {images:,} "
            "train images; set train_head.kind: dense, which streams them, or take fewer "
            "(pooling: avg, fewer extract.views)"
        )


def _train_dense(settings: DenseHead, params: Params, features: Readable, labels: Labels) -> Fitted:
    n_classes, views = len(labels.classes), params.predict.views
    if settings.output == "sigmoid" and n_classes != 2:
        raise UserError(
            "params.yaml: train_head.output: expected softmax, as there are "
            f"{n_classes} classes, got 'sigmoid'; change it"
        )
    keras_setup.start(**params.compute.model_dump())
    import keras

    from pipeline.training import loop

    keras.utils.set_random_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    train_rows, valid_rows = labels.rows("train"), labels.rows("valid")
    model = loop.dense_head(
        features.shape[-1],
        settings.hidden,
        1 if settings.output == "sigmoid" else n_classes,
        input_dropout=settings.input_dropout,
        dropout=settings.dropout,
        batch_norm=settings.batch_norm,
        seed=settings.seed,
    )
    schedule = loop.schedule(
        settings.model_dump(), labels.label[train_rows], n_classes, "train_head"
    )
    drawn_from = array_views.in_memory_if_small(features, train_rows, environment.memory_bytes())

    def draw() -> Iterator[loop.Batch]:
        """Yield one view of each image, another one in every epoch."""
        batches = array_views.shuffled(
            drawn_from, train_rows, settings.batch_size, rng, BUFFER_BYTES
        )
        for rows, values in batches:
            view = rng.integers(values.shape[1], size=len(rows))
            yield values[np.arange(len(rows)), view], labels.label[rows]

    def logits(batch: head.FloatArray) -> head.FloatArray:
        return keras_setup.run_padded(model.predict_on_batch, batch, BATCH)

    def validate() -> loop.Batch:
        predicted = predict(features, views, logits, valid_rows)
        return np.concatenate(list(predicted)), labels.label[valid_rows]

    start = None if settings.epochs else Epoch(0, *_score(features, labels, views, logits))
    with progress("train_head", schedule.seen(len(train_rows))) as bar:
        trained = loop.fit(
            model,
            schedule,
            draw,
            validate,
            start=start,
            where="train_head",
            done=bar.update,
            images=len(train_rows),
        )
    if trained.fault:
        print(f"train_head: {trained.fault}; the weights of the best epoch before it are kept")
    return Fitted(loop.head_arrays(model), trained.epochs, {"fault": trained.fault})


def _score(features: Readable, labels: Labels, views: int, logits: Logits) -> list[float]:
    """Return loss and accuracy on `train`, then on `valid`."""
    scores: list[float] = []
    for rows in (labels.rows("train"), labels.rows("valid")):
        predicted = np.concatenate(list(predict(features, views, logits, rows)))
        scores += head.loss_and_accuracy(predicted, labels.label[rows])
    return scores
