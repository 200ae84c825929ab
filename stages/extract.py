"""Stage `extract`: the convolutional pass, one feature vector a view of an image.

Reads pixels and weights; writes features (n, views, d). Rows that the row cache holds are not
computed again. Both arrays may also lie in an object store, under URLs.
"""

import functools
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import keras_setup
from pipeline.runtime import atomic_files, environment, machine, parallel
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import processors
from pipeline.runtime.progress import progress
from pipeline.schema import Params
from pipeline.stage import stage
from pipeline.storage import arrays, cache_key, sealed_files
from pipeline.storage.row_cache import RowCache

SHARD_ROWS = 256  # the most that a killed run loses, and what a cluster's worker is given
SHARDS_AT_ONCE = 2  # one is read or written while the other computes

_computing = threading.Lock()


@stage
def main(backbone: str) -> None:
    """Run all images through the network, write what comes out."""
    cluster = environment.cluster()
    name, weights = backbone, paths.weights(backbone)
    params = config.read()
    config.require_backbone(params, name)
    images = arrays.Rows(atomic_files.require(paths.RESIZED, "resize"))
    sealed_files.require_sealed(weights, f"fetch_weights@{name}")
    if sentence := machine.hint(params.extract.precision):
        print(f"extract {name}: {sentence}")
    with atomic_files.replacing(paths.features(name), parallel.tag(cluster)) as partial:
        work = Extraction(
            name, paths.RESIZED.resolve(), weights.resolve(), partial.resolve(), params
        )
        views = params.extract.views
        parts = arrays.create(
            partial,
            shape=(len(images), views, parallel.ask(work, "width", cluster)),
            dtype=params.extract.dtype,
            fingerprint=images.fingerprint,
            shard_rows=SHARD_ROWS,
        )
        with progress(f"extract {name}", len(images) * views) as bar:
            done = list(
                parallel.run(
                    work, parts, threads=SHARDS_AT_ONCE, cluster=cluster, advance=bar.update
                )
            )
            bar.note = parallel.where_the_time_went(done)
    print(work.caches[0].summary(*work.caches[1:]))


class Extraction:
    """The work on a shard: look up its rows, compute those that lack, write all.

    What is opened or built for it is kept in its process, and not pickled.
    """

    def __init__(self, name: str, resized: Path, weights: Path, out: Path, params: Params) -> None:
        self.name, self.resized, self.weights, self.out = name, resized, weights, out
        self.params = params
        self.root = paths.ROW_CACHE.resolve()
        self.budget, self.started = environment.row_cache_bytes(), time.time()
        self.kinds = self._kinds()

    def __getstate__(self) -> dict[str, Any]:
        opened = ("images", "caches", "width", "_network")
        return {key: value for key, value in vars(self).items() if key not in opened}

    def __call__(self, part: range, advance: Callable[[int], None]) -> parallel.Done:
        done = parallel.Done(part)
        images, params = self.images, self.params
        keys = [digest.tobytes() for digest in images.digests[part.start : part.stop]]
        values = np.empty((len(part), params.extract.views, self.width), params.extract.dtype)
        for view, cache in enumerate(self.caches):
            with done.timed("read"):
                found = cache.get(keys, values[:, view])
            lacking = {key: place for place, key in enumerate(keys) if not found[place]}
            places = np.array(sorted(lacking.values()), dtype=np.int64)
            advance(len(keys) - len(places))
            at = 0
            batches = images.batches(params.extract.batch_size, places + part.start)
            for batch in parallel.timed(batches, done, "read"):
                chosen = places[at : at + len(batch)]
                at += len(batch)
                with _computing, done.timed("compute"):
                    values[chosen, view] = self._features(batch, [keys[i] for i in chosen], view)
                advance(len(batch))
            with done.timed("write"):
                cache.put([keys[i] for i in places], values[places, view])
            for place in np.flatnonzero(~found):  # the same image under several names
                values[place, view] = values[lacking[keys[place]], view]
            done.computed += len(places)
            done.found += len(keys) - len(places)
        with done.timed("write"):
            arrays.write_shard(self.out, part, values)
        return done

    @functools.cached_property
    def width(self) -> int:
        """How many features a view has; the network is built only if no cached row tells."""
        held = self.caches[0].row_type
        if held:
            return held[1][0]
        with _computing:
            return self._network[1]

    @functools.cached_property
    def images(self) -> arrays.Rows:
        return arrays.Rows(self.resized)

    @functools.cached_property
    def caches(self) -> list[RowCache]:
        """A row cache for each view."""
        wanted = [digest.tobytes() for digest in self.images.digests]
        return [RowCache(self.root, kind, wanted, self.budget, self.started) for kind in self.kinds]

    @functools.cached_property
    def _network(self) -> tuple[Callable[[NDArray[Any]], Any], int]:
        """A function from a batch of images to features, and how many these are."""
        cache_key.require_same(self.kinds, self._kinds())
        params = self.params
        keras_setup.start(**params.compute.model_dump())
        from pipeline.backbones import batch_norm_folding, build, devices

        wanted, openvino = params.backbones[self.name], params.extract.engine == "openvino"
        precision = "float32" if openvino else params.extract.precision
        with devices.scope():
            base = build.network(
                self.name,
                self.images.shape[1],
                wanted.include_top,
                self.weights,
                logits=wanted.pooling in build.PREDICTIONS,
            )
            model = build.extractor(
                base,
                self.name,
                wanted.layer,
                wanted.pooling,
                lambda trunk: batch_norm_folding.fold(trunk, precision),
                wanted.preprocessing,
            )
        width = int(model.output_shape[-1])
        if openvino:
            from pipeline.backbones import openvino as other

            threads, size = params.compute.threads, params.extract.batch_size
            return other.compile_model(model, size, params.extract.precision, threads), width
        return functools.partial(devices.predict_on_batch, model), width

    def _features(
        self, images: NDArray[np.uint8], keys: list[bytes], view: int
    ) -> NDArray[np.floating]:
        function, _ = self._network
        from pipeline.backbones import inference, views

        ranges, seed = self.params.extract.changes()
        seen = views.make(images, keys, view, views.Ranges(**ranges), seed)
        features = inference.run_padded(function, seen, self.params.extract.batch_size)
        return _stored(features, self.params.extract.dtype)

    def _kinds(self) -> list[str]:
        """The row cache's name of each view: all that its rows depend on but the image."""
        params = self.params
        settings = {
            "backbone": self.name,
            "network": params.backbones[self.name].network(),
            "weights": atomic_files.sha256(self.weights),
            "extract": params.extract.model_dump(exclude={"views", "augment"}),
            "compute": params.compute.model_dump(),
            "processors": processors() if params.compute.threads is None else None,
        }
        return [
            cache_key.of(
                "extract",
                {
                    **settings,
                    "view": view,
                    "augment": params.extract.changes() if view > 1 else None,
                },
            )
            for view in range(params.extract.views)
        ]


def _stored(features: NDArray[np.float32], dtype: str) -> NDArray[np.floating]:
    """Features as they are stored; none may be lost to the range of the type."""
    with np.errstate(over="ignore"):
        stored = features.astype(dtype)
    if not np.isfinite(stored).all():
        raise UserError(
            f"extract: expected features that fit into {dtype}, got values up to "
            f"{np.abs(features).max():g}; set extract.dtype: float32, or check the weights"
        )
    return stored


if __name__ == "__main__":
    from stages import extract  # by its name, under which a cluster's worker imports it, too

    sys.exit(extract.main())
