"""Extract one feature vector per view of each image, shard by shard, by Keras or OpenVINO.

Reads pixels, uint8 (n, size, size, 3), and weights or, for OpenVINO, the network that
`fetch_weights` made of them; writes features (n, views, d).
"""

import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import keras_setup, openvino
from pipeline.images import views
from pipeline.runtime import atomic_files, fingerprint, parallel
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import processors
from pipeline.schema import Params
from pipeline.storage import arrays, cache_key
from pipeline.storage.cached_shards import CachedShards
from pipeline.storage.keys import Keys

Start = Callable[[NDArray[np.uint8], bool], keras_setup.Wait]

_computing = threading.Lock()


class Extraction(CachedShards):
    """The work of stage `extract`; the row cache identifies an image by its pixels' sha256."""

    def __init__(self, backbone: str, out: Path, params: Params) -> None:
        self.backbone, self.params = backbone, params
        self.dtype = np.dtype(params.extract.dtype)
        self.by_openvino = params.extract.engine == "openvino"
        self.pixels = paths.RESIZED.absolute()
        self.weights = paths.weights(backbone).absolute()
        self.converted = paths.network(backbone).absolute()
        super().__init__(out)

    def cache_keys(self) -> list[str]:
        settings = config.settings(self.params)["extract"][self.backbone]
        count, augment = settings.pop("views"), settings.pop("augment")
        settings |= {
            "backbone": self.backbone,
            "weights": self.network.digest
            if self.by_openvino
            else atomic_files.sha256(self.weights),
            "processors": processors() if self.params.compute.threads is None else None,
        }
        libraries = fingerprint.extractor(settings["engine"], settings["compute"]["backend"])
        return [
            cache_key.of(
                "extract",
                {**settings, "view": view, "augment": augment if view > 1 else None},
                libraries=libraries,
            )
            for view in range(count)
        ]

    def compute(
        self, part: int, rows: NDArray[np.int64], done: parallel.Done
    ) -> Iterator[NDArray[Any]]:
        size = openvino.AT_ONCE if self.by_openvino else self.params.extract.batch_size

        mirror = part == views.MIRROR_IMAGE
        view = views.IMAGE if mirror else part

        def seen() -> Iterator[NDArray[np.uint8]]:
            at = 0
            for batch in parallel.timed(self.images.batches(size, rows), done, "read"):
                digests = [self.keys[row] for row in rows[at : at + len(batch)]]
                at += len(batch)
                with done.timed("read"):
                    images = views.view(self.params.extract, batch, digests, view)
                yield images

        def start(images: NDArray[np.uint8]) -> keras_setup.Wait:
            with _computing, done.timed("compute"):
                wait = self.start(images, mirror)
            return lambda: self._finished(wait, done)

        yield from keras_setup.in_flight(start, seen())

    @functools.cached_property
    def images(self) -> arrays.StoredArray:
        return arrays.StoredArray(self.pixels)

    @functools.cached_property
    def keys(self) -> Keys:  # type: ignore[override]
        return Keys(self.images.digests)

    @functools.cached_property
    def row_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.params.extract.views, self.width

    @functools.cached_property
    def width(self) -> int:
        """Number of features per view; Keras builds the network only if no cached row tells."""
        if self.by_openvino:
            return self.network.features
        if row_bytes := self.caches[0].row_bytes:
            return row_bytes // self.dtype.itemsize
        with _computing:
            return self._by_keras[1]

    @functools.cached_property
    def network(self) -> openvino.Network:
        return openvino.Network(self.converted)

    @functools.cached_property
    def start(self) -> Start:
        """A function that starts on images, mirrored or not; one thread may call it at a time."""
        if not self.by_openvino:
            return self._by_keras[0]
        threads, instruction_set = self.params.compute.threads, self.params.compute.instruction_set
        self.network.compile(self.params.extract.precision, threads, instruction_set)

        def start(images: NDArray[np.uint8], mirror: bool) -> keras_setup.Wait:
            features = self.network(images[:, :, ::-1] if mirror else images)
            return lambda: features

        return start

    @functools.cached_property
    def _by_keras(self) -> tuple[Start, int]:
        precision = self.params.extract.precision
        keras_setup.start(**self.params.compute.model_dump(), precision=precision)
        from pipeline.backbones import from_params

        return from_params.features_function(
            self.params, self.backbone, self.images.shape[1], self.weights
        )

    def _finished(self, wait: keras_setup.Wait, done: parallel.Done) -> NDArray[Any]:
        """Return features in the stored dtype; refuse values beyond its range."""
        with done.timed("compute"):
            features = wait()
        with np.errstate(over="ignore"):
            stored: NDArray[Any] = features.astype(self.dtype, copy=False)
        if not np.isfinite(stored).all():
            raise UserError(
                f"extract: expected features that fit into {self.dtype}, got values up to "
                f"{np.abs(features).max():g}; set extract.dtype: float32, or check the weights"
            )
        return stored
