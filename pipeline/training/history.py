"""Loss and accuracy of every epoch, as training writes them. No Keras."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.errors import UserError
from pipeline.storage import tables
from pipeline.storage.ledger import Labels
from pipeline.training.head import loss_and_accuracy

SMOOTHING = 0.9  # weight of the mean so far, of `averaged`
DECIMALS = 6  # of losses and accuracies that are written


@dataclass(frozen=True, slots=True)
class Epoch:
    """Mean losses in nats and accuracies; those of `train` during learning, with class weights."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


class DivergedError(UserError):
    """A loss that is not finite before there are weights to keep."""


OnEpoch = Callable[[Epoch], object]  # called after each epoch
COLUMNS = tuple(field.name for field in fields(Epoch))


def measured(
    epoch: int, labels: Labels, predict: Callable[[NDArray[np.int64]], Iterable[NDArray[Any]]]
) -> Epoch:
    """Return the metrics of a trained model; `predict` yields logits (k, n_classes) of k rows."""
    train, valid = (
        loss_and_accuracy(np.concatenate([*predict(rows)]), labels.label[rows])
        for rows in (labels.rows("train"), labels.rows("valid"))
    )
    return Epoch(epoch, *train, *valid)


def best_epoch(history: Iterable[Epoch]) -> Epoch:
    """Return the first epoch with the lowest validation loss."""
    return min(history, key=lambda epoch: epoch.val_loss)


def mean(histories: Sequence[Sequence[Epoch]]) -> list[Epoch]:
    """Return the mean of several histories; one that has ended counts with its best epoch."""
    found = []
    for at in range(max(map(len, histories))):
        shown = [one[at] if at < len(one) else best_epoch(one) for one in histories]
        number = max(epoch.epoch for epoch in shown)
        means = (float(np.mean([getattr(one, name) for one in shown])) for name in COLUMNS[1:])
        found.append(Epoch(number, *means))
    return found


def averaged(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the exponential moving average of values, corrected for its start at 0, (n,)."""
    mean, found = 0.0, []
    for number, value in enumerate(values, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        found.append(mean / (1 - SMOOTHING**number))
    return np.array(found)


def rounded(epoch: Epoch) -> dict[str, Any]:
    """Return the values of an epoch by column, rounded to `DECIMALS`."""
    return {name: round(value, DECIMALS) for name, value in asdict(epoch).items()}


def write(path: Path, history: Sequence[Epoch]) -> None:
    """Write one line per epoch below the header `COLUMNS`."""
    tables.write_csv(path, COLUMNS, (list(rounded(epoch).values()) for epoch in history))
