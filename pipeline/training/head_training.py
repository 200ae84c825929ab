"""Train a head on stored features, as `train_head` in `params.yaml` describes it.

Features are (n, views, d); training uses all views, metrics average the first `predict.views`.
With `folds`, one head is trained without each fold of `train` and `valid`. Every image of these is
predicted by the head that has not seen it, all others by the mean of the heads' logits.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.backbones import keras_setup
from pipeline.evaluation.probabilities import mean_log_probability
from pipeline.runtime import environment
from pipeline.runtime.errors import UserError
from pipeline.schema import DenseHead, LogisticHead, Params
from pipeline.storage import array_views
from pipeline.storage.arrays import Readable
from pipeline.storage.ledger import Labels, dealt
from pipeline.training import head, history, logistic

if TYPE_CHECKING:  # it imports Keras
    from pipeline.training import loop

BATCH = 256  # rows per batch in inference
BUFFER_BYTES = 256 * 2**20  # of features that are shuffled together

Logits = Callable[[head.FloatArray], head.FloatArray]


class Fitted(NamedTuple):
    """A trained head."""

    head: head.Head
    epochs: list[history.Epoch]
    metrics: dict[str, object]  # beside those of the best epoch
    out_of_fold: head.FloatArray | None = None  # log-probabilities (n, n_classes); NaN: by `head`


def train(params: Params, features: Readable, labels: Labels, group: NDArray[Any]) -> Fitted:
    """Fit the head, on `train` or without each fold in turn; `group`, (n,), is in one fold."""
    if params.train_head.folds is None:
        return _train_one(params, features, labels)
    out_of_fold = np.full((len(group), len(labels.classes)), np.nan, np.float32)
    fitted = []
    for one, rows, predicted in by_fold(params, features, labels, group):
        out_of_fold[rows] = predicted
        fitted.append(one)
    metrics: dict[str, object] = {
        key: [one.metrics[key] for one in fitted] for key in fitted[0].metrics
    }
    metrics |= {"folds": len(fitted)}
    epochs = history.mean([one.epochs for one in fitted])
    return Fitted(head.mean([one.head for one in fitted]), epochs, metrics, out_of_fold)


def by_fold(
    params: Params,
    features: Readable,
    labels: Labels,
    group: NDArray[Any],
    where: str = "params.yaml: train_head.folds",
    on_epoch: history.OnEpoch = lambda epoch: None,
) -> Iterator[tuple[Fitted, NDArray[np.int64], head.FloatArray]]:
    """Yield for each fold a head that has not seen it, and its rows and their log-probabilities.

    Too few images for the folds are a `UserError` from `where`. An error in `on_epoch`, which a
    dense head calls, ends all.
    """
    count = params.train_head.folds or 0
    fold = _folds(count, labels, group, where)
    for number in range(count):
        subset = labels.subset.copy()
        subset[fold >= 0] = "train"
        subset[fold == number] = "valid"
        one = _train_one(params, features, replace(labels, subset=subset), number, on_epoch)
        rows = np.flatnonzero(fold == number)
        predicted = predict(features, params.predict.views, one.head.logits, rows)
        yield one, rows, np.concatenate([*predicted])


def _folds(count: int, labels: Labels, group: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Return the fold that each image of `train` and `valid` is in, -1 for the others."""
    inside = np.flatnonzero((labels.subset == "train") | (labels.subset == "valid"))
    of_image = np.unique(group[inside], return_inverse=True)[1]
    groups = int(of_image.max()) + 1
    if groups < count:
        raise UserError(
            f"{where}: expected at most {groups:,}, the number of distinct images to train on, got "
            f"{count:,}; lower it"
        )
    fold = np.full(len(labels.subset), -1)
    fold[inside] = dealt(labels.label[inside], of_image, count)
    for index, name in enumerate(labels.classes):
        if len(np.unique(fold[inside][labels.label[inside] == index])) < 2:
            raise UserError(
                f"{where}: expected two distinct images of every class to train on, got fewer of "
                f"{name!r}; add images of it"
            )
    return fold


