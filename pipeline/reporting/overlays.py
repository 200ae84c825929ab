"""Plots of two runs on top of each other, as SVG that repeats byte for byte.

An SVG contains its dark colors, which browsers apply where the system is dark; other viewers show
the light ones. Letters are outlines, so no font is needed.
"""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.reporting import plots

INK, FAINT, BACKGROUND = "#1b1f24", "#dfe2e6", "#ffffff"  # as in report.css
OLD, NEW = "#0072b2", "#d55e00"
DARK = {INK: "#e8ebee", FAINT: "#333b44", BACKGROUND: "#1b2025", OLD: "#56b4e9", NEW: "#ff9d73"}
STYLE: dict[str, Any] = {
    "savefig.format": "svg",
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
COLUMNS = plots.COLUMNS
METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))

Runs = Mapping[str, Mapping[str, Sequence[Any]]]  # columns by name, by the run's name


def svg(kind: str, runs: Runs) -> str:
    """Draw the columns of one or two runs, the older one first; kinds are in `COLUMNS`."""
    file = io.StringIO()
    with plots.saved(file, (4.2, 4.3), METADATA, **STYLE) as (figure, axis):
        if kind == "confusion":
            _draw_confusion(axis, runs)
        else:
            _draw_lines(axis, kind, runs)
            labels = [str(line.get_label()) for line in axis.get_lines()]
            columns = 3 if len(labels) == 3 else 2
            figure.legend(axis.get_lines(), labels, loc="outside lower center", ncols=columns)
    dark = "".join(
        f'[style*="{attribute}: {light}"]{{{attribute}:{dark}!important}}'
        for light, dark in DARK.items()
        for attribute in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme:dark){{{dark}}}</style>"
    return file.getvalue().replace("</svg>", f"{style}</svg>")


def _draw_lines(axis: Any, kind: str, runs: Runs) -> None:
    if kind in plots.KINDS:
        x, y = COLUMNS[kind]
        curves = {name: (columns[x], columns[y]) for name, columns in runs.items()}
        marker = "o" if kind == "reliability" else ""
        plots.draw_curves(axis, kind, curves, (OLD, NEW), marker=marker)
        return
    for (name, columns), color in zip(runs.items(), (OLD, NEW), strict=False):
        plots.draw_history(axis, kind, name, columns, color, BACKGROUND)
    axis.set(ylabel=kind)
    if kind == "loss":
        axis.set(ylabel="log loss (nats)", ylim=(0, 1.05 * axis.dataLim.y1 or 1))


def _draw_confusion(axis: Any, runs: Runs) -> None:
    """Draw the newer run's counts, and below each its change."""
    columns = list(runs.values())
    first, last = columns[0], columns[-1]
    old, new = (Counter(zip(one["actual"], one["predicted"], strict=True)) for one in (first, last))
    names = list(dict.fromkeys([*last["actual"], *last["predicted"]]))
    names += sorted({*first["actual"], *first["predicted"]} - {*names})
    counts = np.array([[new[actual, predicted] for predicted in names] for actual in names])
    shown = [names[index] for index in plots.most_confused(counts)]
    texts = [
        [
            f"{new[cell]:,}\n{new[cell] - old[cell]:+,}".removesuffix("\n+0").replace(
                "-", "\N{MINUS SIGN}"
            )
            for cell in ((actual, predicted) for predicted in shown)
        ]
        for actual in shown
    ]
    plots.draw_confusion(axis, counts, texts, names, min(9, 200 / len(shown)), list(runs)[-1])
    axis.tick_params(axis="x", labelrotation=90 if len(shown) > 3 else 0)
    axis.grid(visible=False)
