"""Plots of two runs laid over each other, as SVG that repeats byte for byte.

A drawing brings its dark colours with it: a browser shows them where the reader's system is dark,
whatever else opens SVG shows the light ones. Letters are outlines, so no font is asked for.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.reporting import plots

INK, FAINT, GROUND = "#1b1f24", "#dfe2e6", "#ffffff"  # as in report.css
OLD, NEW = "#0072b2", "#d55e00"
DARK = {INK: "#e8ebee", FAINT: "#333b44", GROUND: "#1b2025", OLD: "#56b4e9", NEW: "#ff9d73"}
STYLE = plots.STYLE | {
    "svg.hashsalt": "stages",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.titlesize": 10,
    "figure.facecolor": GROUND,
    "axes.facecolor": "none",
    "grid.color": FAINT,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "axes.titlecolor"), INK),
}
CHANCE = "#8a8f98"  # seen on either ground

Column = Sequence[Any]
Sides = Mapping[str, Mapping[str, Column]]


class Kind(NamedTuple):
    """One kind of plot.

    Attributes:
        title, about: what it is, and how to read it.
        columns: that its csv needs, numbers but for the names of classes in `confusion`.
        draw: fills a figure with the sides' columns, by the sides' names, in their colours.
    """

    title: str
    about: str
    columns: tuple[str, ...]
    draw: Callable[[Any, Sides], None]


def svg(kind: Kind, sides: Sides) -> str:
    """The drawing of one or two sides, the older one first."""
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a name in a script without font
        figure = Figure(figsize=(4.2, 4.3))
        kind.draw(figure, sides)
        written = io.StringIO()
        kept = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(written, format="svg", metadata=kept)
    dark = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme:dark){{{dark}}}</style>"
    return written.getvalue().replace("</svg>", f"{style}</svg>")


def _by_epoch(figure: Any, sides: Sides, key: str) -> None:
    axis = figure.subplots()
    for side, colour in _coloured(sides):
        columns = sides[side]
        marker = "o" if len(columns["epoch"]) < 3 else ""
        for column, subset, line in ((key, "train", ":"), (f"val_{key}", "valid", "-")):
            axis.plot(
                columns["epoch"],
                columns[column],
                line,
                color=colour,
                marker=marker,
                markersize=4,
                markerfacecolor=GROUND if subset == "train" else colour,
                linewidth=1.6,
                label=f"{side}, {subset}",
            )
    axis.set(xlabel="epoch", ylabel=key)
    axis.xaxis.get_major_locator().set_params(integer=True)
    _legend(figure, axis, columns=2)


def _loss(figure: Any, sides: Sides) -> None:
    _by_epoch(figure, sides, "loss")
    (axis,) = figure.axes
    axis.set(ylim=(0, 1.05 * axis.dataLim.y1 or 1), ylabel="log loss (nats)")


def _accuracy(figure: Any, sides: Sides) -> None:
    _by_epoch(figure, sides, "accuracy")


def _roc(figure: Any, sides: Sides) -> None:
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=CHANCE, linewidth=1, label="chance")
    _curves(axis, sides, "fpr", "tpr")
    axis.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    _unit_square(axis)
    _legend(figure, axis, columns=3)


def _precision_recall(figure: Any, sides: Sides) -> None:
    axis = figure.subplots()
    _curves(axis, sides, "recall", "precision", drawstyle="steps-pre")
    axis.set(xlabel="recall", ylabel="precision")
    _unit_square(axis)
    _legend(figure, axis, columns=2)


def _reliability(figure: Any, sides: Sides) -> None:
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=CHANCE, linewidth=1, label="as sure as it is right")
    _curves(axis, sides, "confidence", "accuracy", marker="o", markersize=4)
    axis.set(
        xlabel="probability of the class that is said",
        ylabel="share of these images that are of it",
        aspect="equal",
    )
    _unit_square(axis)
    _legend(figure, axis, columns=3)


def _thresholds(figure: Any, sides: Sides) -> None:
    axis = figure.subplots()
    _curves(axis, sides, "threshold", "accuracy", drawstyle="steps-post")
    highest = max((max(columns["accuracy"], default=1) for columns in sides.values()), default=1)
    axis.set(
        xlabel="probability from which on it is the second class",
        ylabel="accuracy",
        xlim=(-0.01, 1.01),
        ylim=(min(0.9, highest - 0.1), min(1.005, highest + 0.02)),
    )
    _legend(figure, axis, columns=2)


def _confusion(figure: Any, sides: Sides) -> None:
    """The newer side's counts, and below each of them by how much it has changed."""
    pairs = [list(zip(one["actual"], one["predicted"], strict=True)) for one in sides.values()]
    names = list(dict.fromkeys(name for found in zip(*pairs[-1], strict=True) for name in found))
    names += sorted({name for found in pairs[0] for name in found} - set(names))
    place = {name: index for index, name in enumerate(names)}
    old, new = (np.zeros((len(names), len(names)), np.int64) for _ in range(2))
    for counts, found in ((old, pairs[0]), (new, pairs[-1])):
        for true, said in found:
            counts[place[true], place[said]] += 1
    share = new / np.maximum(new.sum(axis=1, keepdims=True), 1)
    axis = figure.subplots()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axis.grid(visible=False)
    for row, column in np.ndindex(*new.shape) if len(names) <= plots.MOST_COUNTS else ():
        grown = new[row, column] - old[row, column]
        text = f"{new[row, column]:,}" + (
            f"\n{grown:+,}".replace("-", "\N{MINUS SIGN}") if grown else ""
        )
        ink = "#fefefe" if share[row, column] > 0.5 else "#010101"
        size = min(9, 40 / len(names))
        axis.text(column, row, text, ha="center", va="center", color=ink, size=size)
    shown = [plots.shortened(name) for name in names]
    size = min(9, 200 / len(names))
    axis.set_xticks(range(len(names)), shown, size=size, rotation=90 if len(names) > 3 else 0)
    axis.set_yticks(range(len(names)), shown, size=size)
    axis.set(xlabel="predicted", ylabel="true", title=list(sides)[-1])


