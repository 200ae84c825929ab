"""The final model of a run, started to predict images: pixels in, calibrated probabilities out.

Pixels are uint8 (n, size, size, 3), RGB, as `resize` makes them. They are seen in `predict.views`
views; the network computes in float32, by OpenVINO or by the backend that `compute.backend` names.

Keras' own OpenVINO backend starts in half the time of TensorFlow, but what it makes of a network
runs at a third of the speed of what OpenVINO converts from TensorFlow: so it serves few images.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import config as parameters
from pipeline.backbones import keras_setup
from pipeline.evaluation import calibration, selected_model
from pipeline.evaluation.probabilities import mean_log_probability
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.storage import ledger, sealed_files
from pipeline.training import network

OPENVINO_BATCH = 8  # images at a time, with which it is fastest
FEW = 64  # images for which a quick start counts more than speed

Pixels = NDArray[np.uint8]
Function = Callable[[NDArray[Any]], NDArray[np.float32]]


class Final:
    """The final model.

    Attributes:
        classes: names, in the order of the probabilities.
        network: its Keras models.
        weights: the file of each backbone.
        batch_size: images that are computed at a time.
    """

    def __init__(self, params: parameters.Params, total: int, kind: str) -> None:
        """Start Keras, for `total` images; `kind` is "openvino" or "keras".

        Raises:
            UserError: a file is missing or does not fit, or a network that OpenVINO cannot run.
        """
        ledger_at = atomic_files.require(Path("data/split.csv"), "split")
        self.params, self.kind = params, kind
        told = selected_model.selection()
        self.temperature = float(told.temperature)
        self.classes = ledger.labels(ledger.read_ledger(ledger_at)).classes
        self.weights = {
            name: sealed_files.require_sealed(
                Path("data/weights", f"{name}.weights.h5"), f"fetch_weights@{name}"
            )
            for name in params.train_head.backbones
        }
        largest = OPENVINO_BATCH if kind == "openvino" else params.extract.batch_size
        self.batch_size = min(largest, total * params.predict.views)
        settings = params.compute.model_dump()
        if kind == "openvino":
            settings |= {"backend": "openvino" if total <= FEW else "tensorflow", "devices": 1}
        keras_setup.start(**settings)
        self.network = network.load(
            params,
            params.resize.size,
            self.weights,
            Path("data/head"),
            Path("data/model"),
            len(self.classes),
            told.name,
        )
        self._logits = self._function_to_logits()

    def probability(self, images: Pixels) -> NDArray[np.float64]:
        """Of each class, (n, n_classes)."""
        from pipeline.backbones import views

        ranges, count = self.params.extract.augment.model_dump(), self.params.predict.views
        seed = ranges.pop("seed")
        digests = _digests(images) if count > 2 else []
        seen = [
            views.make(images, digests, view, views.Ranges(**ranges), seed) for view in range(count)
        ]
        logits = np.split(self._logits(np.concatenate(seen)), count)
        log_probability = mean_log_probability(logits)
        return np.exp(calibration.scaled(log_probability, self.temperature)).astype(np.float64)

    def function(self, model: Any) -> Function:
        """A Keras model of images as a function of any number of them."""
        from pipeline.backbones import devices, inference

        run: Function = functools.partial(devices.predict_on_batch, model)
        if self.kind == "openvino":
            run = self._by_openvino(model)
        size = self.batch_size

        def in_batches(images: NDArray[Any]) -> NDArray[np.float32]:
            batches = (images[at : at + size] for at in range(0, len(images), size))
            return np.concatenate([inference.run_padded(run, batch, size) for batch in batches])

        return in_batches

    def _function_to_logits(self) -> Function:
        if self.kind == "openvino":  # which folds batch norms by itself
            return self.function(self.network.whole)
        from pipeline.training import network_split

        extractors = list(self.network.extractors.values())
        folded, rest = network_split.cut(
            extractors, [None] * len(extractors), self.network.classifier
        )
        parts, last = [self.function(part) for part in folded], self.function(rest)
        return lambda images: last(np.concatenate([part(images) for part in parts], axis=-1))

    def _by_openvino(self, model: Any) -> Function:
        from pipeline.backbones import openvino

        try:
            return openvino.compile_model(
                model, self.batch_size, "float32", self.params.compute.threads
            )
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                "predict --engine: expected a network that OpenVINO can run, got one that it "
                f"cannot ({' '.join(str(error).split())[:120]}); give `--engine keras`"
            ) from error


def _digests(images: Pixels) -> list[bytes]:
    """What augmented views are drawn by; only they wait for zarr to be imported."""
    from pipeline.storage import arrays

    return [arrays.digest(image) for image in images]
