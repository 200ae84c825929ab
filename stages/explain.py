"""Stage `explain`: pictures of what the final model does, where it fails, and what it looks at.

Reads the ledger_at, pixels, weights, both models, the metrics, which tell the chosen one, and the
audit's tables. Two backbones side by side have weights each; the same file named twice counts once.
Writes PNG files, and `explain.json`, which tells what each of them shows.
"""

import difflib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import keras_setup
from pipeline.evaluation import selected_model
from pipeline.evaluation.probabilities import Floats
from pipeline.explanation import galleries
from pipeline.reporting import heatmaps as pictures
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.runtime.progress import progress
from pipeline.schema import Explain
from pipeline.stage import stage
from pipeline.storage import arrays, ledger, tables
from pipeline.training import network

FILTER_SIZE = 96  # pixels
CHANNELS = 32  # of a layer that are shown at most


@stage
def main() -> None:
    """Choose images, write them, and what the network sees in them."""
    params = config.read()
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    labels, fingerprint = ledger.labels(rows), ledger.fingerprint(rows)
    accepted = [row for row in rows if row.accepted]
    images = arrays.Rows(atomic_files.require(paths.RESIZED, "resize"), fingerprint)
    model, predicted = selected_model.read(fingerprint)

    of_model = list(
        galleries.of_model(predicted, labels, params.explain.examples, params.explain.seed)
    )
    of_audit = list(
        galleries.of_audit(
            atomic_files.require(paths.AUDIT, "audit"), accepted, params.explain.examples
        )
    )
    subject = galleries.subject(params.explain.image, accepted, of_model)
    mapped = sorted({row for gallery in of_model for row in gallery.rows})
    plain = sorted({row for gallery in of_audit for row in gallery.rows} | {subject} - {*mapped})
    keras_setup.start(**{**params.compute.model_dump(), "devices": 1})
    net = network.load(params, images.shape[1], len(labels.classes), model.name)
    layers = _layers(net, params.explain.layers)
    with atomic_files.replacing(paths.EXPLAIN) as partial:
        partial.mkdir()
        for name in ("images", "heatmaps", "activations", "filters"):
            (partial / name).mkdir()
        shown = np.array(sorted({*mapped, *plain}), dtype=np.int64)
        for row, pixels in zip(shown.tolist(), images.take(shown), strict=True):
            pictures.write_image(partial / galleries.picture("images", row), pixels)
        _write_heatmaps(partial, net, images, np.array(mapped, np.int64), predicted)
        tables.write_json(
            partial / "explain.json",
            {
                "model": model.name,
                "size": images.shape[1],
                "galleries": [
                    *(
                        galleries.described(gallery, accepted, predicted, labels.classes, {*mapped})
                        for gallery in (*of_model, *of_audit)
                    ),
                    galleries.rejected(rows, params.explain.examples),
                ],
                "activations": {
                    "member": accepted[subject].member,
                    "label": accepted[subject].label,
                    "picture": galleries.picture("images", subject),
                    "layers": _write_activations(
                        partial, net, images.take(np.array([subject]))[0], layers
                    ),
                },
                "filters": _write_filters(partial, net, params.explain, layers),
            },
        )
    count = len(of_model) + len(of_audit)
    print(f"explain: {len(shown)} images in {count} galleries, by {model.name}")


def _write_heatmaps(
    out: Path,
    net: network.Network,
    images: arrays.Rows,
    rows: NDArray[np.int64],
    predicted: Floats,
) -> None:
    """Where each image shows the class that is said; of two backbones the mean of both."""
    from pipeline.explanation import grad_cam

    pixels = images.take(rows)
    said = predicted[rows].argmax(axis=1)
    found = grad_cam.heatmaps(list(net.extractors.values()), net.classifier)(pixels, said)
    for number, (row, image) in enumerate(zip(rows.tolist(), pixels, strict=True)):
        laid = pictures.overlay(image, *(maps[number] for maps in found))
        pictures.write_image(out / galleries.picture("heatmaps", row), laid)


def _layers(net: network.Network, wanted: int | list[str]) -> dict[str, list[str]]:
    """The layers to show of each backbone: so many, or those of the named ones that it has.

    Raises:
        UserError: a layer that no backbone has, or whose output has no height and width.
    """
    from pipeline.backbones import intermediate

    if isinstance(wanted, int):
        return {
            name: intermediate.spread_layers(extractor, wanted)
            for name, extractor in net.extractors.items()
        }
    known = {
        name: intermediate.spatial_layers(extractor) for name, extractor in net.extractors.items()
    }
    every = list(dict.fromkeys(layer for layers in known.values() for layer in layers))
    for layer in wanted:
        if layer not in every:
            near = difflib.get_close_matches(layer, every, n=3, cutoff=0)
            raise UserError(
                "params.yaml: explain.layers: expected names of layers whose output has height and "
                f"width, got {layer!r}; the nearest are {', '.join(near)}"
            )
    return {name: [one for one in wanted if one in layers] for name, layers in known.items()}


def _write_activations(
    out: Path, net: network.Network, image: NDArray[np.uint8], layers_of: dict[str, list[str]]
) -> list[dict[str, Any]]:
    from pipeline.explanation import activations

    told = []
    for name, extractor in net.extractors.items():
        layers = layers_of[name]
        if not layers:
            continue
        for number, (layer, seen) in enumerate(
            zip(layers, activations.activations(extractor, image, layers), strict=True), start=1
        ):
            picture = f"activations/{name}_{number}.png"
            title = f"{name}, {layer}: {' x '.join(map(str, seen.shape))}"
            pictures.activation_grid(out / picture, seen, title, CHANNELS)
            told.append(
                {"backbone": name, "layer": layer, "picture": picture, "shape": list(seen.shape)}
            )
    return told


def _write_filters(
    out: Path,
    net: network.Network,
    section: Explain,
    layers_of: dict[str, list[str]],
) -> list[dict[str, Any]]:
    from pipeline.backbones import intermediate
    from pipeline.explanation import activations

    told: list[dict[str, Any]] = []
    if section.filters == 0:
        return told
    layers = [(name, layer) for name, of_one in layers_of.items() for layer in of_one]
    with progress("filters", len(layers) * section.filters) as bar:
        for number, (name, layer) in enumerate(layers, start=1):
            extractor = net.extractors[name]
            channels = intermediate.channels(extractor, layer)
            which = np.unique(np.linspace(0, channels - 1, section.filters).round().astype(int))
            found = activations.filters(
                extractor, layer, which.tolist(), FILTER_SIZE, seed=section.seed
            )
            picture = f"filters/{number}.png"
            pictures.grid(out / picture, found, which.tolist(), f"{name}, {layer}")
            told.append({"backbone": name, "layer": layer, "picture": picture})
            bar.update(len(which))
    return told


if __name__ == "__main__":
    sys.exit(main())
