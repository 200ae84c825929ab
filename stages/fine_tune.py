"""Stage `fine_tune`: backbones and head trained further, together, from the trained head on.

Reads the ledger_at, pixels, weights and head; writes the model, log-probabilities of every accepted
row, the figures and the history. With `fine_tune.epochs: 0` the head passes through. An interrupted
run goes on from its last whole epoch. The same weights named twice count once.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import keras_setup
from pipeline.evaluation import bootstrap
from pipeline.runtime import atomic_files, environment
from pipeline.runtime.machine import processors
from pipeline.runtime.progress import progress
from pipeline.schema import NO_AUGMENT, FineTune, Params
from pipeline.stage import stage
from pipeline.storage import arrays, cache_key, frozen_activations, ledger, sealed_files, tables
from pipeline.training import head, history, network

BUFFER_BYTES = 128 * 2**20  # of images that are shuffled together: 900 at 224 px


@stage
def main() -> None:
    """Train on `train`, keep the best epoch on `valid`, predict every row."""
    params = config.read()
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    labels, fingerprint = ledger.labels(rows), ledger.fingerprint(rows)
    images = arrays.Rows(atomic_files.require(paths.RESIZED, "resize"), fingerprint)
    stored = atomic_files.require(paths.predictions(paths.HEAD), "train_head")
    of_head = arrays.Rows(stored, fingerprint).read(0, len(images))
    start = _before_the_first_step(of_head, labels)
    with atomic_files.replacing(paths.MODEL) as partial:
        if params.fine_tune is None:
            atomic_files.copy_folder(paths.HEAD, partial)
            epochs, fault = [start], ""
        else:
            partial.mkdir()
            work = Tuning(params, params.fine_tune, images, labels, network.trained_head())
            epochs, fault = work.train(start, partial)
        of_model = arrays.Rows(paths.predictions(partial)).read(0, len(images))
    best = history.best_epoch(epochs)
    tables.write_json(
        paths.FINE_TUNE_METRICS,
        {
            "best": history.rounded(best),
            "epochs": len(epochs) - 1,
            "taken": "fine_tuned" if best.epoch else "head",
            "valid_log_loss_gain": _gain(of_head, of_model, labels),
            "fault": fault,
        },
    )
    tables.write_csv(paths.FINE_TUNE_HISTORY, history.COLUMNS, history.lines(epochs))
    paths.CHECKPOINT.unlink(missing_ok=True)


def _before_the_first_step(
    log_probability: NDArray[np.float32], labels: ledger.Labels
) -> history.Epoch:
    """Epoch 0: the head's own figures."""
    scored: list[float] = []
    for subset in ("train", "valid"):
        chosen = labels.rows(subset)
        scored += head.loss_and_accuracy(log_probability[chosen], labels.label[chosen])
    return history.Epoch(0, *scored)


def _gain(
    of_head: NDArray[np.float32], of_model: NDArray[np.float32], labels: ledger.Labels
) -> dict[str, float]:
    """How much lower the loss on `valid` is than the head's, with its paired interval of 95 %.

    The epoch was chosen on the same images, so what others will see is rather less.
    """
    valid = labels.rows("valid")
    label = labels.label[valid]
    gain = of_model[valid, label].astype(np.float64) - of_head[valid, label]
    mean, low, high = bootstrap.mean_interval(gain)
    digits = history.DECIMALS
    return {"mean": round(mean, digits), "low": round(low, digits), "high": round(high, digits)}