def _curves(axis: Any, sides: Sides, x: str, y: str, **style: Any) -> None:
    for side, colour in _coloured(sides):
        label, columns = side, sides[side]
        axis.plot(columns[x], columns[y], color=colour, linewidth=1.8, label=label, **style)


def _coloured(sides: Sides) -> list[tuple[str, str]]:
    """The sides' names with their colours."""
    return list(zip(sides, (OLD, NEW), strict=False))


def _unit_square(axis: Any) -> None:
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def _legend(figure: Any, axis: Any, columns: int) -> None:
    handles = axis.get_lines()
    labels = [str(line.get_label()) for line in handles]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


KINDS = {
    "loss": Kind(
        "Loss by epoch",
        "Dotted on the images it learns from, solid on valid.",
        ("epoch", "loss", "val_loss"),
        _loss,
    ),
    "accuracy": Kind(
        "Accuracy by epoch",
        "Dotted on the images it learns from, solid on valid.",
        ("epoch", "accuracy", "val_accuracy"),
        _accuracy,
    ),
    "roc": Kind("ROC", "The nearer to the upper left corner the better.", ("fpr", "tpr"), _roc),
    "precision_recall": Kind(
        "Precision and recall",
        "The nearer to the upper right corner the better.",
        ("recall", "precision"),
        _precision_recall,
    ),
    "reliability": Kind(
        "Reliability",
        "On the grey line it is as sure as it is right, below the line too sure.",
        ("confidence", "accuracy"),
        _reliability,
    ),
    "thresholds": Kind(
        "Accuracy by threshold",
        "Where a curve is flat the threshold matters little.",
        ("threshold", "accuracy"),
        _thresholds,
    ),
    "confusion": Kind(
        "Confusion",
        "A row for each true class, a column for what was said. Counts of the run named above, "
        "and by how much they have grown.",
        ("actual", "predicted"),
        _confusion,
    ),
}
