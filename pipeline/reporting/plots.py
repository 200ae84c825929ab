"""Figures as PNG files that repeat byte for byte, in colours that the colour-blind tell apart.

Names of classes are shown as they are, never as markup, and shortened to `NAME_LENGTH`.
Colours: M. Okabe and K. Ito, "Color Universal Design" (2008).
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NAME_LENGTH = 24  # letters
SMOOTHED = 10  # epochs from which on learning curves are smoothed, too
SMOOTHING = 0.8  # of the mean so far, as F. Chollet, "Deep Learning with Python" (2017), 5.3
MOST_COUNTS = 25  # classes of a confusion matrix that has its counts written in
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


def learning_curves(path: Path, histories: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Loss and accuracy by epoch; of `SMOOTHED` epochs and more, pale as they are and smoothed.

    Args:
        histories: for each model, columns epoch, loss, val_loss, accuracy, val_accuracy.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 4))
        axes = figure.subplots(1, 2)
        for axis, (key, title) in zip(
            axes, (("loss", "log loss (nats)"), ("accuracy", "accuracy")), strict=True
        ):
            for colour, (name, history) in zip(COLOURS, histories.items(), strict=False):
                epoch = history["epoch"]
                many = len(epoch) >= SMOOTHED
                marker = "o" if len(epoch) < 3 else ""
                for column, subset, line in ((key, "train", ":"), (f"val_{key}", "valid", "-")):
                    values = history[column]
                    if many:
                        axis.plot(epoch, values, line, color=colour, alpha=0.35, linewidth=1)
                    axis.plot(
                        epoch,
                        smoothed(values) if many else values,
                        line,
                        color=colour,
                        marker=marker,
                        markerfacecolor="white" if subset == "train" else colour,
                        label=f"{name}, {subset}",
                    )
            axis.set(xlabel="epoch", title=title)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylim(0, 1.05 * axes[0].dataLim.y1 or 1)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        save(figure, path)


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value drawn towards those before it: an exponential moving average by `SMOOTHING`."""
    found: list[float] = []
    for value in values:
        before = found[-1] if found else value
        found.append(before * SMOOTHING + value * (1 - SMOOTHING))
    return found


def roc(path: Path, curves: Mapping[str, tuple[NDArray[Any], NDArray[Any], str]]) -> None:
    """ROC curves: for each model (false positive rates, true positive rates, its legend)."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 5.4))
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color="#999999", linewidth=1, label="chance")
        for colour, (fpr, tpr, legend) in zip(COLOURS, curves.values(), strict=False):
            axis.plot(fpr, tpr, color=colour, label=legend)
        axis.set(
            xlabel="false positive rate",
            ylabel="true positive rate",
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            aspect="equal",
            title="ROC",
        )
        figure.legend(loc="outside lower center")
        save(figure, path)


def precision_recall(
    path: Path, curves: Mapping[str, tuple[NDArray[Any], NDArray[Any], str]]
) -> None:
    """Precision by recall: for each model (recalls, precisions, its legend)."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 5.0))
        axis = figure.subplots()
        for colour, (recall, precision, legend) in zip(COLOURS, curves.values(), strict=False):
            axis.plot(recall, precision, color=colour, label=legend, drawstyle="steps-pre")
        axis.set(
            xlabel="recall",
            ylabel="precision",
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            title="precision and recall",
        )
        figure.legend(loc="outside lower center")
        save(figure, path)


