"""Running a model over images or features."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

Function = Callable[[NDArray[Any]], Any]


def padded(function: Function, batch: NDArray[Any], size: int) -> NDArray[np.float32]:
    """Call `function` on a batch of at most `size` rows; give back the outputs of those rows.

    A smaller batch is padded to `size`, so that no row depends on how many stand beside it.
    """
    rows = len(batch)
    if rows < size:
        padding = np.zeros((size - rows, *batch.shape[1:]), dtype=batch.dtype)
        batch = np.concatenate([batch, padding])
    return np.asarray(function(batch))[:rows]


def predict(
    model: keras.Model, batches: Iterable[NDArray[Any]], size: int
) -> Iterator[NDArray[np.float32]]:
    """Run `model` over batches of at most `size` rows; yield the outputs of each."""
    for batch in batches:
        yield padded(model.predict_on_batch, batch, size)
