"""Extract one feature vector per view of each image, shard by shard, by Keras or OpenVINO.

Reads pixels, uint8 (n, size, size, 3), and weights; writes features (n, views, d).
"""

import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import keras_setup
from pipeline.runtime import atomic_files, fingerprint, parallel
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import processors
from pipeline.schema import Params
from pipeline.storage import arrays, cache_key
from pipeline.storage.cached_shards import CachedShards

_computing = threading.Lock()


class Extraction(CachedShards):
    """The work of stage `extract`; the row cache identifies an image by its pixels' sha256."""

    def __init__(self, backbone: str, out: Path, params: Params) -> None:
        self.backbone, self.params = backbone, params
        self.dtype = np.dtype(params.extract.dtype)
        self.pixels, self.weights = paths.RESIZED.absolute(), paths.weights(backbone).absolute()
        super().__init__(out)

    def cache_keys(self) -> list[str]:
        settings = config.settings(self.params)["extract"][self.backbone]
        views, augment = settings.pop("views"), settings.pop("augment")
        settings |= {
            "backbone": self.backbone,
            "weights": atomic_files.sha256(self.weights),
            "processors": processors() if self.params.compute.threads is None else None,
        }
        libraries = fingerprint.chosen(settings["compute"]["backend"], settings["engine"])
        return [
            cache_key.of(
                "extract",
                {**settings, "view": view, "augment": augment if view > 1 else None},
                libraries=libraries,
            )
            for view in range(views)
        ]

    def compute(
        self, part: int, rows: NDArray[np.int64], done: parallel.Done
    ) -> Iterator[NDArray[Any]]:
        at = 0
        batches = self.images.batches(self.params.extract.batch_size, rows)
        for batch in parallel.timed(batches, done, "read"):
            digests = [self.keys[row] for row in rows[at : at + len(batch)]]
            at += len(batch)
            with _computing, done.timed("compute"):
                features = self._features(batch, digests, part)
            yield features

    @functools.cached_property
    def images(self) -> arrays.StoredArray:
        return arrays.StoredArray(self.pixels)

    @functools.cached_property
    def keys(self) -> list[bytes]:  # type: ignore[override]
        return [digest.tobytes() for digest in self.images.digests]

    @functools.cached_property
    def row_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.params.extract.views, self.width

    @functools.cached_property
    def width(self) -> int:
        """Number of features per view; the network is built only if no cached row tells."""
        if row_bytes := self.caches[0].row_bytes:
            return row_bytes // self.dtype.itemsize
        with _computing:
            return self._network[1]

    @functools.cached_property
    def _network(self) -> tuple[Callable[[NDArray[Any]], Any], int]:
        """A function from a batch of images to features, and the number of features."""
        options, compute = self.params.extract, self.params.compute
        keras_setup.start(**compute.model_dump())
        from pipeline.backbones import from_params, openvino

        by_openvino = options.engine == "openvino"
        model = from_params.extractor(
            self.params,
            self.backbone,
            self.images.shape[1],
            self.weights,
            fold_for="float32" if by_openvino else options.precision,
        )
        run, batch_size = model.predict_on_batch, options.batch_size
        if by_openvino:
            run = openvino.compile_model(model, batch_size, options.precision, compute.threads)
        return run, int(model.output_shape[-1])

    def _features(self, images: NDArray[np.uint8], digests: list[bytes], view: int) -> NDArray[Any]:
        """Return the features of a view in the stored dtype; refuse values beyond its range."""
        run, _ = self._network
        from pipeline.backbones import from_params

        seen = from_params.view(self.params, images, digests, view)
        features = keras_setup.run_padded(run, seen, self.params.extract.batch_size)
        with np.errstate(over="ignore"):
            stored: NDArray[Any] = features.astype(self.dtype)
        if not np.isfinite(stored).all():
            raise UserError(
                f"extract: expected features that fit into {self.dtype}, got values up to "
                f"{np.abs(features).max():g}; set extract.dtype: float32, or check the weights"
            )
        return stored
