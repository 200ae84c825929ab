"""Plots as PNG files that repeat byte for byte, in a colorblind-safe palette.

Class names are drawn literally, never as markup, and cut to `NAME_LENGTH` characters.
Palette: M. Okabe and K. Ito, "Color Universal Design" (2008).
"""

import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NAME_LENGTH = 24  # characters
SMOOTHED = 10  # learning curves of at least this many epochs are also smoothed
SMOOTHING = 0.8  # weight of the mean so far, F. Chollet, "Deep Learning with Python" (2017), 5.3
MOST_COUNTS = 25  # classes of a confusion matrix that shows its counts
MOST_CLASSES = 30  # of a confusion matrix
GRAY = "#8a8f98"  # visible on light and dark backgrounds
STYLE = {
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,
}

PNG = {"Software": None}  # metadata, without matplotlib's version
COLUMNS = {  # of the CSV behind each kind of plot: numbers, but class names for confusion
    "loss": ("epoch", "loss", "val_loss"),
    "accuracy": ("epoch", "accuracy", "val_accuracy"),
    "roc": ("fpr", "tpr"),
    "precision_recall": ("recall", "precision"),
    "reliability": ("confidence", "accuracy"),
    "thresholds": ("threshold", "accuracy"),
    "confusion": ("actual", "predicted"),
}
KINDS = {  # of curves: title, labels of x and y, legend of a gray diagonal, style of the line
    "roc": ("ROC", "false positive rate", "true positive rate", "chance", "default"),
    "precision_recall": ("precision and recall", "recall", "precision", "", "steps-pre"),
    "reliability": ("reliability", "confidence", "accuracy", "perfect calibration", "default"),
    "thresholds": ("accuracy by threshold", "threshold", "accuracy", "", "steps-post"),
}

Counts = NDArray[np.int64]
History = Mapping[str, Sequence[float]]  # columns by name
Curve = Sequence[Sequence[Any] | NDArray[Any]]  # x, y and perhaps the images behind each point