def reliability(
    path: Path, curves: Mapping[str, tuple[NDArray[Any], NDArray[Any], NDArray[Any], str]]
) -> None:
    """Accuracy by confidence: for each model (confidences, accuracies, images, its legend).

    The area of a point grows with its images.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 5.6))
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color="#999999", linewidth=1, label="as sure as it is right")
        for colour, (confidence, accuracy, images, legend) in zip(
            COLOURS, curves.values(), strict=False
        ):
            axis.plot(confidence, accuracy, color=colour, linewidth=1, label=legend)
            area = 8 + 120 * images / max(1, images.sum())
            axis.scatter(confidence, accuracy, area, color=colour, alpha=0.6)
        axis.set(
            xlabel="probability of the class that is said",
            ylabel="share of these images that are of it",
            xlim=(-0.01, 1.03),
            ylim=(-0.01, 1.03),
            aspect="equal",
            title="reliability",
        )
        figure.legend(loc="outside lower center")
        save(figure, path)


def confusion(path: Path, counts: NDArray[np.int64], classes: Sequence[str], title: str) -> None:
    """A confusion matrix: rows are true classes, columns predicted ones; shaded by row share.

    Of more than `MOST_COUNTS` classes only the shades are shown.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [shortened(name) for name in classes]
    longest = max(map(len, names))
    side = min(max(3.6, 0.55 * len(names) + 0.08 * longest + 1.2), 16)
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(side, side))
        axis = figure.subplots()
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*counts.shape) if len(names) <= MOST_COUNTS else ():
            axis.text(
                column,
                row,
                f"{counts[row, column]:,}",
                ha="center",
                va="center",
                color="white" if share[row, column] > 0.5 else "black",
            )
        ticks = range(len(names))
        size = min(10, 800 / len(names))
        axis.set_xticks(ticks, names, size=size)
        axis.set_yticks(ticks, names, size=size)
        if len(names) > 4 or longest > 8:
            axis.tick_params(axis="x", labelrotation=45)
            for label in axis.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        axis.set(xlabel="predicted", ylabel="true", title=title)
        save(figure, path)


def scores(
    path: Path,
    probability: NDArray[Any],
    label: NDArray[np.int64],
    names: Sequence[str],
    title: str,
    thresholds: Mapping[str, float] | None = None,
) -> None:
    """How probabilities are spread, for each class, images on a logarithmic axis.

    Of two classes the probability of the second one, with thresholds as lines; of more, that of the
    true class. More classes than there are colours are drawn as one.

    Args:
        probability: of that class, float (n,).
        label: int (n,).
        names: of the classes.
        thresholds: by name, of the second class' probability.
    """
    bins = np.linspace(0, 1, 21)
    shown = names if len(names) <= len(COLOURS) else ["all classes"]
    of_which = shortened(names[1]) if len(names) == 2 else "the true class"
    with rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.6))
        axis = figure.subplots()
        outlines = []
        for index, colour in enumerate(COLOURS[: len(shown)]):
            part = probability[label == index] if len(shown) > 1 else probability
            images, _ = np.histogram(part, bins)
            outlines.append(axis.stairs(images, bins, linewidth=1.6, color=colour))
        lines = _threshold_lines(axis, thresholds or {})
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.set(
            xlabel=f"probability of {of_which}", ylabel="images", xlim=(-0.01, 1.01), title=title
        )
        figure.legend(
            [*outlines, *lines.values()],
            [*map(shortened, shown), *lines],
            loc="outside right upper",
        )
        save(figure, path)


def accuracy_by_threshold(
    path: Path,
    curves: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    thresholds: Mapping[str, float],
    second: str,
) -> None:
    """Accuracy where the second of two classes is said from a probability on.

    Args:
        curves: for each subset (thresholds, accuracies).
        thresholds: chosen ones by name, drawn as lines.
        second: name of the second class.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.6))
        axis = figure.subplots()
        for colour, (subset, (threshold, accuracy)) in zip(COLOURS, curves.items(), strict=False):
            axis.plot(threshold, accuracy, color=colour, label=subset, drawstyle="steps-post")
        _threshold_lines(axis, thresholds)
        highest = max((float(accuracy.max()) for _, accuracy in curves.values()), default=1)
        axis.set(
            xlabel=f"probability from which on it is {shortened(second)}",
            ylabel="accuracy",
            xlim=(-0.01, 1.01),
            ylim=(min(0.9, highest - 0.1), min(1.005, highest + 0.02)),
            title="accuracy by threshold",
        )
        figure.legend(loc="outside right upper")
        save(figure, path)


def _threshold_lines(axis: Any, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Draw them; the lines by what the legend says of each."""
    styles = ("-", "--", ":")
    return {
        f"{name}, {value:.3f}": axis.axvline(
            value, color="#555555", linewidth=1.2, linestyle=style, label=f"{name}, {value:.3f}"
        )
        for style, (name, value) in zip(styles, thresholds.items(), strict=False)
    }


def shortened(name: str) -> str:
    """A name of at most `NAME_LENGTH` letters, dots at the end where it was cut."""
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def save(figure: Any, path: Path) -> None:
    """Write a figure as a PNG without matplotlib's version in it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a name in a script without font
        figure.savefig(path, metadata={"Software": None})
