"""The final model of a run, loaded to classify images, and its backbone's ImageNet classifier.

Images are uint8 (n, size, size, 3), RGB, as `resize` makes them, seen in `predict.views` views. The
networks compute in float32, by OpenVINO or by the backend that `compute.backend` names.

Keras' own OpenVINO backend starts in half the time of TensorFlow, but runs at a third of the speed
of a network that OpenVINO converts from TensorFlow: so it serves few images.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import paths
from pipeline.backbones import keras_setup
from pipeline.commands.formatters import TOP, Named
from pipeline.evaluation import calibration, selected_model
from pipeline.evaluation.probabilities import mean_log_probability
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.schema import Params
from pipeline.storage import ledger
from pipeline.training import network

OPENVINO_BATCH = 8  # images per batch at which OpenVINO is fastest
FEW = 64  # up to so many images, a quick start counts more than speed

Images = NDArray[np.uint8]
Function = Callable[[NDArray[Any]], NDArray[np.float32]]


class Predictor:
    """The final model: `classes` in the order of the probabilities, and the `network`'s models."""

    def __init__(self, params: Params, total: int, engine: str) -> None:
        """Start Keras for `total` images; `engine` is "openvino" or "keras"."""
        self.params, self._engine = params, engine
        rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
        self.classes = ledger.labels(rows).classes
        selected = selected_model.selection()
        self._temperature = float(selected.temperature)
        network.weights(params)  # before Keras starts, which takes seconds
        largest = OPENVINO_BATCH if engine == "openvino" else params.extract.batch_size
        self.batch_size = min(largest, total * params.predict.views)
        settings = params.compute.model_dump()
        if engine == "openvino":
            settings["backend"] = "openvino" if total <= FEW else "tensorflow"
        keras_setup.start(**settings)
        size = params.resize.size
        self.network = network.load(params, size, len(self.classes), selected.name)
        self._logits = self._logits_function()

    def probability(self, images: Images) -> NDArray[np.float64]:
        """Return calibrated probabilities (n, n_classes)."""
        from pipeline.backbones import from_params

        count = self.params.predict.views
        digests = []
        if count > 2:  # only augmented views, drawn by hashes of the images, need zarr imported
            from pipeline.storage import arrays

            digests = [arrays.digest(image) for image in images]
        seen = [from_params.view(self.params, images, digests, view) for view in range(count)]
        logits = np.split(self._logits(np.concatenate(seen)), count)
        log_probability = mean_log_probability(logits)
        return np.exp(calibration.scaled(log_probability, self._temperature)).astype(np.float64)

    def function(self, model: Any) -> Function:
        """Return a Keras model of images as a function of any number of them."""
        size = self.batch_size
        run: Function = model.predict_on_batch
        if self._engine == "openvino":
            from pipeline.backbones import openvino

            threads = self.params.compute.threads
            try:
                run = openvino.compile_model(model, size, "float32", threads)
            except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
                raise UserError(
                    "predict --engine: expected a network that OpenVINO can run, got "
                    f"{' '.join(str(error).split())[:120]!r}; give `--engine keras`"
                ) from error

        def in_batches(images: NDArray[Any]) -> NDArray[np.float32]:
            batches = (images[start : start + size] for start in range(0, len(images), size))
            return np.concatenate([keras_setup.run_padded(run, batch, size) for batch in batches])

        return in_batches

    def _logits_function(self) -> Function:
        if self._engine == "openvino":  # which folds batch norms by itself
            return self.function(self.network.model)
        from pipeline.training import network_split

        extractors = list(self.network.extractors.values())
        folded, rest = network_split.split(
            extractors, [None] * len(extractors), self.network.classifier
        )
        parts, last = [self.function(part) for part in folded], self.function(rest)
        return lambda images: last(np.concatenate([part(images) for part in parts], axis=-1))


class ImageNet:
    """The first backbone's classifier of the 1,000 ImageNet classes."""

    def __init__(
        self, predictor: Predictor, weights_file: Path | None, class_index: Path | None
    ) -> None:
        """Load the classifier's weights, by default the run's own or Keras' download, and names."""
        from pipeline.backbones import build, weights

        params = predictor.params
        name, backbone = next(iter(params.backbones.items()))
        if name in build.BUILT_IN:
            raise UserError(
                f"predict --imagenet: expected a backbone that was trained on ImageNet, got "
                f"{name!r}, which has no classes of its own; leave --imagenet out"
            )
        if weights_file is not None and not weights_file.is_file():
            raise UserError(
                f"predict --imagenet-weights: expected a weights file, got nothing at "
                f"{str(weights_file)!r}; correct the path"
            )
        if weights_file is None and backbone.include_top:
            weights_file = paths.weights(name)
        base = build.network(name, params.resize.size, True, weights_file, logits=True)
        if weights_file is None:
            remedy = "connect once, or give `--imagenet-weights FILE`"
            published = weights.published(name, include_top=True)
            path = weights.fetch(published, "predict --imagenet", remedy)
            try:
                base.set_weights(build.network(name, None, True, path).get_weights())
            except ValueError:
                raise UserError(
                    f"predict --imagenet: expected images of the size that the classifier of "
                    f"{name} takes, got resize.size {base.input_shape[1]}; leave --imagenet out"
                ) from None
        self._probability = predictor.function(build.extractor(base, name, None, "predictions"))
        self._names = class_names(class_index)

    def top_classes(self, images: Images) -> list[list[Named]]:
        """Return the `TOP` classes of each image with their probabilities, highest first."""
        probability = self._probability(images)
        order = np.argsort(-probability, axis=1, kind="stable")[:, :TOP]
        return [
            [(self._names[i], float(row[i])) for i in best]
            for row, best in zip(probability, order, strict=True)
        ]


def class_names(path: Path | None) -> list[str]:
    """Read the names of the 1,000 ImageNet classes from a file, or from Keras' download."""
    if path is None:
        from pipeline.backbones import weights

        remedy = "connect once, or give `--imagenet-classes FILE`"
        path = weights.fetch(weights.class_index(), "predict --imagenet", remedy)
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        return [str(index[str(number)][1]) for number in range(1000)]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"predict --imagenet-classes: expected Keras' imagenet_class_index.json, got "
            f"{str(path)!r} ({error}); correct the path"
        ) from None