@contextmanager
def saved(
    file: Any,
    size: tuple[float, float],
    metadata: Any = PNG,
    columns: int = 1,
    rows: int = 1,
    **style: Any,
) -> Iterator[tuple[Any, Any]]:
    """Yield a figure of a size in inches, and its axes; save it to a path or stream at the end."""
    with rc_context(STYLE | style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # names in scripts without a font
        figure = Figure(figsize=size)
        yield figure, figure.subplots(rows, columns)
        figure.savefig(file, metadata=metadata)


def learning_curves(path: Path, histories: Mapping[str, History]) -> None:
    """Draw loss and accuracy by epoch for each model; long histories pale, and smoothed on top."""
    with saved(path, (9, 4), columns=2) as (figure, axes):
        titles = (("loss", "log loss (nats)"), ("accuracy", "accuracy"))
        for axis, (metric, title) in zip(axes, titles, strict=True):
            for color, (name, history) in zip(COLORS, histories.items(), strict=False):
                epoch, pale = history["epoch"], {"color": color, "alpha": 0.35, "lw": 1}
                if len(epoch) >= SMOOTHED:
                    axis.plot(epoch, history[metric], ":", **pale)
                    axis.plot(epoch, history[f"val_{metric}"], "-", **pale)
                    smooth = {column: smoothed(values) for column, values in history.items()}
                    history = smooth | {"epoch": epoch}
                draw_history(axis, metric, name, history, color)
            axis.set(title=title)
        axes[0].set_ylim(0, 1.05 * axes[0].dataLim.y1 or 1)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


def draw_history(
    axis: Any, metric: str, name: str, history: History, color: str, background: str = "white"
) -> None:
    """Draw one metric by epoch: dotted on train, solid on valid."""
    marker = "o" if len(history["epoch"]) < 3 else ""
    for column, subset, line in ((metric, "train", ":"), (f"val_{metric}", "valid", "-")):
        face = background if subset == "train" else color
        style = {"color": color, "marker": marker, "markerfacecolor": face}
        axis.plot(history["epoch"], history[column], line, label=f"{name}, {subset}", **style)
    axis.set(xlabel="epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the exponential moving average of values by `SMOOTHING`."""
    return [*accumulate(values, lambda mean, one: mean * SMOOTHING + one * (1 - SMOOTHING))]


def curves(path: Path, kind: str, curves: Mapping[str, Curve]) -> None:
    """Draw curves of a kind in `KINDS` by their legends; points as large as they have images."""
    with saved(path, (4.4, 5.4)) as (figure, axis):
        draw_curves(axis, kind, curves, COLORS)
        axis.set(title=KINDS[kind][0])
        for color, (x, y, *images) in zip(COLORS, curves.values(), strict=False):
            for counts in images:
                area = 8 + 120 * np.asarray(counts) / max(1, np.sum(counts))
                axis.scatter(x, y, area, color=color, alpha=0.6)
        figure.legend(loc="outside lower center")


def draw_curves(
    axis: Any, kind: str, curves: Mapping[str, Curve], colors: Sequence[str], **style: Any
) -> None:
    """Draw curves on the axes of their kind, 0 to 1."""
    _, x_label, y_label, diagonal, drawstyle = KINDS[kind]
    if diagonal:
        axis.plot([0, 1], [0, 1], color=GRAY, linewidth=1, label=diagonal)
        axis.set(aspect="equal")
    for color, (name, (x, y, *_)) in zip(colors, curves.items(), strict=False):
        axis.plot(x, y, color=color, label=name, drawstyle=drawstyle, **style)
    axis.set(xlabel=x_label, ylabel=y_label, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if kind == "thresholds":
        highest = max((max(y, default=1) for _, y, *_ in curves.values()), default=1)
        axis.set_ylim(min(0.9, highest - 0.1), min(1.005, highest + 0.02))


def accuracy_by_threshold(
    path: Path, curves: Mapping[str, Curve], thresholds: Mapping[str, float], second: str
) -> None:
    """Draw accuracy by the decision threshold on each subset, the selected thresholds as lines."""
    with saved(path, (6.2, 3.6)) as (figure, axis):
        draw_curves(axis, "thresholds", curves, COLORS)
        _draw_thresholds(axis, thresholds)
        title = KINDS["thresholds"][0]
        axis.set(xlabel=f"threshold on the probability of {shortened(second)}", title=title)
        figure.legend(loc="outside right upper")


def learning_rates(
    path: Path,
    rates: Sequence[float],
    losses: Sequence[float],
    smooth: NDArray[np.float64],
    suggested: float,
) -> None:
    """Draw the loss of batches by learning rate, pale, its average, and a suggested rate."""
    with saved(path, (6.2, 3.6)) as (_, axis):
        axis.plot(rates, losses, color=COLORS[0], alpha=0.35, lw=1)
        axis.plot(rates, smooth, color=COLORS[0])
        axis.axvline(suggested, color=COLORS[1], ls="--", label=f"suggested: {suggested:g}")
        axis.set(xlabel="learning rate", ylabel="log loss (nats)")
        _log_scale(axis)
        axis.set_ylim(0, 1.05 * min(max(losses), 3 * float(smooth.min())))
        axis.legend(loc="upper left")


def _log_scale(axis: Any) -> None:
    """Make the x axis logarithmic, with plain numbers, as markup is not drawn."""
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def trials(
    path: Path,
    log_loss: Sequence[float],
    complete: Sequence[bool],
    columns: Mapping[str, Sequence[Any]],
    choices: Mapping[str, Sequence[Any]],
    log: Container[str],
    best: int,
) -> None:
    """Draw the log loss of trials in their order, and by each key's value; trial 0 is the present.

    Trials that ended early are pale, those far above most others on the upper edge. Values of the
    keys in `choices` are side by side, in that order; keys in `log` have a logarithmic scale.
    """
    loss, whole = np.array(log_loss), np.array(complete)
    known = loss[~np.isnan(loss)]
    lowest, edge = known.min(), max(np.quantile(known, 0.75), known[0])
    top = lowest + 1.5 * (edge - lowest or lowest or 1)
    drawn = np.minimum(np.nan_to_num(loss, nan=np.inf), top)
    panels = {"trial": range(len(loss)), **columns}
    width = 2 if len(panels) < 5 else 3
    height = -(-len(panels) // width)
    with saved(path, (3.1 * width, 2.7 * height), columns=width, rows=height) as (_, axes):
        flat = np.atleast_1d(axes).ravel()
        for axis, (key, values) in zip(flat, panels.items(), strict=False):
            x = np.array(values, np.float64) if key not in choices else np.empty(0)  # None is NaN
            if key in choices:
                every = dict.fromkeys((*choices[key], *values))
                x = np.array([[*every].index(one) for one in values])
                rotated = {"rotation": 45, "ha": "right"} if len(every) > 4 else {}
                axis.set_xticks(range(len(every)), map(str, every), **rotated)
            axis.scatter(x[whole], drawn[whole], 12, color=GRAY)
            axis.scatter(x[~whole], drawn[~whole], 12, color=GRAY, alpha=0.35, lw=0)
            axis.scatter(x[:1], drawn[:1], 60, color=COLORS[4], marker="D", label="present")
            axis.scatter(x[[best]], drawn[[best]], 90, color=COLORS[1], marker="*", label="best")
            if key == "trial":
                lowest_so_far = np.fmin.accumulate(np.where(whole, loss, np.nan))
                axis.step(x, np.minimum(lowest_so_far, top), where="post", color=COLORS[0], lw=1)
                axis.legend(loc="upper right")
            if key in log:
                _log_scale(axis)
            axis.set(xlabel=key, ylim=(lowest - 0.05 * (top - lowest), top))
        for axis in flat[::width][:height]:
            axis.set_ylabel("log loss")
        for axis in flat[len(panels) :]:
            axis.set_axis_off()


def confusion(path: Path, counts: Counts, classes: Sequence[str], title: str) -> None:
    """Draw a confusion matrix, int64 (n_classes, n_classes), with true classes as rows."""
    shown = most_confused(counts)
    longest = max(len(shortened(classes[index])) for index in shown)
    side = min(max(3.6, 0.55 * len(shown) + 0.08 * longest + 1.2), 16)
    with saved(path, (side, side), **{"axes.grid": False}) as (_, axis):
        texts = [[f"{count:,}" for count in counts[row, shown]] for row in shown]
        draw_confusion(axis, counts, texts, classes, min(10, 800 / len(shown)), title)
        if len(shown) > 4 or longest > 8:
            axis.tick_params(axis="x", labelrotation=45)
            for label in axis.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")


def most_confused(counts: Counts) -> Counts:
    """Return the classes of a confusion matrix that are drawn: `MOST_CLASSES` with most errors."""
    errors = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    return np.sort(np.argsort(-errors, kind="stable")[:MOST_CLASSES])


def draw_confusion(
    axis: Any,
    counts: Counts,
    texts: Sequence[Sequence[str]],
    classes: Sequence[str],
    size: float,
    title: str,
) -> None:
    """Shade each cell by its share of the row; write the text into it if there is room.

    `counts` and `classes` are of all classes, `texts` of the `most_confused` ones.
    """
    shown = most_confused(counts)
    share = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[np.ix_(shown, shown)]
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    in_cell = min(size, 40 / len(shown) + 6)
    for row, column in np.ndindex(*share.shape) if len(shown) <= MOST_COUNTS else ():
        color = "#fefefe" if share[row, column] > 0.5 else "#010101"  # unlike a theme's colors
        style = {"ha": "center", "va": "center", "color": color, "size": in_cell}
        axis.text(column, row, texts[row][column], **style)
    names = [shortened(classes[index]) for index in shown]
    axis.set_xticks(range(len(names)), names, size=size)
    axis.set_yticks(range(len(names)), names, size=size)
    axis.set(xlabel="predicted", ylabel="true")
    left_out = len(shown) < len(classes)
    axis.set(title=f"{title}: most confused of {len(classes):,} classes" if left_out else title)


def probabilities(
    path: Path,
    probability: NDArray[Any],
    label: NDArray[np.int64],
    classes: Sequence[str],
    title: str,
    thresholds: Mapping[str, float] | None = None,
) -> None:
    """Draw the distribution of each class's probabilities, or of one if colors do not suffice.

    `probability` is that of the second of two classes, or else of the true class, float (n,).
    """
    bins = np.linspace(0, 1, 21)
    names = [*map(shortened, classes)] if len(classes) <= len(COLORS) else ["all classes"]
    which = shortened(classes[1]) if len(classes) == 2 else "the true class"
    with saved(path, (6.2, 3.6)) as (figure, axis):
        outlines = []
        for index, color in enumerate(COLORS[: len(names)]):
            part = probability[label == index] if len(names) > 1 else probability
            images, _ = np.histogram(part, bins)
            outlines.append(axis.stairs(images, bins, linewidth=1.6, color=color))
        lines = _draw_thresholds(axis, thresholds or {})
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.set(xlabel=f"probability of {which}", ylabel="images", title=title, xlim=(-0.01, 1.01))
        # Explicit handles: matplotlib drops names with a leading underscore from its own legend.
        handles, texts = [*outlines, *lines.values()], [*names, *lines]
        figure.legend(handles, texts, loc="outside right upper")


def _draw_thresholds(axis: Any, thresholds: Mapping[str, float]) -> dict[str, Any]:
    lines = {}
    for style, (name, value) in zip(("-", "--", ":"), thresholds.items(), strict=False):
        text = f"{name}, {value:.3f}"
        lines[text] = axis.axvline(value, color="#555555", lw=1.2, linestyle=style, label=text)
    return lines


def shortened(name: str) -> str:
    """Return a name of at most `NAME_LENGTH` characters, with an ellipsis if it was cut."""
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"
