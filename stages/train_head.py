"""Stage `train_head`: a classifier on cached features.

Reads the ledger and features; writes the head, log-probabilities of every accepted row (also the
unlabelled ones), the figures and the history.
    python -m stages.train_head data/split.csv data/features/NAME.zarr data/head \\
        metrics/head.json metrics/head_history.csv
"""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages import params as parameters
from stages.models import engine, head, history
from stages.progress import progress
from stages.scripts import arguments, stage
from stages.store import arrays, files, places, tables

BATCH = 256  # rows at a time where nothing is learnt
BUFFER_BYTES = 256 * 2**20  # of features that are shuffled together


@stage
def main() -> None:
    """Fit on `train`, choose the epoch on `valid`, predict every row."""
    ledger, _, out, figures, history_csv = map(Path, given := arguments(__doc__, count=5))
    params = parameters.read()
    engine.limit_blas(params.compute.threads)
    rows = tables.read_ledger(files.require(ledger, "split"))
    labels = tables.labels(rows)
    writer = f"extract@{params.train_head.backbone}"
    stored = places.require(places.place(given[1]), writer)
    features = arrays.Rows(stored, tables.fingerprint(rows))
    fit = _logistic if params.train_head.kind == "logistic" else _dense
    fitted, epochs = fit(params, features, labels)
    with files.replacing(out) as partial:
        partial.mkdir()
        fitted.save(partial / "head.npz")
        arrays.write(
            partial / "predictions.zarr",
            _predictions(features, None, params.predict.views, fitted.logits),
            shape=(len(features), len(labels.classes)),
            dtype=np.float32,
            fingerprint=features.fingerprint,
        )
    best = history.best_epoch(epochs)
    files.write_json(figures, {"kind": params.train_head.kind, "best": history.rounded(best)})
    tables.write_csv(
        history_csv, history.COLUMNS, (list(history.rounded(epoch).values()) for epoch in epochs)
    )


def _logistic(
    params: parameters.Params, features: arrays.Rows, labels: tables.Labels
) -> tuple[head.Head, list[history.Epoch]]:
    train = labels.rows("train")
    section = params.train_head.logistic
    fitted, iterations = head.fit_logistic(
        features.take(train).astype(np.float32, copy=False),
        labels.label[train],
        len(labels.classes),
        inverse_regularization=section.inverse_regularization,
        max_iterations=section.max_iterations,
    )
    if iterations == section.max_iterations:
        print(f"train_head: not converged after {iterations} iterations; raise max_iterations")
    figures: list[float] = []
    for subset in ("train", "valid"):
        chosen = labels.rows(subset)
        log_probability = _predict(features, chosen, params.predict.views, fitted.logits)
        figures += head.loss_and_accuracy(log_probability, labels.label[chosen])
    return fitted, [history.Epoch(iterations, *figures)]


def _dense(
    params: parameters.Params, features: arrays.Rows, labels: tables.Labels
) -> tuple[head.Head, list[history.Epoch]]:
    engine.start(**params.compute.model_dump())
    import keras

    from stages.models import devices, inference, training

    section = params.train_head.dense
    keras.utils.set_random_seed(section.seed)
    rng = np.random.default_rng(section.seed)
    train, valid = labels.rows("train"), labels.rows("valid")
    with devices.scope():
        model = training.dense_head(
            features.shape[-1], section.hidden, section.dropout, len(labels.classes)
        )

    def draw() -> Iterator[training.Batch]:
        """Of each image one of its views, another one in every epoch."""
        for rows, batch in features.shuffled(train, section.batch_size, rng, BUFFER_BYTES):
            views = rng.integers(features.shape[1], size=len(rows))
            yield batch[np.arange(len(rows)), views], labels.label[rows]

    def logits(batch: head.FloatArray) -> head.FloatArray:
        return inference.padded(functools.partial(devices.predict_on_batch, model), batch, BATCH)

    def validate() -> training.Batch:
        return _predict(features, valid, params.predict.views, logits), labels.label[valid]

    with progress("train_head", section.epochs * len(train)) as bar:
        epochs = training.fit(
            model,
            training.Schedule(
                section.optimizer, section.learning_rate, section.epochs, section.patience
            ),
            draw,
            validate,
            start=None,
            where="train_head.dense",
            done=bar.update,
        )
    return training.head_arrays(model), epochs


def _predict(
    features: arrays.Rows,
    rows: NDArray[np.int64] | None,
    views: int,
    logits: Callable[[head.FloatArray], head.FloatArray],
) -> head.FloatArray:
    """Log-probabilities (n, n_classes) of all rows or the given ones, averaged over `views`."""
    return np.concatenate(list(_predictions(features, rows, views, logits)))


def _predictions(
    features: arrays.Rows,
    rows: NDArray[np.int64] | None,
    views: int,
    logits: Callable[[head.FloatArray], head.FloatArray],
) -> Iterator[head.FloatArray]:
    for batch in features.batches(BATCH, rows):
        seen = batch[:, :views].astype(np.float32, copy=False)
        yield head.mean_log_probability([logits(seen[:, view]) for view in range(views)])


if __name__ == "__main__":
    sys.exit(main())