@dataclass
class Tuning:
    """The networks of a run, and what they are trained on: images, or activations of them."""

    params: Params
    section: FineTune
    images: arrays.Rows
    labels: ledger.Labels
    trained: head.Head

    def train(self, start: history.Epoch, out: Path) -> tuple[list[history.Epoch], str]:
        """Train, write `model.weights.h5` and `predictions.zarr` into `out`; epochs and fault."""
        section, labels = self.section, self.labels
        keras_setup.start(**self.params.compute.model_dump())
        import keras

        from pipeline.backbones import devices
        from pipeline.training import loop

        keras.utils.set_random_seed(section.seed)
        rng = np.random.default_rng(section.seed)
        with devices.scope():
            extractors, classifier, model = self._networks()
        train, valid = labels.rows("train"), labels.rows("valid")
        n_classes = len(labels.classes)

        schedule = loop.schedule(section.model_dump(), labels.label[train], n_classes, "fine_tune")
        learn = self._from_activations if section.cache_frozen else self._from_images
        learner, draw, predictions = learn(extractors, classifier, model, rng)

        def validate() -> loop.Batch:
            return np.concatenate(list(predictions(valid))), labels.label[valid]

        name = self._key(
            "checkpoint",
            {
                "params": config.settings(self.params)["fine_tune"],
                "labels": arrays.digest(labels.label).hex(),
                "subsets": arrays.digest(labels.subset.view(np.uint8)).hex(),
                "head": [
                    arrays.digest(array).hex()
                    for array in (*self.trained.kernels, *self.trained.biases)
                ],
            },
        )
        with progress("fine_tune", schedule.seen(len(train))) as bar:
            result = loop.fit(
                learner,
                schedule,
                draw,
                validate,
                start=start,
                where="fine_tune",
                done=bar.update,
                images=len(train),
                rng=[rng],
                resume=sealed_files.read_arrays(paths.CHECKPOINT, name),
                keep=functools.partial(sealed_files.write_arrays, paths.CHECKPOINT, name),
            )
        if result.fault:
            print(f"fine_tune: {result.fault}; the weights of the best epoch before it are kept")
        model.save_weights(paths.model_weights(out))
        sealed_files.seal(paths.model_weights(out))
        with progress("predict", len(self.images)) as bar:
            arrays.write(
                paths.predictions(out),
                bar.over(predictions(np.arange(len(self.images)))),
                shape=(len(self.images), n_classes),
                dtype=np.float32,
                fingerprint=self.images.fingerprint,
            )
        return result.epochs, result.fault

    def _networks(self) -> tuple[list[Any], Any, Any]:
        """An extractor a backbone, trainable from its layer on; the head; images to logits."""
        from pipeline.backbones import build

        section = self.section
        built = network.assemble(
            self.params,
            self.images.shape[1],
            self.trained,
            len(self.labels.classes),
            precision=section.precision,
            input_dropout=section.input_dropout,
            dropout=section.dropout,
            seed=section.seed,
        )
        for extractor, layer in zip(built.extractors.values(), self._layers(), strict=True):
            if layer is None:
                extractor.trainable = False
            else:
                build.unfreeze_from(extractor, layer)
        return list(built.extractors.values()), built.classifier, built.whole

    def _from_images(
        self, extractors: list[Any], classifier: Any, model: Any, rng: np.random.Generator
    ) -> tuple[Any, Callable[[], Any], Callable[[NDArray[np.int64]], Any]]:
        """The network from augmented images on; draws images, and predicts from their views."""
        from pipeline.backbones import devices
        from pipeline.training import augmentation, loop

        section, images, labels = self.section, self.images, self.labels
        train, size = labels.rows("train"), section.batch_size
        with devices.scope():
            ranges = (section.augment or NO_AUGMENT).model_dump()
            changes = augmentation.augmentation(seed=section.seed, **ranges)
            learner = loop.stack([changes, model], images.shape[1:], "in_training")

        def draw() -> Iterator[loop.Batch]:
            for rows, batch in images.shuffled(train, size, rng, BUFFER_BYTES):
                yield batch.astype(np.float32), labels.label[rows]

        def predictions(rows: NDArray[np.int64]) -> Iterator[head.FloatArray]:
            count = self.params.predict.views
            views = zip(*(self._view(view, rows, size) for view in range(count)), strict=True)
            stacked = (np.stack(view, axis=1) for view in views)
            return head.predictions(stacked, count, self._padded(model, size))

        return learner, draw, predictions

    def _from_activations(
        self, extractors: list[Any], classifier: Any, model: Any, rng: np.random.Generator
    ) -> tuple[Any, Callable[[], Any], Callable[[NDArray[np.int64]], Any]]:
        """The network from the cached activations on; draws a view of each image."""
        from pipeline.backbones import devices
        from pipeline.training import loop, network_split

        section, labels = self.section, self.labels
        size, predicted = section.batch_size, self.params.predict.views
        with devices.scope():
            frozen, rest = network_split.cut(
                extractors, self._layers(), classifier, section.precision
            )
        cached, train = self._activations(frozen), labels.rows("train")
        held = [
            arrays.hold(view, train, environment.memory_bytes() // len(cached)) for view in cached
        ]

        def draw() -> Iterator[loop.Batch]:
            drawn = arrays.Drawn(held, rng.integers(len(held), size=len(self.images)))
            for rows, batch in drawn.shuffled(train, size, rng, BUFFER_BYTES):
                yield batch, labels.label[rows]

        def predictions(rows: NDArray[np.int64]) -> Iterator[head.FloatArray]:
            views = zip(*(view.batches(size, rows) for view in cached[:predicted]), strict=True)
            stacked = (np.stack(view, axis=1) for view in views)
            return head.predictions(stacked, predicted, self._padded(rest, size))

        return rest, draw, predictions

    def _activations(self, frozen: list[Any]) -> list[arrays.Readable]:
        """What the frozen parts give, (n, d) a view; of `train` alone if it does not predict."""
        section, size = self.section, self.section.batch_size
        functions = [self._padded(part, size) for part in frozen]

        def compute(view: int, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
            for seen in self._view(view, rows, size):
                yield np.concatenate([run(seen) for run in functions], axis=-1)

        every, train = np.arange(len(self.images)), self.labels.rows("train")
        return frozen_activations.cached(
            paths.FROZEN_ACTIVATIONS,
            self._key(
                "activations",
                {"precision": section.precision, "batch_size": size},
            ),
            [
                every if view < self.params.predict.views else train
                for view in range(self.params.extract.views)
            ],
            compute,
            sum(part.output_shape[-1] for part in frozen),
            self.images.fingerprint,
            environment.disk_bytes(),
        )

    def _view(self, view: int, rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """Batches (n, size, size, 3) of a view of the given rows."""
        from pipeline.backbones import views

        ranges, seed = self.params.extract.changes()
        done = 0
        for batch in self.images.batches(size, rows):
            digests = self.images.digests[rows[done : done + len(batch)]]
            done += len(batch)
            keys = [digest.tobytes() for digest in digests]
            yield views.make(batch, keys, view, views.Ranges(**ranges), seed)

    def _padded(self, model: Any, size: int) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        from pipeline.backbones import devices, inference

        function = functools.partial(devices.predict_on_batch, model)
        return lambda batch: inference.run_padded(function, batch, size)

    def _layers(self) -> list[str | None]:
        """Return the first layer of each backbone that is trained, None for a frozen one."""
        return [backbone.unfreeze_from for backbone in self.params.backbones.values()]

    def _key(self, what: str, settings: dict[str, object]) -> str:
        """Return a name that differs with everything that changes the result."""
        return cache_key.of(
            "fine_tune",
            {
                **settings,
                "networks": [
                    [name, backbone.network(), backbone.unfreeze_from]
                    for name, backbone in self.params.backbones.items()
                ],
                "augment": self.params.extract.changes(),
                "compute": self.params.compute.model_dump(),
                "weights": {
                    name: atomic_files.sha256(path)
                    for name, path in network.weights(self.params).items()
                },
                "processors": processors() if self.params.compute.threads is None else None,
                "images": [self.images.fingerprint, arrays.digest(self.images.digests).hex()],
            },
            what,
        )


if __name__ == "__main__":
    sys.exit(main())