def predictions(features: Readable, views: int, fitted: Fitted) -> Iterator[head.FloatArray]:
    """Yield log-probabilities (k, n_classes) of all rows, each by heads that have not seen it.

    Without folds, these are those of the head, also of the rows of `train`.
    """
    at = 0
    for batch in predict(features, views, fitted.head.logits):
        if fitted.out_of_fold is not None:
            own = fitted.out_of_fold[at : at + len(batch)]
            batch = np.where(np.isnan(own), batch, own)
        at += len(batch)
        yield batch


def _train_one(
    params: Params,
    features: Readable,
    labels: Labels,
    number: int = 0,
    on_epoch: history.OnEpoch = lambda epoch: None,
) -> Fitted:
    """Fit a head on `train`; its `number` is added to the seed."""
    settings = params.train_head
    if isinstance(settings, LogisticHead):
        return _train_logistic(settings, params, features, labels)
    settings = settings.model_copy(update={"seed": settings.seed + number})
    return _train_dense(settings, params, features, labels, on_epoch)


def predict(
    features: Readable, views: int, logits: Logits, rows: NDArray[np.int64] | None = None
) -> Iterator[head.FloatArray]:
    """Yield log-probabilities (k, n_classes) of all rows, or the listed ones, over views."""
    for batch in features.batches(BATCH, rows):
        yield mean_log_probability([logits(batch[:, view]) for view in range(views)])


def _train_logistic(
    settings: LogisticHead, params: Params, features: Readable, labels: Labels
) -> Fitted:
    train_rows = labels.rows("train")
    shape = (len(train_rows), *features.shape[1:])
    size = logistic.images_in_a_block(shape[1])

    def parts() -> Iterator[head.FloatArray]:
        return (part.astype(np.float32) for part in features.batches(size, train_rows))

    values: head.FloatArray | logistic.Blocks = parts
    if 4 * math.prod(shape) <= environment.memory_bytes():
        values = np.empty(shape, np.float32)
        for at, part in zip(range(0, len(values), size), parts(), strict=True):
            values[at : at + size] = part
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
    predicted = functools.partial(predict, features, params.predict.views, fitted.head.logits)
    epoch = history.measured(fitted.iterations, labels, predicted)
    metrics: dict[str, object] = {"inverse_regularization": fitted.inverse_regularization}
    return Fitted(fitted.head, [epoch], metrics)


def _train_dense(
    settings: DenseHead,
    params: Params,
    features: Readable,
    labels: Labels,
    on_epoch: history.OnEpoch,
) -> Fitted:
    learning = dense_learning(settings, params, features, labels)
    from pipeline.training import loop

    start = None if settings.epochs else history.measured(0, labels, learning.predict)
    epochs, fault = loop.fit(learning, start=start, on_epoch=on_epoch)
    return Fitted(loop.head_arrays(learning.model), epochs, {"fault": fault})


def dense_learning(
    settings: DenseHead, params: Params, features: Readable, labels: Labels
) -> "loop.Learning":
    """Start Keras; return a new dense head, and what it learns from."""
    n_classes = len(labels.classes)
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
    train_rows = labels.rows("train")
    model = loop.dense_head(
        features.shape[-1],
        settings.hidden,
        1 if settings.output == "sigmoid" else n_classes,
        **settings.model_dump(include={"input_dropout", "dropout", "batch_norm", "seed"}),
    )
    drawn_from = array_views.in_memory_if_small(features, train_rows, environment.memory_bytes())

    def draw() -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        batches = array_views.shuffled(
            drawn_from, train_rows, settings.batch_size, rng, BUFFER_BYTES
        )
        for rows, values in batches:
            view = rng.integers(values.shape[1], size=len(rows))
            yield values[np.arange(len(rows)), view], labels.label[rows]

    start_on = keras_setup.starter(model, BATCH)
    predicted = functools.partial(
        predict, features, params.predict.views, lambda batch: start_on(batch)()
    )
    return loop.Learning(model, settings, labels, "train_head", draw, predicted, rng)
