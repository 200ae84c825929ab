"""Loss and accuracy of every epoch, as training writes them. No Keras."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.storage import tables

DECIMALS = 6  # of losses and accuracies that are written


@dataclass(frozen=True, slots=True)
class Epoch:
    """Mean losses in nats and accuracies of one epoch; those of `train` during learning.

    Class weights apply to those of `train`.
    """

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


COLUMNS = tuple(field.name for field in fields(Epoch))


def best_epoch(history: Iterable[Epoch]) -> Epoch:
    """Return the first epoch with the lowest validation loss."""
    return min(history, key=lambda epoch: epoch.val_loss)


def rounded(epoch: Epoch) -> dict[str, Any]:
    """Return the values of an epoch by column, rounded to `DECIMALS`."""
    return {name: round(value, DECIMALS) for name, value in asdict(epoch).items()}


def write(path: Path, history: Sequence[Epoch]) -> None:
    """Write one line per epoch below the header `COLUMNS`."""
    tables.write_csv(path, COLUMNS, (list(rounded(epoch).values()) for epoch in history))
