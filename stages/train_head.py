"""Stage `train_head`: a classifier on cached features.

Reads the ledger and features, of two backbones side by side; writes the head, log-probabilities of
every accepted row (also the unlabelled ones), the figures and the history. Features may also lie in
an object store, under URLs; the same ones named twice count once.
"""

import functools
import math
import sys
from collections.abc import Callable, Iterator

import numpy as np
import psutil

from pipeline import config, paths
from pipeline.backbones import keras_setup
from pipeline.runtime import atomic_files, environment
from pipeline.runtime.errors import UserError
from pipeline.runtime.progress import progress
from pipeline.schema import DenseHead, LogisticHead, Params
from pipeline.stage import stage
from pipeline.storage import arrays, ledger, sealed_files, tables
from pipeline.training import head, history

GIB = 2**30
BATCH = 256  # rows at a time where nothing is learnt
BUFFER_BYTES = 256 * 2**20  # of features that are shuffled together


@stage
def main() -> None:
    """Fit on `train`, choose the epoch on `valid`, predict every row."""
    params = config.read()
    keras_setup.limit_blas(params.compute.threads)
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    labels = ledger.labels(rows)
    features = arrays.open_features(params.backbones, ledger.fingerprint(rows))
    section = params.train_head
    if isinstance(section, LogisticHead):
        fitted, epochs, figures_of_it = _logistic(section, params, features, labels)
    else:
        fitted, epochs, figures_of_it = _dense(section, params, features, labels)
    with atomic_files.replacing(paths.HEAD) as partial:
        partial.mkdir()
        fitted.save(paths.head_file(partial))
        sealed_files.seal(paths.head_file(partial))
        arrays.write(
            paths.predictions(partial),
            head.predictions(features.batches(BATCH), params.predict.views, fitted.logits),
            shape=(len(features), len(labels.classes)),
            dtype=np.float32,
            fingerprint=features.fingerprint,
        )
    tables.write_json(
        paths.HEAD_METRICS,
        {
            "kind": params.train_head.kind,
            "parameters": fitted.parameters,
            "best": history.rounded(history.best_epoch(epochs)),
            **figures_of_it,
        },
    )
    tables.write_csv(paths.HEAD_HISTORY, history.COLUMNS, history.lines(epochs))


Fitted = tuple[head.Head, list[history.Epoch], dict[str, object]]


def _logistic(
    section: LogisticHead, params: Params, features: arrays.Readable, labels: ledger.Labels
) -> Fitted:
    train = labels.rows("train")
    _require_memory(len(train), features.shape[1:])
    held = np.empty((len(train), *features.shape[1:]), np.float32)
    done = 0
    for batch in features.batches(BATCH, train):
        held[done : done + len(batch)] = batch
        done += len(batch)
    fitted = head.fit_logistic(
        held,
        labels.label[train],
        len(labels.classes),
        inverse_regularization=section.inverse_regularization,
        max_iterations=section.max_iterations,
    )
    if fitted.iterations == section.max_iterations:
        print(
            f"train_head: not converged after {fitted.iterations} iterations; raise max_iterations"
        )
    scored = _score(features, labels, params.predict.views, fitted.head.logits)
    told: dict[str, object] = {"inverse_regularization": fitted.inverse_regularization}
    return fitted.head, [history.Epoch(fitted.iterations, *scored)], told


def _require_memory(images: int, shape: tuple[int, ...]) -> None:
    """Refuse a logistic regression on more features than this machine has room for.

    They are held once, in float32; a tenth is left for what else there is.
    """
    needed, free = 4 * images * math.prod(shape), psutil.virtual_memory().available
    if 1.1 * needed > free:
        raise UserError(
            f"train_head: expected features that fit into the {free / GIB:.3g} GiB of memory that "
            f"are free, got {needed / GIB:.3g} GiB, {math.prod(shape):,} numbers for each of "
            f"{images:,} train images; set train_head.kind: dense, which streams them, or take "
            "fewer (extract.pooling: avg, fewer extract.views)"
        )


def _dense(
    section: DenseHead, params: Params, features: arrays.Readable, labels: ledger.Labels
) -> Fitted:
    n_classes = len(labels.classes)
    if section.output == "sigmoid" and n_classes != 2:
        raise UserError(
            "params.yaml: train_head.output: expected softmax, as there are "
            f"{n_classes} classes, got 'sigmoid'; change it"
        )
    keras_setup.start(**params.compute.model_dump())
    import keras

    from pipeline.backbones import devices, inference
    from pipeline.training import loop

    keras.utils.set_random_seed(section.seed)
    rng = np.random.default_rng(section.seed)
    train, valid = labels.rows("train"), labels.rows("valid")
    with devices.scope():
        model = loop.dense_head(
            features.shape[-1],
            section.hidden,
            1 if section.output == "sigmoid" else n_classes,
            input_dropout=section.input_dropout,
            dropout=section.dropout,
            batch_norm=section.batch_norm,
            seed=section.seed,
        )
    schedule = loop.schedule(section.model_dump(), labels.label[train], n_classes, "train_head")
    held = arrays.hold(features, train, environment.memory_bytes())

    def draw() -> Iterator[loop.Batch]:
        """Of each image one of its views, another one in every epoch."""
        batches = held.shuffled(train, section.batch_size, rng, BUFFER_BYTES)
        return loop.one_view_each(batches, labels.label, rng)

    def logits(batch: head.FloatArray) -> head.FloatArray:
        return inference.run_padded(
            functools.partial(devices.predict_on_batch, model), batch, BATCH
        )

    def validate() -> loop.Batch:
        predicted = head.predictions(features.batches(BATCH, valid), params.predict.views, logits)
        return np.concatenate(list(predicted)), labels.label[valid]

    start = None
    if not section.epochs:
        start = history.Epoch(0, *_score(features, labels, params.predict.views, logits))
    with progress("train_head", schedule.seen(len(train))) as bar:
        trained = loop.fit(
            model,
            schedule,
            draw,
            validate,
            start=start,
            where="train_head",
            done=bar.update,
            images=len(train),
        )
    if trained.fault:
        print(f"train_head: {trained.fault}; the weights of the best epoch before it are kept")
    return loop.head_arrays(model), trained.epochs, {"fault": trained.fault}


def _score(
    features: arrays.Readable,
    labels: ledger.Labels,
    views: int,
    logits: Callable[[head.FloatArray], head.FloatArray],
) -> list[float]:
    """Loss and accuracy on `train`, then on `valid`."""
    scored: list[float] = []
    for subset in ("train", "valid"):
        chosen = labels.rows(subset)
        predicted = head.predictions(features.batches(BATCH, chosen), views, logits)
        scored += head.loss_and_accuracy(np.concatenate(list(predicted)), labels.label[chosen])
    return scored


if __name__ == "__main__":
    sys.exit(main())
