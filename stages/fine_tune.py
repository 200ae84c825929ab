"""Stage `fine_tune`: backbone and head trained further, together, from the trained head on.

Reads the ledger, pixels, weights and head; writes the model, log-probabilities of every accepted
row, the figures and the history. With `fine_tune.epochs: 0` the head passes through.
    python -m stages.fine_tune data/split.csv data/resized.zarr data/weights/NAME.weights.h5 \\
        data/head data/model metrics/fine_tune.json metrics/fine_tune_history.csv
"""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages import params as parameters
from stages.models import engine, head, history
from stages.progress import progress
from stages.scripts import arguments, stage
from stages.store import arrays, files, places, tables

BUFFER_BYTES = 128 * 2**20  # of images that are shuffled together: 900 at 224 px


@stage
def main() -> None:
    """Train on `train`, keep the best epoch on `valid`, predict every row."""
    ledger, _, weights, head_folder, out, figures, history_csv = map(
        Path, given := arguments(__doc__, count=7)
    )
    params = parameters.read()
    rows = tables.read_ledger(files.require(ledger, "split"))
    labels = tables.labels(rows)
    fingerprint = tables.fingerprint(rows)
    images = arrays.Rows(places.require(places.place(given[1]), "resize"), fingerprint)
    files.require(weights, f"fetch_weights@{params.train_head.backbone}")
    predictions = arrays.Rows(
        files.require(head_folder / "predictions.zarr", "train_head"), fingerprint
    )
    start = _before_the_first_step(predictions, labels)
    with files.replacing(out) as partial:
        if params.fine_tune.epochs == 0:
            files.copy_folder(head_folder, partial)
            epochs = [start]
        else:
            partial.mkdir()
            trained = head.load(head_folder / "head.npz")
            epochs = _train(params, images, labels, weights, trained, start, partial)
    best = history.best_epoch(epochs)
    files.write_json(figures, {"best": history.rounded(best), "epochs": len(epochs) - 1})
    tables.write_csv(
        history_csv, history.COLUMNS, (list(history.rounded(epoch).values()) for epoch in epochs)
    )


def _before_the_first_step(predictions: arrays.Rows, labels: tables.Labels) -> history.Epoch:
    """Epoch 0: the head's own figures."""
    log_probability = predictions.read(0, len(predictions))
    figures: list[float] = []
    for subset in ("train", "valid"):
        chosen = labels.rows(subset)
        figures += head.loss_and_accuracy(log_probability[chosen], labels.label[chosen])
    return history.Epoch(0, *figures)


def _train(
    params: parameters.Params,
    images: arrays.Rows,
    labels: tables.Labels,
    weights: Path,
    trained: head.Head,
    start: history.Epoch,
    out: Path,
) -> list[history.Epoch]:
    engine.start(**params.compute.model_dump())
    import keras

    from stages.models import augment, backbone, devices, inference, training, views

    section, name = params.fine_tune, params.train_head.backbone
    keras.utils.set_random_seed(section.seed)
    rng = np.random.default_rng(section.seed)
    include_top = params.fetch_weights[name].include_top
    pooling = params.extract.pooling
    logits = pooling in backbone.PREDICTIONS
    shape = images.shape[1:]
    with devices.scope():
        base = backbone.build(name, images.shape[1], include_top, weights, logits)
        extractor = backbone.extractor(base, name, params.extract.layer, pooling)
        backbone.unfreeze_from(extractor, str(section.unfreeze_from))
        classifier = training.head_model(trained, section.dropout)
        model = training.stack([extractor, classifier], shape, "model")
        changes = augment.augmentation(seed=section.seed, **section.augment.model_dump())
        in_training = training.stack([changes, model], shape, "in_training")
    train, valid = labels.rows("train"), labels.rows("valid")
    size = section.batch_size

    def draw() -> Iterator[training.Batch]:
        for rows, batch in images.shuffled(train, size, rng, BUFFER_BYTES):
            yield batch.astype(np.float32), labels.label[rows]

    ranges = params.extract.augment.model_dump()
    view_seed = ranges.pop("seed")

    def predictions(rows: NDArray[np.int64]) -> Iterator[head.FloatArray]:
        """Log-probabilities of the given rows, in batches, averaged over `predict.views`."""
        done = 0
        for batch in images.batches(size, rows):
            digests = images.digests[rows[done : done + len(batch)]]
            keys = [digest.tobytes() for digest in digests]
            done += len(batch)
            yield head.mean_log_probability(
                [
                    inference.padded(
                        functools.partial(devices.predict_on_batch, model),
                        views.make(batch, keys, view, views.Ranges(**ranges), view_seed),
                        size,
                    )
                    for view in range(params.predict.views)
                ]
            )

    def validate() -> training.Batch:
        return np.concatenate(list(predictions(valid))), labels.label[valid]

    with progress("fine_tune", section.epochs * len(train)) as bar:
        epochs = training.fit(
            in_training,
            training.Schedule(
                section.optimizer, section.learning_rate, section.epochs, section.patience
            ),
            draw,
            validate,
            start=start,
            where="fine_tune",
            done=bar.update,
        )
    model.save_weights(out / "model.weights.h5")
    with progress("predict", len(images)) as bar:
        arrays.write(
            out / "predictions.zarr",
            bar.over(predictions(np.arange(len(images)))),
            shape=(len(images), len(labels.classes)),
            dtype=np.float32,
            fingerprint=images.fingerprint,
        )
    return epochs


if __name__ == "__main__":
    sys.exit(main())
