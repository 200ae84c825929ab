"""Stage `extract`: the convolutional pass, one feature vector an image.

Reads pixels and weights; writes features (n, views, d), views being 1.
    python -m stages.extract NAME data/resized.zarr data/weights/NAME.weights.h5 \\
        data/features/NAME.zarr
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages import params as parameters
from stages.errors import UserError
from stages.models import engine
from stages.progress import progress
from stages.scripts import arguments, stage
from stages.store import arrays, files


@stage
def main() -> None:
    """Build the network, run all images through it, write what comes out."""
    name, *paths = arguments(__doc__, count=4)
    resized, weights, out = map(Path, paths)
    params = parameters.read()
    parameters.require_backbone(params, name)
    images = arrays.Rows(files.require(resized, "resize"))
    files.require(weights, f"fetch_weights@{name}")
    engine.start(**params.compute.model_dump())
    from stages.models import backbone, inference

    base = backbone.build(name, images.shape[1], params.fetch_weights[name].include_top, weights)
    model = backbone.extractor(base, name, params.extract.layer, params.extract.pooling)
    size = params.extract.batch_size
    with files.replacing(out) as partial, progress(f"extract {name}", len(images)) as bar:

        def features() -> Iterator[NDArray[np.float32]]:
            for batch in inference.predict(model, images.batches(size), size):
                yield _stored(batch, params.extract.dtype)[:, None]
                bar.update(len(batch))

        arrays.write(
            partial,
            features(),
            shape=(len(images), 1, model.output_shape[-1]),
            dtype=params.extract.dtype,
            fingerprint=images.fingerprint,
        )


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
    sys.exit(main())
