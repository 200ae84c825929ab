"""Train a head on stored features, as `train_head` in `params.yaml` describes it.

Features are (n, views, d); training uses all views, metrics average the first `predict.views`.
"""

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.backbones import keras_setup
from pipeline.evaluation.probabilities import mean_log_probability
from pipeline.runtime import environment
from pipeline.runtime.errors import UserError
from pipeline.schema import DenseHead, LogisticHead, Params
from pipeline.storage import array_views
from pipeline.storage.arrays import Readable
from pipeline.storage.ledger import Labels
from pipeline.training import head, history, logistic

BATCH = 256  # rows per batch in inference
BUFFER_BYTES = 256 * 2**20  # of features that are shuffled together

Logits = Callable[[head.FloatArray], head.FloatArray]
Fitted = tuple[head.Head, list[history.Epoch], dict[str, object]]


def train(params: Params, features: Readable, labels: Labels) -> Fitted:
    """Fit the head on `train`; return it, its history, and further entries of its metrics."""
    settings = params.train_head
    if isinstance(settings, LogisticHead):
        return _train_logistic(settings, params, features, labels)
    return _train_dense(settings, params, features, labels)


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
    return fitted.head, [epoch], {"inverse_regularization": fitted.inverse_regularization}


def _train_dense(settings: DenseHead, params: Params, features: Readable, labels: Labels) -> Fitted:
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

    def draw() -> Iterator[loop.Batch]:
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
    epochs, fault = loop.fit(
        model,
        settings,
        labels,
        draw,
        predicted,
        "train_head",
        start=None if settings.epochs else history.measured(0, labels, predicted),
    )
    return loop.head_arrays(model), epochs, {"fault": fault}
