"""Stage `train_head`: a classifier on cached features.

Reads the ledger and features; writes the head, log-probabilities of every accepted row (also the
unlabelled ones), the figures and the history.
    python -m stages.train_head data/split.csv data/features/NAME.zarr data/head \\
        metrics/head.json metrics/head_history.csv
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages import params as parameters
from stages.models import engine, head, history
from stages.progress import progress
from stages.scripts import arguments, stage
from stages.store import arrays, files, tables

BATCH = 256  # rows at a time where nothing is learnt
BUFFER_BYTES = 256 * 2**20  # of features that are shuffled together


@stage
def main() -> None:
    """Fit on `train`, choose the epoch on `valid`, predict every row."""
    ledger, features_path, out, figures, history_csv = map(Path, arguments(__doc__, count=5))
    params = parameters.read()
    engine.limit_blas(params.compute.threads)
    rows = tables.read_ledger(files.require(ledger, "split"))
    labels = tables.labels(rows)
    writer = f"extract@{params.train_head.backbone}"
    features = arrays.Rows(files.require(features_path, writer), tables.fingerprint(rows))
    fit = _logistic if params.train_head.kind == "logistic" else _dense
    fitted, epochs = fit(params, features, labels)
    with files.replacing(out) as partial:
        partial.mkdir()
        fitted.save(partial / "head.npz")
        arrays.write(
            partial / "predictions.zarr",
            (head.log_softmax(fitted.logits(batch)) for batch in _first_view(features, BATCH)),
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
        features.take(train)[:, 0].astype(np.float32, copy=False),
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
        batches = [fitted.logits(batch) for batch in _first_view(features, BATCH, chosen)]
        figures += head.loss_and_accuracy(np.concatenate(batches), labels.label[chosen])
    return fitted, [history.Epoch(iterations, *figures)]


def _dense(
    params: parameters.Params, features: arrays.Rows, labels: tables.Labels
) -> tuple[head.Head, list[history.Epoch]]:
    engine.start(**params.compute.model_dump())
    import keras

    from stages.models import inference, training

    section = params.train_head.dense
    keras.utils.set_random_seed(section.seed)
    rng = np.random.default_rng(section.seed)
    train, valid = labels.rows("train"), labels.rows("valid")
    model = training.dense_head(
        features.shape[-1], section.hidden, section.dropout, len(labels.classes)
    )

    def draw() -> Iterator[training.Batch]:
        for rows, batch in features.shuffled(train, section.batch_size, rng, BUFFER_BYTES):
            yield batch[:, 0], labels.label[rows]

    def validate() -> training.Batch:
        outputs = inference.predict(model, _first_view(features, BATCH, valid), BATCH)
        return np.concatenate(list(outputs)), labels.label[valid]

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


def _first_view(
    features: arrays.Rows, size: int, rows: NDArray[np.int64] | None = None
) -> Iterable[NDArray[np.float32]]:
    """Batches of view 0, the image itself: (size, d) float32."""
    return (batch[:, 0].astype(np.float32, copy=False) for batch in features.batches(size, rows))


if __name__ == "__main__":
    sys.exit(main())
