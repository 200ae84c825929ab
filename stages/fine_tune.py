"""Stage `fine_tune`: backbones and head trained further, together, from the trained head on.

Reads the ledger_at, pixels, weights and head; writes the model, log-probabilities of every accepted
row, the figures and the history. With `fine_tune.epochs: 0` the head passes through. An interrupted
run goes on from its last whole epoch. The same weights named twice count once.
    python -m stages.fine_tune data/split.csv data/resized.zarr data/weights/NAME.weights.h5 \\
        data/weights/NAME.weights.h5 data/head data/model metrics/fine_tune.json \\
        metrics/fine_tune_history.csv
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import config as parameters
from pipeline.backbones import keras_setup
from pipeline.evaluation import bootstrap
from pipeline.runtime import atomic_files, environment
from pipeline.runtime.entrypoint import arguments, one_each, stage
from pipeline.runtime.progress import progress
from pipeline.runtime.threads import processors
from pipeline.storage import arrays, cache_key, frozen_activations, ledger, places, sums
from pipeline.training import head, history, network

CODE = (  # what the result depends on; a test compares it with what is imported
    "cpu.py",
    "fine_tune.py",
    "models/augment.py",
    "models/backbone.py",
    "models/devices.py",
    "models/engine.py",
    "models/folding.py",
    "models/gabor.py",
    "models/hdf5.py",
    "models/head.py",
    "models/history.py",
    "models/inference.py",
    "models/npz.py",
    "models/training.py",
    "models/tuning.py",
    "models/views.py",
    "network.py",
    "store/arrays.py",
)
FROZEN_CODE = tuple(  # what activations depend on
    name
    for name in CODE
    if name
    not in (
        "models/augment.py",
        "models/head.py",
        "models/history.py",
        "models/npz.py",
        "models/training.py",
        "store/arrays.py",
    )
)
PACKAGES = ("jax", "keras", "numpy", "tensorflow", "torch")
BUFFER_BYTES = 128 * 2**20  # of images that are shuffled together: 900 at 224 px
CHECKPOINT = Path("data/.training/fine_tune.npz")
ACTIVATIONS = Path("data/.activations")


@stage
def main() -> None:
    """Train on `train`, keep the best epoch on `valid`, predict every row."""
    environment.check()
    given = arguments(__doc__, count=8)
    ledger_at, _, _, _, head_folder, out, figures, history_csv = map(Path, given)
    params = parameters.read()
    rows = ledger.read_ledger(atomic_files.require(ledger_at, "split"))
    labels, fingerprint = ledger.labels(rows), ledger.fingerprint(rows)
    images = arrays.Rows(places.require(places.place(given[1]), "resize"), fingerprint)
    weights = {
        name: atomic_files.require_sealed(Path(path), f"fetch_weights@{name}")
        for name, path in one_each(params.train_head.backbones, given[2:4]).items()
    }
    stored = atomic_files.require(head_folder / "predictions.zarr", "train_head")
    of_head = arrays.Rows(stored, fingerprint).read(0, len(images))
    start = _before_the_first_step(of_head, labels)
    with atomic_files.replacing(out) as partial:
        if params.fine_tune.epochs == 0:
            atomic_files.copy_folder(head_folder, partial)
            epochs, fault = [start], ""
        else:
            partial.mkdir()
            trained = head.load(atomic_files.require_sealed(head_folder / "head.npz", "train_head"))
            work = Tuning(params, images, labels, weights, trained)
            epochs, fault = work.train(start, partial)
        of_model = arrays.Rows(partial / "predictions.zarr").read(0, len(images))
    best = history.best_epoch(epochs)
    sums.write_json(
        figures,
        {
            "best": history.rounded(best),
            "epochs": len(epochs) - 1,
            "taken": "fine_tuned" if best.epoch else "head",
            "valid_log_loss_gain": _gain(of_head, of_model, labels),
            "fault": fault,
        },
    )
    sums.write_csv(history_csv, history.COLUMNS, history.lines(epochs))
    CHECKPOINT.unlink(missing_ok=True)


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
    mean, low, high = bootstrap.bootstrap(gain)
    digits = history.DECIMALS
    return {"mean": round(mean, digits), "low": round(low, digits), "high": round(high, digits)}


@dataclass
class Tuning:
    """The networks of a run, and what they are trained on: images, or activations of them."""

    params: parameters.Params
    images: arrays.Rows
    labels: ledger.Labels
    weights: dict[str, Path]
    trained: head.Head

    def train(self, start: history.Epoch, out: Path) -> tuple[list[history.Epoch], str]:
        """Train, write `model.weights.h5` and `predictions.zarr` into `out`; epochs and fault."""
        section, labels = self.params.fine_tune, self.labels
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

        name = self._identity(
            "checkpoint",
            CODE,
            {
                "fine_tune": section.model_dump(),
                "predict": self.params.predict.model_dump(),
                "views": self.params.extract.views,
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
                resume=atomic_files.read_arrays(CHECKPOINT, name),
                keep=functools.partial(atomic_files.write_arrays, CHECKPOINT, name),
            )
        if result.fault:
            print(f"fine_tune: {result.fault}; the weights of the best epoch before it are kept")
        model.save_weights(out / "model.weights.h5")
        atomic_files.seal(out / "model.weights.h5")
        with progress("predict", len(self.images)) as bar:
            arrays.write(
                out / "predictions.zarr",
                bar.over(predictions(np.arange(len(self.images)))),
                shape=(len(self.images), n_classes),
                dtype=np.float32,
                fingerprint=self.images.fingerprint,
            )
        return result.epochs, result.fault

    def _networks(self) -> tuple[list[Any], Any, Any]:
        """An extractor a backbone, trainable from its layer on; the head; images to logits."""
        from pipeline.backbones import build

        section = self.params.fine_tune
        built = network.assemble(
            self.params,
            self.images.shape[1],
            self.weights,
            self.trained,
            len(self.labels.classes),
            precision=section.precision,
            input_dropout=section.input_dropout,
            dropout=section.dropout,
            seed=section.seed,
        )
        layers = section.layers() or [None] * len(self.weights)
        for extractor, layer in zip(built.extractors.values(), layers, strict=True):
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

        section, images, labels = self.params.fine_tune, self.images, self.labels
        train, size = labels.rows("train"), section.batch_size
        with devices.scope():
            changes = augmentation.augmentation(seed=section.seed, **section.augment.model_dump())
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

        section, labels = self.params.fine_tune, self.labels
        size, predicted = section.batch_size, self.params.predict.views
        with devices.scope():
            frozen, rest = network_split.cut(
                extractors, section.layers(), classifier, section.precision
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
        section, size = self.params.fine_tune, self.params.fine_tune.batch_size
        functions = [self._padded(part, size) for part in frozen]

        def compute(view: int, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
            for seen in self._view(view, rows, size):
                yield np.concatenate([run(seen) for run in functions], axis=-1)

        every, train = np.arange(len(self.images)), self.labels.rows("train")
        return frozen_activations.cached(
            ACTIVATIONS,
            self._identity(
                "activations",
                FROZEN_CODE,
                {"layers": section.layers(), "precision": section.precision, "batch_size": size},
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

        ranges = self.params.extract.augment.model_dump()
        seed = ranges.pop("seed")
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

    def _identity(self, what: str, code: Sequence[str], settings: dict[str, object]) -> str:
        """A name that differs with whatever changes the result."""
        params = self.params
        return cache_key.of(
            what,
            {
                **settings,
                "backbones": [
                    [name, atomic_files.sha256(path), params.fetch_weights[name].include_top]
                    for name, path in self.weights.items()
                ],
                "extract": params.extract.model_dump(
                    include={"augment", "layer", "pooling", "preprocessing"}
                ),
                "compute": params.compute.model_dump(),
                "processors": processors() if params.compute.threads is None else None,
                "images": [self.images.fingerprint, arrays.digest(self.images.digests).hex()],
            },
            code,
            PACKAGES,
        )


if __name__ == "__main__":
    sys.exit(main())
