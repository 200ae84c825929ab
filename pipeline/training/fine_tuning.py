"""Fine-tune backbones and head together, starting from the trained head.

Trains on augmented images, or on cached activations of the frozen layers; `keras_setup.start` comes
before the import. An interrupted run continues from its last complete epoch.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import build, keras_setup
from pipeline.evaluation.probabilities import mean_log_probability
from pipeline.images import views
from pipeline.runtime import atomic_files, environment, fingerprint, parallel
from pipeline.runtime.machine import processors
from pipeline.runtime.progress import progress
from pipeline.schema import NO_AUGMENT, FineTune, Params
from pipeline.storage import array_views, arrays, cache_key, frozen_activations, sealed_files
from pipeline.storage.ledger import Labels
from pipeline.training import augmentation, loop, network, network_split, optimization
from pipeline.training.history import Epoch

BUFFER_BYTES = 128 * 2**20  # of images that are shuffled together: 900 at 224 px
OF_ACTIVATIONS = ("backbones", "augment", "compute", "precision", "batch_size")  # settings

Rows = NDArray[np.int64]


def rates(extractors: Iterable[keras.Model], layer_rate: float) -> optimization.Rates:
    """Return the factors of the learning rate of all trained layers before the head.

    That of a layer is `layer_rate` times that of the trained layer after it: J. Howard and S.
    Ruder, "Universal Language Model Fine-tuning" (2018), section 3.2.
    """
    if layer_rate == 1:
        return optimization.NO_RATES
    factors: dict[int, float] = {}
    for extractor in extractors:
        layers = [one for one in build.trunk(extractor).layers if one.trainable_weights]
        for depth, layer in enumerate(reversed(layers), 1):
            factors |= {
                optimization.key_of(one): layer_rate**depth for one in layer.trainable_weights
            }
    return factors


class Learner(NamedTuple):
    """What is trained."""

    model: keras.Model  # from the inputs of a drawn epoch to logits
    inputs: Callable[[np.random.Generator], arrays.Readable]  # draws those of one epoch
    predictor: keras.Model  # with the weights of `model`, from `views` to logits
    views: Callable[[int, Rows], Iterator[NDArray[Any]]]  # batches of a view of the listed rows


@dataclass(frozen=True)
class FineTuning:
    """A run of fine-tuning."""

    params: Params
    settings: FineTune  # of `params`
    images: arrays.StoredArray  # uint8 (n, size, size, 3)
    labels: Labels

    def train(self, start: Epoch, out: Path) -> tuple[list[Epoch], str]:
        """Train, write weights and log-probabilities into `out`; return history and fault."""
        net, learning = self.learning()
        name = self._key("checkpoint", None, paths.LEDGER, paths.head_file())
        checkpoint = loop.Checkpoint(name, learning.rng)
        result = loop.fit(learning, start=start, checkpoint=checkpoint)
        net.model.save_weights(paths.model_weights(out))
        sealed_files.seal(paths.model_weights(out))
        with progress("predict", len(self.images)) as bar:
            arrays.write(
                paths.predictions(out),
                bar.over(learning.predict(np.arange(len(self.images)))),
                shape=(len(self.images), len(self.labels.classes)),
                dtype=np.float32,
                fingerprint=self.images.fingerprint,
            )
        return result

    def learning(self) -> tuple[network.Network, loop.Learning]:
        """Return the network, with the trained head, and what of it learns from what."""
        settings, labels, images = self.settings, self.labels, self.images
        keras.utils.set_random_seed(settings.seed)
        rng = np.random.default_rng(settings.seed)
        net = network.assemble(self.params, images.shape[1], len(labels.classes), settings)
        for name, extractor in net.extractors.items():
            if layer := self.params.backbones[name].unfreeze_from:
                build.unfreeze_from(extractor, layer)
            else:
                extractor.trainable = False
        learner = (self._from_activations if settings.cache_frozen else self._from_images)(net)

        def draw() -> Iterator[optimization.Batch]:
            inputs, size = learner.inputs(rng), settings.batch_size
            for rows, batch in array_views.shuffled(
                inputs, labels.rows("train"), size, rng, BUFFER_BYTES
            ):
                yield batch.astype(np.float32, copy=False), labels.label[rows]

        logits = keras_setup.starter(learner.predictor, settings.batch_size)

        def start_on(views: Sequence[NDArray[Any]]) -> keras_setup.Wait:
            waits = [logits(batch) for batch in views]
            return lambda: mean_log_probability([wait() for wait in waits])

        def predict(rows: Rows) -> Iterator[NDArray[np.float32]]:
            views = [learner.views(view, rows) for view in range(self.params.predict.views)]
            return keras_setup.in_flight(start_on, parallel.ahead(zip(*views, strict=True)))

        learning = loop.Learning(
            learner.model,
            settings,
            labels,
            "fine_tune",
            draw,
            predict,
            rng,
            rates(net.extractors.values(), settings.layer_rate or 1.0),
        )
        return net, learning

    def _from_images(self, net: network.Network) -> Learner:
        """Train the network on augmented images."""
        ranges = self.settings.augment or NO_AUGMENT
        changes = augmentation.augmentation(ranges, self.settings.seed)
        pixels = keras.Input(self.images.shape[1:], name="images")
        model = keras.Model(pixels, net.model(changes(pixels)), name="in_training")
        return Learner(model, lambda rng: self.images, net.model, self._view)

    def _from_activations(self, net: network.Network) -> Learner:
        """Train the layers after the frozen ones on activations of a drawn view of each image."""
        layers = [backbone.unfreeze_from for backbone in self.params.backbones.values()]
        frozen, rest = network_split.split(
            [*net.extractors.values()],
            layers,
            net.classifier,
            keras_setup.dtype(self.settings.precision),
        )
        start_on = keras_setup.starter(frozen, self.settings.batch_size)
        every, train = np.arange(len(self.images)), self.labels.rows("train")
        others = self.params.extract.views - self.params.predict.views  # views that do not predict
        cached = frozen_activations.cached(
            paths.FROZEN_ACTIVATIONS,
            self._key("activations", OF_ACTIVATIONS),
            [every] * self.params.predict.views + [train] * others,
            lambda view, rows: keras_setup.in_flight(
                start_on, parallel.ahead(self._view(view, rows))
            ),
            frozen.output_shape[-1],
            self.images.fingerprint,
            environment.disk_bytes(),
        )
        budget = environment.memory_bytes() // len(cached)
        drawn_from = [array_views.in_memory_if_small(view, train, budget) for view in cached]

        return Learner(
            rest,
            lambda rng: array_views.one_of_each(
                drawn_from, rng.integers(len(cached), size=len(self.images))
            ),
            rest,
            lambda view, rows: cached[view].batches(self.settings.batch_size, rows),
        )

    def _view(self, view: int, rows: Rows) -> Iterator[NDArray[np.uint8]]:
        """Yield batches (k, size, size, 3) of a view of the listed rows."""
        size = self.settings.batch_size
        firsts = range(0, len(rows), size)
        for first, batch in zip(firsts, self.images.batches(size, rows), strict=True):
            digests = [one.tobytes() for one in self.images.digests[rows[first : first + size]]]
            yield views.view(self.params.extract, batch, digests, view)

    def _key(self, prefix: str, names: Container[str] | None, *inputs: Path) -> str:
        """Return a name that changes with settings, images, weights and further inputs."""
        settings = config.settings(self.params)["fine_tune"].items()
        files = [*map(paths.weights, self.params.backbones), *inputs]
        return cache_key.of(
            "fine_tune",
            {
                "settings": {k: v for k, v in settings if names is None or k in names},
                "processors": processors() if self.params.compute.threads is None else None,
                "images": [self.images.fingerprint, arrays.digest(self.images.digests).hex()],
                "files": [atomic_files.sha256(path) for path in files],
            },
            prefix,
            fingerprint.chosen(self.params.compute.backend),
        )
