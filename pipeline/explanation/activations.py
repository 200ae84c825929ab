"""What the layers of a network respond to: their outputs, and images that excite their filters.

Extractors are Keras models made by `build.extractor`; layers are those of the trunk, by name.
Images are RGB, uint8, (size, size, 3).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backbones import intermediate
from pipeline.training import gradients

STEP_SIZE = 1.0  # root mean square of one step, in pixel values
TINY = 1e-30  # avoids division by 0; gradients themselves may be as small as 1e-8
CONTRAST = 0.15  # standard deviation of a finished image, where white is 1


def activations(
    extractor: Any, image: NDArray[np.uint8], layers: Sequence[str]
) -> list[NDArray[np.float32]]:
    """Return each layer's output for an image, float32 (height, width, channels)."""
    model = intermediate.outputs(extractor, layers, image.shape[0])
    outputs = model.predict_on_batch(image[None])
    outputs = outputs if isinstance(outputs, list) else [outputs]  # Keras unpacks a single output
    return [np.asarray(output, np.float32)[0] for output in outputs]


def filters(
    extractor: Any, layer: str, numbers: Sequence[int], size: int, *, steps: int = 40, seed: int = 0
) -> NDArray[np.uint8]:
    """Return one image per filter that excites it, uint8 (len(numbers), size, size, 3).

    F. Chollet, "Deep Learning with Python" (2017), section 5.4.2: starting from gray noise, the
    same for every filter, pixels follow the gradient of the filter's mean output, divided by its
    root mean square. The rim of the output is left out and contrast is raised at the end, as in his
    "Visualizing what convnets learn" on keras.io (2020).
    """
    noise = np.random.default_rng(seed).random((size, size, 3), np.float32) * 20 + 128
    images = np.repeat(noise[None], len(numbers), axis=0)
    means = intermediate.filter_means(extractor, layer, size)
    gradient = gradients.gradient(means, len(numbers))
    weights = np.eye(means.output_shape[-1], dtype=np.float32)[list(numbers)]
    for _ in range(steps):
        slopes = gradient(images, weights)
        root_mean_square = np.sqrt(np.square(slopes).mean(axis=(1, 2, 3), keepdims=True))
        images += STEP_SIZE * slopes / (root_mean_square + TINY)
    images -= images.mean(axis=(1, 2, 3), keepdims=True)
    images *= CONTRAST / (images.std(axis=(1, 2, 3), keepdims=True) + TINY)
    return np.asarray(np.rint((images + 0.5).clip(0, 1) * 255), np.uint8)
