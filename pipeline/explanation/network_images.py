"""Write images of what a network sees: heatmaps, activations of layers, filters.

A network of several backbones gives images of each. `keras_setup.start` comes before the import.
Descriptions are ready for `explain.json`: paths are relative to the folder `out`.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backbones import intermediate
from pipeline.evaluation.probabilities import Floats, Ints
from pipeline.explanation import activations, galleries, grad_cam
from pipeline.reporting import heatmaps
from pipeline.runtime.errors import UserError, nearest
from pipeline.runtime.progress import progress
from pipeline.storage import arrays
from pipeline.training import network

FILTER_SIZE = 96  # pixels


def write_heatmaps(
    out: Path, net: network.Network, images: arrays.StoredArray, rows: Ints, predicted: Floats
) -> None:
    """Write the heatmap of each image's predicted class, the mean over all backbones."""
    pixels, classes = images.take(rows), predicted[rows].argmax(axis=1)
    maps_of = grad_cam.heatmaps(list(net.extractors.values()), net.classifier)(pixels, classes)
    for row, image, *maps in zip(rows.tolist(), pixels, *maps_of, strict=True):
        path = out / galleries.picture("heatmaps", row)
        heatmaps.write_image(path, heatmaps.overlay(image, *maps))


def layers(net: network.Network, selected: int | list[str]) -> dict[str, list[str]]:
    """Return the layers to show by backbone: a number of them, or the named ones that it has.

    A name that no backbone has, or whose output has no height and width, is a UserError.
    """
    if isinstance(selected, int):
        return {
            name: intermediate.spread_layers(extractor, selected)
            for name, extractor in net.extractors.items()
        }
    spatial = {name: intermediate.spatial_layers(one) for name, one in net.extractors.items()}
    possible = list(dict.fromkeys(layer for names in spatial.values() for layer in names))
    for layer in selected:
        if layer not in possible:
            raise UserError(
                "params.yaml: explain.layers: expected names of layers whose output has height and "
                f"width, got {layer!r}; the nearest are {nearest(layer, possible)}"
            )
    return {name: [one for one in selected if one in names] for name, names in spatial.items()}


def write_activations(
    out: Path, net: network.Network, image: NDArray[np.uint8], layers_of: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """Write one grid per layer of its outputs for an image; return their descriptions."""
    described = []
    for name, names in layers_of.items():
        outputs = activations.activations(net.extractors[name], image, names) if names else []
        for number, (layer, output) in enumerate(zip(names, outputs, strict=True), start=1):
            picture, shape = f"activations/{name}_{number}.png", list(output.shape)
            title = f"{name}, {layer}: {' x '.join(map(str, shape))}"
            heatmaps.activation_grid(out / picture, output, title)
            about = {"backbone": name, "layer": layer, "picture": picture, "shape": shape}
            described.append(about)
    return described


def write_filters(
    out: Path, net: network.Network, count: int, seed: int, layers_of: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """Write one grid per layer of `count` of its filters; return their descriptions."""
    pairs = [(name, layer) for name, names in layers_of.items() for layer in names if count]
    described = []
    with progress("filters", len(pairs) * count) as bar:
        for number, (name, layer) in enumerate(pairs, start=1):
            extractor = net.extractors[name]
            channels = intermediate.channels(extractor, layer)
            numbers = np.unique(np.linspace(0, channels - 1, count).round().astype(int)).tolist()
            tiles = activations.filters(extractor, layer, numbers, FILTER_SIZE, seed=seed)
            picture = f"filters/{number}.png"
            heatmaps.grid(out / picture, tiles, numbers, f"{name}, {layer}")
            described.append({"backbone": name, "layer": layer, "picture": picture})
            bar.update(len(numbers))
    return described
