"""Fine-tune backbones and head together, starting from the trained head.

Trains on augmented images, or on cached activations of the frozen layers; `keras_setup.start` comes
before the import. An interrupted run continues from its last complete epoch.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import build, from_params, keras_setup
from pipeline.runtime import atomic_files, environment
from pipeline.runtime.machine import processors
from pipeline.runtime.progress import progress
from pipeline.schema import NO_AUGMENT, FineTune, Params
from pipeline.storage import array_views, arrays, cache_key, frozen_activations, sealed_files
from pipeline.storage.ledger import Labels
from pipeline.training import augmentation, head, loop, network, network_split
from pipeline.training.history import Epoch

BUFFER_BYTES = 128 * 2**20  # of images that are shuffled together: 900 at 224 px

Rows = NDArray[np.int64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Learner:
    """What is trained.

    Attributes:
        model: from drawn inputs to logits.
        draw: yields the shuffled batches of one epoch.
        predict: yields log-probabilities (k, n_classes) of the listed rows, averaged over views.
    """

    model: keras.Model
    draw: Callable[[], Iterator[loop.Batch]]
    predict: Callable[[Rows], Iterator[head.FloatArray]]


@dataclass(frozen=True)
class FineTuning:
    """A run of fine-tuning.

    Attributes:
        settings: the section `fine_tune` of `params`.
        images: pixels, uint8 (n, size, size, 3).
        trained: the head to start from.
    """

    params: Params
    settings: FineTune
    images: arrays.StoredArray
    labels: Labels
    trained: head.Head

    def train(self, start: Epoch, out: Path) -> tuple[list[Epoch], str]:
        """Train, write the weights and log-probabilities into `out`; return history and fault."""
        settings, labels = self.settings, self.labels
        keras.utils.set_random_seed(settings.seed)
        rng = np.random.default_rng(settings.seed)
        net = self._network()
        train, valid = labels.rows("train"), labels.rows("valid")
        n_classes = len(labels.classes)
        schedule = loop.schedule(settings.model_dump(), labels.label[train], n_classes, "fine_tune")
        learn = self._from_activations if settings.cache_frozen else self._from_images
        learner = learn(net, rng)

        def validate() -> loop.Batch:
            return np.concatenate(list(learner.predict(valid))), labels.label[valid]

        name = self._checkpoint_name()
        with progress("fine_tune", schedule.seen(len(train))) as bar:
            result = loop.fit(
                learner.model,
                schedule,
                learner.draw,
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
        net.model.save_weights(paths.model_weights(out))
        sealed_files.seal(paths.model_weights(out))
        with progress("predict", len(self.images)) as bar:
            arrays.write(
                paths.predictions(out),
                bar.over(learner.predict(np.arange(len(self.images)))),
                shape=(len(self.images), n_classes),
                dtype=np.float32,
                fingerprint=self.images.fingerprint,
            )
        return result.epochs, result.fault

    def _network(self) -> network.Network:
        """Return the network, each backbone trainable from its layer on."""
        settings = self.settings
        net = network.assemble(
            self.params,
            self.images.shape[1],
            self.trained,
            len(self.labels.classes),
            precision=settings.precision,
            input_dropout=settings.input_dropout,
            dropout=settings.dropout,
            seed=settings.seed,
        )
        for extractor, layer in zip(net.extractors.values(), self._layers(), strict=True):
            if layer is None:
                extractor.trainable = False
            else:
                build.unfreeze_from(extractor, layer)
        return net

    def _from_images(self, net: network.Network, rng: np.random.Generator) -> Learner:
        """Train the network on augmented images."""
        settings, images, labels = self.settings, self.images, self.labels
        train, size = labels.rows("train"), settings.batch_size
        ranges = (settings.augment or NO_AUGMENT).model_dump()
        changes = augmentation.augmentation(seed=settings.seed, **ranges)
        pixels = keras.Input(images.shape[1:], name="images")
        model = keras.Model(pixels, net.model(changes(pixels)), name="in_training")

        def draw() -> Iterator[loop.Batch]:
            for rows, batch in array_views.shuffled(images, train, size, rng, BUFFER_BYTES):
                yield batch.astype(np.float32), labels.label[rows]

        def views(rows: Rows) -> list[Iterator[NDArray[Any]]]:
            return [self._view(view, rows) for view in range(self.params.predict.views)]

        return Learner(model, draw, self._predict(net.model, views))

    def _from_activations(self, net: network.Network, rng: np.random.Generator) -> Learner:
        """Train the layers after the frozen ones on activations of a drawn view of each image."""
        settings, labels = self.settings, self.labels
        train = labels.rows("train")
        frozen, rest = network_split.split(
            [*net.extractors.values()], self._layers(), net.classifier, settings.precision
        )
        cached = self._activations(frozen)
        budget = environment.memory_bytes() // len(cached)
        drawn_from = [array_views.in_memory_if_small(view, train, budget) for view in cached]

        def draw() -> Iterator[loop.Batch]:
            choice = rng.integers(len(cached), size=len(self.images))
            drawn = array_views.OneOfEach(drawn_from, choice)
            size = settings.batch_size
            for rows, batch in array_views.shuffled(drawn, train, size, rng, BUFFER_BYTES):
                yield batch, labels.label[rows]

        def views(rows: Rows) -> list[Iterator[NDArray[Any]]]:
            predicted = cached[: self.params.predict.views]
            return [view.batches(settings.batch_size, rows) for view in predicted]

        return Learner(rest, draw, self._predict(rest, views))

    def _predict(
        self, model: keras.Model, views: Callable[[Rows], list[Iterator[NDArray[Any]]]]
    ) -> Callable[[Rows], Iterator[head.FloatArray]]:
        """Return the function that averages the predictions of a model over batches of views."""
        count, logits = self.params.predict.views, self._padded(model)

        def predict(rows: Rows) -> Iterator[head.FloatArray]:
            batches = (np.stack(batch, axis=1) for batch in zip(*views(rows), strict=True))
            return head.predictions(batches, count, logits)

        return predict

    def _activations(self, frozen: list[keras.Model]) -> list[arrays.Readable]:
        """Return the frozen parts' outputs (n, d) per view; of `train` alone if not predicted."""
        functions = [self._padded(part) for part in frozen]

        def compute(view: int, rows: Rows) -> Iterator[NDArray[np.float32]]:
            for seen in self._view(view, rows):
                yield np.concatenate([function(seen) for function in functions], axis=-1)

        every, train = np.arange(len(self.images)), self.labels.rows("train")
        names = ("backbones", "augment", "compute", "precision", "batch_size")
        return frozen_activations.cached(
            paths.FROZEN_ACTIVATIONS,
            self._key("activations", names, {}),
            [
                every if view < self.params.predict.views else train
                for view in range(self.params.extract.views)
            ],
            compute,
            sum(part.output_shape[-1] for part in frozen),
            self.images.fingerprint,
            environment.disk_bytes(),
        )

    def _view(self, view: int, rows: Rows) -> Iterator[Pixels]:
        """Yield batches (k, size, size, 3) of a view of the listed rows."""
        done = 0
        for batch in self.images.batches(self.settings.batch_size, rows):
            digests = self.images.digests[rows[done : done + len(batch)]]
            done += len(batch)
            yield from_params.view(self.params, batch, [one.tobytes() for one in digests], view)

    def _padded(self, model: keras.Model) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        size = self.settings.batch_size
        return lambda batch: keras_setup.run_padded(model.predict_on_batch, batch, size)

    def _layers(self) -> list[str | None]:
        """Return the first layer of each backbone that is trained, None for a frozen one."""
        return [backbone.unfreeze_from for backbone in self.params.backbones.values()]

    def _checkpoint_name(self) -> str:
        weights = (*self.trained.kernels, *self.trained.biases)
        return self._key(
            "checkpoint",
            config.settings(self.params)["fine_tune"].keys(),
            {
                "labels": arrays.digest(self.labels.label).hex(),
                "subsets": arrays.digest(self.labels.subset.view(np.uint8)).hex(),
                "head": [arrays.digest(array).hex() for array in weights],
            },
        )

    def _key(self, prefix: str, names: Iterable[str], more: Mapping[str, object]) -> str:
        """Return a name that changes with these settings and all inputs of the networks."""
        settings = config.settings(self.params)["fine_tune"]
        weights = {name: atomic_files.sha256(paths.weights(name)) for name in self.params.backbones}
        return cache_key.of(
            "fine_tune",
            {
                **{name: settings[name] for name in names},
                "weights": weights,
                "processors": processors() if self.params.compute.threads is None else None,
                "images": [self.images.fingerprint, arrays.digest(self.images.digests).hex()],
                **more,
            },
            prefix,
        )
