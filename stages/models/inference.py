"""Running a model over images or features."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray


def predict(
    model: keras.Model, batches: Iterable[NDArray[Any]], size: int
) -> Iterator[NDArray[np.float32]]:
    """Run `model` over batches of at most `size` rows; yield the outputs of each.

    A smaller batch is padded to `size`, so that no row depends on how many stand beside it.
    """
    for batch in batches:
        rows = len(batch)
        if rows < size:
            padding = np.zeros((size - rows, *batch.shape[1:]), dtype=batch.dtype)
            batch = np.concatenate([batch, padding])
        yield np.asarray(model.predict_on_batch(batch))[:rows]
