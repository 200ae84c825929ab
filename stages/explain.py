"""Stage `explain`: show images that the final model gets right and wrong, and what it looks at.

Reads the ledger, pixels, weights, both models, the metrics of `evaluate`, which name the selected
one, and the tables of `audit`. Writes PNG files, and `explain.json`, which describes them.
"""

import sys

import numpy as np

from pipeline import config, paths
from pipeline.backbones import keras_setup
from pipeline.evaluation import selected_model
from pipeline.explanation import galleries
from pipeline.reporting import heatmaps
from pipeline.runtime import atomic_files
from pipeline.stage import stage
from pipeline.storage import arrays, ledger, tables
from pipeline.training import network


@stage
def main() -> None:
    """Choose images, and write them with heatmaps, activations and filters."""
    params = config.read()
    options = params.explain
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    labels, fingerprint = ledger.labels(rows), ledger.fingerprint(rows)
    accepted = rows.accepted()
    images = arrays.StoredArray(atomic_files.require(paths.RESIZED, "resize"), fingerprint)
    model, predicted = selected_model.read(fingerprint)

    audit = atomic_files.require(paths.AUDIT, "audit")
    of_model = list(galleries.of_model(predicted, labels, options.examples, options.seed))
    of_audit = list(galleries.of_audit(audit, accepted, options.examples))
    subject = galleries.subject(options.image, accepted, of_model)
    mapped = {row for gallery in of_model for row in gallery.rows}  # with a heatmap
    drawn = mapped | {row for gallery in of_audit for row in gallery.rows} | {subject}

    keras_setup.start(**params.compute.model_dump())
    from pipeline.explanation import network_images

    net = network.load(params, images.shape[1], len(labels.classes), model.name)
    layers = network_images.layers(net, options.layers)
    with atomic_files.replacing(paths.EXPLAIN) as partial:
        for name in ("images", "heatmaps", "activations", "filters"):
            (partial / name).mkdir(parents=True)
        shown = np.array(sorted(drawn))
        for row, pixels in zip(shown.tolist(), images.take(shown), strict=True):
            heatmaps.write_image(partial / galleries.picture("images", row), pixels)
        without_maps = network.without_maps(params, net)
        if without_maps:
            print(f"explain: no heatmaps, as {', '.join(without_maps)} has no feature maps")
            mapped = set()
        else:
            network_images.write_heatmaps(partial, net, images, np.array(sorted(mapped)), predicted)
        image = images.take(np.array([subject]))[0]
        filters = options.filters, options.seed, layers
        described = [
            galleries.described(gallery, accepted, predicted, labels.classes, mapped)
            for gallery in (*of_model, *of_audit)
        ]
        content = {
            "model": model.name,
            "size": images.shape[1],
            "without_maps": without_maps,
            "galleries": [*described, galleries.rejected(rows, options.examples)],
            "activations": {
                "member": accepted[subject].member,
                "label": accepted[subject].label,
                "picture": galleries.picture("images", subject),
                "layers": network_images.write_activations(partial, net, image, layers),
            },
            "filters": network_images.write_filters(partial, net, *filters),
        }
        tables.write_json(partial / "explain.json", content)
    count = len(of_model) + len(of_audit)
    print(f"explain: {len(drawn)} images in {count} galleries, by {model.name}")


if __name__ == "__main__":
    sys.exit(main())
