"""Stage `extract`: extract one feature vector per view of each image with one backbone.

Reads pixels and weights, or for OpenVINO a converted network; writes features (n, views, d).
Cached rows are not computed again.
"""

import sys

from pipeline import config, paths
from pipeline.backbones.extraction import Extraction
from pipeline.runtime import atomic_files, environment, parallel
from pipeline.stage import stage
from pipeline.storage import arrays, cached_shards, sealed_files

SHARDS_AT_ONCE = 2  # one is read or written while the other computes


@stage
def main(backbone: str) -> None:
    """Run all images through the network, write the features."""
    cluster, params = environment.cluster(), config.read()
    config.require_backbone(params, backbone)
    images = arrays.StoredArray(atomic_files.require(paths.RESIZED, "resize"))
    if params.extract.engine == "keras":
        sealed_files.require_sealed(paths.weights(backbone), f"fetch_weights@{backbone}")
    with atomic_files.replacing(paths.features(backbone)) as partial:
        work = Extraction(backbone, partial, params)
        cached_shards.run(
            work,
            (len(images), params.extract.views, parallel.ask(work, "width", cluster)),
            images.fingerprint,
            title=f"extract {backbone}",
            threads=SHARDS_AT_ONCE,
            cluster=cluster,
        )


if __name__ == "__main__":
    sys.exit(main())
