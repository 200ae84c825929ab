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
from stages.models import engine
from stages.progress import progress
from stages.scripts import stage
from stages.store import arrays, files


@stage
def main() -> None:
    """Build the network, run all images through it, write what comes out."""
    name = sys.argv[1]
    resized, weights, out = map(Path, sys.argv[2:])
    params = parameters.read()
    images = arrays.Rows(files.require(resized, "resize"))
    files.require(weights, f"fetch_weights@{name}")
    engine.start(params.compute.threads, params.compute.instruction_set)
    from stages.models import backbone, inference

    base = backbone.build(name, images.shape[1], params.fetch_weights[name].include_top, weights)
    model = backbone.extractor(base, name, params.extract.layer, params.extract.pooling)
    size = params.extract.batch_size
    with files.replacing(out) as partial, progress(f"extract {name}", len(images)) as bar:

        def features() -> Iterator[NDArray[np.float32]]:
            for batch in inference.predict(model, images.batches(size), size):
                yield batch[:, None]
                bar.update(len(batch))

        arrays.write(
            partial,
            features(),
            shape=(len(images), 1, model.output_shape[-1]),
            dtype=params.extract.dtype,
            fingerprint=images.fingerprint,
        )


if __name__ == "__main__":
    sys.exit(main())
