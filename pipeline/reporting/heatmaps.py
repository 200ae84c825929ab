"""Images of what a network sees: heatmaps over images, channels of layers, filters.

Images are uint8 RGB; files are PNG and repeat byte for byte. Color maps are matplotlib's "inferno"
and "viridis": perceptually uniform and colorblind-safe (S. van der Walt and N. Smith, "A Better
Default Colormap for Matplotlib", 2015).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from pipeline.reporting import plots

Pixels = NDArray[np.uint8]
OPACITY = 0.65  # of the color where a heatmap is 1
COLUMNS = 8  # tiles in a row of a grid
GAP = 0.08  # between tiles of a row, in tile widths
CAPTION = 0.22  # height of the number above a tile, in tile widths


def overlay(image: Pixels, *heatmaps: NDArray[Any]) -> Pixels:
    """Lay the mean of heatmaps (height, width), 0 to 1, over an image; 0 leaves it as it is."""
    size = (image.shape[1], image.shape[0])
    smooth = [
        Image.fromarray(heatmap.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        for heatmap in heatmaps
    ]
    value = np.mean([np.asarray(one) for one in smooth], axis=0).clip(0, 1)
    color = 255 * colormaps["inferno"](value)[..., :3]
    opacity = OPACITY * value[..., None]
    return np.asarray(np.rint(image * (1 - opacity) + color * opacity), np.uint8)


def write_image(path: Path, image: Pixels) -> None:
    """Write an image (height, width, 3) as PNG, whatever the path's extension."""
    Image.fromarray(image).save(path, format="PNG")


def activation_grid(path: Path, activations: NDArray[Any], title: str, most: int = 32) -> None:
    """Draw the `most` channels of a layer's output (height, width, channels) that vary most.

    Sorted by falling variance; each is scaled from its lowest value, dark, to its highest.
    """
    varying = np.argsort(-activations.var(axis=(0, 1)), kind="stable")[:most]
    values = np.moveaxis(activations[..., varying].astype(np.float64), -1, 0)
    lowest, span = (
        values.min(axis=(1, 2), keepdims=True),
        np.ptp(values, axis=(1, 2), keepdims=True),
    )
    scaled = (values - lowest) / np.where(span == 0, 1, span)
    tiles = np.rint(255 * colormaps["viridis"](scaled)[..., :3]).astype(np.uint8)
    grid(path, tiles, varying.tolist(), title)


def grid(path: Path, tiles: Pixels, numbers: Sequence[int], title: str) -> None:
    """Draw tiles (k, height, width, 3) in rows of `COLUMNS`, each below its number."""
    rows = -(-len(tiles) // COLUMNS)
    ratio = tiles.shape[1] / tiles.shape[2]
    width, height = COLUMNS * (1 + GAP) - GAP, rows * (ratio + CAPTION)
    style = {"axes.grid": False, "font.size": 7}
    with plots.saved(path, (width, height + 0.5), **style) as (_, axis):
        for place, (tile, number) in enumerate(zip(tiles, numbers, strict=True)):
            row, column = divmod(place, COLUMNS)
            left, top = column * (1 + GAP), row * (ratio + CAPTION) + CAPTION
            axis.imshow(tile, extent=(left, left + 1, top + ratio, top))
            axis.text(left, top - 0.04, str(number))
        axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
        axis.set_axis_off()
        axis.set_title(title, size=10, loc="left")
