"""Plots of two runs on top of each other, as SVG that repeats byte for byte.

An SVG contains its dark colors, which browsers apply where the system is dark; other viewers show
the light ones. Letters are outlines, so no font is needed.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.reporting import plots

INK, FAINT, BACKGROUND = "#1b1f24", "#dfe2e6", "#ffffff"  # as in report.css
OLD, NEW = "#0072b2", "#d55e00"
DARK = {INK: "#e8ebee", FAINT: "#333b44", BACKGROUND: "#1b2025", OLD: "#56b4e9", NEW: "#ff9d73"}
STYLE = plots.STYLE | {
    "svg.hashsalt": "stages",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.titlesize": 10,
    "lines.linewidth": 1.7,
    "lines.markersize": 4,
    "figure.facecolor": BACKGROUND,
    "axes.facecolor": "none",
    "grid.color": FAINT,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "axes.titlecolor"), INK),
}
METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
COLUMNS = {  # of the CSV behind each kind of plot: numbers, but class names for confusion
    "loss": ("epoch", "loss", "val_loss"),
    "accuracy": ("epoch", "accuracy", "val_accuracy"),
    "roc": ("fpr", "tpr"),
    "precision_recall": ("recall", "precision"),
    "reliability": ("confidence", "accuracy"),
    "thresholds": ("threshold", "accuracy"),
    "confusion": ("actual", "predicted"),
}

Runs = Mapping[str, Mapping[str, Sequence[Any]]]  # columns by name, by the run's name


def svg(kind: str, runs: Runs) -> str:
    """Draw the columns of one or two runs, the older one first."""
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # names in scripts without a font
        figure = Figure(figsize=(4.2, 4.3))
        axis = figure.subplots()
        if kind == "confusion":
            _draw_confusion(axis, runs)
        else:
            _draw_lines(axis, kind, runs)
            labels = [str(line.get_label()) for line in axis.get_lines()]
            columns = 3 if len(labels) == 3 else 2
            figure.legend(axis.get_lines(), labels, loc="outside lower center", ncols=columns)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=METADATA)
    dark = "".join(
        f'[style*="{attribute}: {light}"]{{{attribute}:{dark}!important}}'
        for light, dark in DARK.items()
        for attribute in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme:dark){{{dark}}}</style>"
    return file.getvalue().replace("</svg>", f"{style}</svg>")


def _draw_lines(axis: Any, kind: str, runs: Runs) -> None:
    x, y, *_ = COLUMNS[kind]
    if kind not in plots.KINDS:
        for (name, columns), color in zip(runs.items(), (OLD, NEW), strict=False):
            plots.draw_history(axis, kind, name, columns, color, background=BACKGROUND)
        axis.set(ylabel=kind)
        if kind == "loss":
            axis.set(ylabel="log loss (nats)", ylim=(0, 1.05 * axis.dataLim.y1 or 1))
        return
    curves = {name: (columns[x], columns[y]) for name, columns in runs.items()}
    marker = "o" if kind == "reliability" else ""
    plots.draw_curves(axis, kind, curves, (OLD, NEW), marker=marker)


def _draw_confusion(axis: Any, runs: Runs) -> None:
    """Draw the newer run's counts, and below each its change."""
    pairs = [list(zip(run["actual"], run["predicted"], strict=True)) for run in runs.values()]
    names = list(dict.fromkeys(name for column in zip(*pairs[-1], strict=True) for name in column))
    names += sorted({name for pair in pairs[0] for name in pair} - set(names))
    index = {name: number for number, name in enumerate(names)}
    old, new = (np.zeros((len(names), len(names)), np.int64) for _ in range(2))
    for counts, run in ((old, pairs[0]), (new, pairs[-1])):
        for actual, predicted in run:
            counts[index[actual], index[predicted]] += 1
    texts = [
        [
            f"{count:,}\n{count - before:+,}".removesuffix("\n+0").replace("-", "\N{MINUS SIGN}")
            for count, before in zip(*rows, strict=True)
        ]
        for rows in zip(new, old, strict=True)
    ]
    plots.draw_confusion(axis, new, texts, names, min(9, 200 / len(names)))
    axis.tick_params(axis="x", labelrotation=90 if len(names) > 3 else 0)
    axis.grid(visible=False)
    axis.set(title=list(runs)[-1])
