"""Run a model on batches of one fixed size."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def run_padded(
    function: Callable[[NDArray[Any]], Any], batch: NDArray[Any], size: int
) -> NDArray[np.float32]:
    """Return the outputs of a batch of at most `size` rows, padded to `size` with zeros.

    Thus no row depends on how many others are in its batch.
    """
    rows = len(batch)
    if rows < size:
        padding = np.zeros((size - rows, *batch.shape[1:]), dtype=batch.dtype)
        batch = np.concatenate([batch, padding])
    return np.asarray(function(batch))[:rows]
