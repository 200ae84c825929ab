"""Figures as PNG files that repeat byte for byte, in colours that the colour-blind tell apart.

Colours: M. Okabe and K. Ito, "Color Universal Design" (2008).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLE = {
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "stages",
}


def learning_curves(path: Path, histories: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Loss and accuracy by epoch.

    Args:
        histories: for each model, columns epoch, loss, val_loss, accuracy, val_accuracy.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.6))
        axes = figure.subplots(1, 2)
        for axis, (key, title) in zip(
            axes, (("loss", "log loss (nats)"), ("accuracy", "accuracy")), strict=True
        ):
            for colour, (name, history) in zip(COLOURS, histories.items(), strict=False):
                marker = "o" if len(history["epoch"]) < 3 else ""
                axis.plot(
                    history["epoch"],
                    history[key],
                    color=colour,
                    linestyle=":",
                    marker=marker,
                    label=f"{name}, train",
                )
                axis.plot(
                    history["epoch"],
                    history[f"val_{key}"],
                    color=colour,
                    marker=marker,
                    label=f"{name}, valid",
                )
            axis.set(xlabel="epoch", title=title)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylim(bottom=0)
        axes[1].legend(loc="lower right")
        _save(figure, path)


def roc(path: Path, curves: Mapping[str, tuple[NDArray[Any], NDArray[Any], str]]) -> None:
    """ROC curves: for each model (false positive rates, true positive rates, its legend)."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 4.2))
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color="#999999", linewidth=1, label="chance")
        for colour, (fpr, tpr, legend) in zip(COLOURS, curves.values(), strict=False):
            axis.plot(fpr, tpr, color=colour, label=legend)
        axis.set(
            xlabel="false positive rate",
            ylabel="true positive rate",
            xlim=(-0.01, 1),
            ylim=(0, 1.01),
            aspect="equal",
            title="ROC",
        )
        axis.legend(loc="lower right")
        _save(figure, path)


def confusion(path: Path, counts: NDArray[np.int64], classes: Sequence[str], title: str) -> None:
    """A confusion matrix: rows are true classes, columns predicted ones; shaded by row share."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(3.6, 0.55 * len(classes) + 1.6)
    with rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(side, side))
        axis = figure.subplots()
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*counts.shape):
            axis.text(
                column,
                row,
                f"{counts[row, column]:,}",
                ha="center",
                va="center",
                color="white" if share[row, column] > 0.5 else "black",
            )
        ticks = range(len(classes))
        axis.set_xticks(ticks, classes, rotation=45 if len(classes) > 4 else 0)
        axis.set_yticks(ticks, classes)
        axis.set(xlabel="predicted", ylabel="true", title=title)
        _save(figure, path)


def scores(
    path: Path, probability: NDArray[Any], label: NDArray[np.int64], names: Sequence[str], what: str
) -> None:
    """How the probability that a model gives the true class is spread, for each class.

    Args:
        probability: of the true class, float (n,).
        label: int (n,).
        names: of the classes.
    """
    bins = np.linspace(0, 1, 21).tolist()
    shown = names[: len(COLOURS)] if len(names) <= len(COLOURS) else ["all classes"]
    with rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.6))
        axis = figure.subplots()
        for index, name in enumerate(shown):
            part = probability[label == index] if len(shown) > 1 else probability
            axis.hist(part, bins, histtype="step", linewidth=1.6, color=COLOURS[index], label=name)
        axis.set_yscale("symlog", linthresh=1)
        axis.set(
            xlabel="probability given to the true class", ylabel="images", xlim=(0, 1), title=what
        )
        axis.legend(loc="upper left")
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})
