"""Stage `extract`: extract one feature vector per view of each image with one backbone.

Reads pixels and weights; writes features (n, views, d). Cached rows are not computed again.
"""

import sys

from pipeline import config, paths
from pipeline.backbones.extraction import Extraction
from pipeline.runtime import atomic_files, environment, machine, parallel
from pipeline.stage import stage
from pipeline.storage import arrays, cached_shards, sealed_files

SHARDS_AT_ONCE = 2  # one is read or written while the other computes


@stage
def main(backbone: str) -> None:
    """Run all images through the network, write the features."""
    cluster, params = environment.cluster(), config.read()
    config.require_backbone(params, backbone)
    images = arrays.StoredArray(atomic_files.require(paths.RESIZED, "resize"))
    sealed_files.require_sealed(paths.weights(backbone), f"fetch_weights@{backbone}")
    title = f"extract {backbone}"
    if sentence := machine.hint(params.extract.precision):
        print(f"{title}: {sentence}")
    with atomic_files.replacing(paths.features(backbone), parallel.tag(cluster)) as partial:
        work = Extraction(backbone, partial, params)
        shape = len(images), params.extract.views, parallel.ask(work, "width", cluster)
        order, at_once = images.fingerprint, SHARDS_AT_ONCE
        cached_shards.run(work, shape, order, title=title, threads=at_once, cluster=cluster)


if __name__ == "__main__":
    sys.exit(main())
