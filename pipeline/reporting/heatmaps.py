"""Pictures of what a network sees: maps laid over images, channels of layers, filters.

Images are uint8 RGB; files are PNG and repeat byte for byte. Colours
are those of matplotlib's "inferno" and "viridis", perceptually uniform, also for the colour-blind
(S. van der Walt and N. Smith, "A Better Default Colormap for Matplotlib", 2015).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pipeline.reporting import plots

Pixels = NDArray[np.uint8]
OPACITY = 0.65  # of the colour where a map is 1
COLUMNS = 8  # tiles beside each other in a grid
GAP = 0.08  # between tiles beside each other, in tiles
CAPTION = 0.22  # above a tile, in tiles


def overlay(image: Pixels, *heatmaps: NDArray[Any]) -> Pixels:
    """An image (size, size, 3) with the mean of maps (height, width) of 0 to 1 laid over it.

    The colour covers as much as the map is high, so that the image stays as it is where that is 0.
    """
    size = (image.shape[1], image.shape[0])
    smooth = [
        Image.fromarray(heatmap.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        for heatmap in heatmaps
    ]
    value = np.mean([np.asarray(one) for one in smooth], axis=0).clip(0, 1)
    colour = 255 * colormaps["inferno"](value)[..., :3]
    opacity = OPACITY * value[..., None]
    return np.asarray(np.rint(image * (1 - opacity) + colour * opacity), np.uint8)


def write_picture(path: Path, image: Pixels) -> None:
    """Write an image (height, width, 3) as a PNG."""
    Image.fromarray(image).save(path, format="PNG")


def activation_grid(path: Path, activations: NDArray[Any], title: str, most: int = 32) -> None:
    """The `most` channels of a layer's output (height, width, channels) that vary most.

    By falling variance, of equal ones the first; each from its lowest value, dark, to its highest.
    """
    varying = np.argsort(-activations.var(axis=(0, 1)), kind="stable")[:most]
    tiles = []
    for channel in varying:
        values = activations[..., channel].astype(np.float64)
        span = np.ptp(values) or 1
        tiles.append(np.rint(255 * colormaps["viridis"]((values - values.min()) / span)[..., :3]))
    _grid(path, np.asarray(tiles, np.uint8), varying.tolist(), title)


def filter_grid(path: Path, pictures: Pixels, numbers: Sequence[int], title: str) -> None:
    """The pictures (k, size, size, 3) that excite filters most, under the filters' numbers."""
    _grid(path, pictures, numbers, title)


def _grid(path: Path, tiles: Pixels, numbers: Sequence[int], title: str) -> None:
    """Tiles (k, height, width, 3) in rows of `COLUMNS`, each under its number."""
    rows = -(-len(tiles) // COLUMNS)
    ratio = tiles.shape[1] / tiles.shape[2]
    width, height = COLUMNS * (1 + GAP) - GAP, rows * (ratio + CAPTION)
    with rc_context({**plots.STYLE, "axes.grid": False, "font.size": 7}):
        figure = Figure(figsize=(width, height + 0.5))
        axis = figure.subplots()
        for place, (tile, number) in enumerate(zip(tiles, numbers, strict=True)):
            row, column = divmod(place, COLUMNS)
            left, top = column * (1 + GAP), row * (ratio + CAPTION) + CAPTION
            axis.imshow(tile, extent=(left, left + 1, top + ratio, top))
            axis.text(left, top - 0.04, str(number))
        axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
        axis.set_axis_off()
        axis.set_title(title, size=10, loc="left")
        plots.save(figure, path)
