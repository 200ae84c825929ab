"""Grad-CAM: where an image shows evidence for a class.

R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization" (2017). A^k is channel k of the last convolution's output, y the logit of the class,
Z the number of pixels of A^k:

    alpha_k = 1 / Z * sum over pixels of dy / dA^k      (equation 1)
    map = relu(sum over k of alpha_k * A^k)             (equation 2)

For two classes y is the logit minus the other one, since the first may be constant 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.training import gradients, network_split

FloatArray = NDArray[np.float32]
Heatmaps = Callable[[NDArray[np.uint8], NDArray[np.int64]], list[FloatArray]]
BATCH = 8  # images at a time


def heatmaps(extractors: Sequence[Any], classifier: Any) -> Heatmaps:
    """Return a function that computes one heatmap per image and extractor.

    `classifier` maps the joined features of the extractors to logits. The function takes images,
    uint8 (n, size, size, 3), n > 0, and the class to explain for each, int (n,). For each extractor
    it returns float32 (n, height, width) in the resolution of the last convolution, scaled to a
    maximum of 1 unless all values are 0.
    """
    before, after, shapes = network_split.split_at_last_convolutions(extractors, classifier)
    gradient = gradients.gradient(after, BATCH)
    ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    of_class = np.eye(after.output_shape[-1], dtype=np.float32)  # y as weights of the logits
    if len(of_class) == 2:
        of_class -= of_class[::-1]

    def compute(images: NDArray[np.uint8], label: NDArray[np.int64]) -> list[FloatArray]:
        batches = -(-len(images) // BATCH)
        padded = np.arange(batches * BATCH).clip(max=len(images) - 1)  # repeats the last image
        maps = []
        for rows in padded.reshape(batches, BATCH):
            values = before.predict_on_batch(images[rows])
            slopes = gradient(values, of_class[label[rows]])
            parts = zip(*(np.split(part, ends, axis=1) for part in (values, slopes)), strict=True)
            maps.append(
                [
                    _maps(value.reshape(-1, *shape), slope.reshape(-1, *shape))
                    for (value, slope), shape in zip(parts, shapes, strict=True)
                ]
            )
        return [np.concatenate(parts)[: len(images)] for parts in zip(*maps, strict=True)]

    return compute


def _maps(activations: FloatArray, slopes: FloatArray) -> FloatArray:
    """Equations 1 and 2 for arrays (n, height, width, channels), scaled to a maximum of 1."""
    alpha = slopes.mean(axis=(1, 2), keepdims=True)
    maps = np.maximum((alpha * activations).sum(axis=-1), 0)
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.asarray(maps / np.where(highest == 0, 1, highest), np.float32)
