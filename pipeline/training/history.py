"""What training writes down of every epoch. No Keras."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

DECIMALS = 6  # of losses and accuracies that are written out


@dataclass(frozen=True, slots=True)
class Epoch:
    """Mean losses in nats and accuracies of one epoch; those of `train` while it was learning.

    With class weights those of `train` are weighted by them.
    """

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


COLUMNS = tuple(field.name for field in fields(Epoch))


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The first epoch with the lowest validation loss."""
    return min(history, key=lambda epoch: epoch.val_loss)


def rounded(epoch: Epoch) -> dict[str, Any]:
    """One epoch by column, rounded to `DECIMALS`."""
    return {name: round(value, DECIMALS) for name, value in asdict(epoch).items()}


def lines(history: Sequence[Epoch]) -> Iterable[list[Any]]:
    """Of a table under `COLUMNS`, one an epoch."""
    return (list(rounded(epoch).values()) for epoch in history)
