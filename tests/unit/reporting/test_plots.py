"""Plots repeat, open, and draw class names literally."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.reporting import plots

CURVE = (np.array([0, 0, 0.5, 1]), np.array([0, 0.75, 1, 1]))
THRESHOLDS = {"half": 0.5, "symmetric": 0.4, "accurate": 0.41}
ODD_NAMES = ("<b>$x_1$", "_$\\frac", "unbalanced $_{", "%s {0}", 60 * "many " + "letters")
Draw = Callable[[Path], None]


def history(epochs: int, first: int = 1) -> dict[str, list[float]]:
    number = np.arange(first, first + epochs, dtype=float)
    loss = 0.7 * 0.9**number
    columns = (number, loss, loss + 0.1, 1 - loss / 2, 0.95 - loss / 2)
    names = ("epoch", "loss", "val_loss", "accuracy", "val_accuracy")
    return {name: column.tolist() for name, column in zip(names, columns, strict=True)}


def learning_curves(**histories: dict[str, list[float]]) -> Draw:
    return lambda path: plots.learning_curves(path, histories)


def curves(kind: str, *curve: Any) -> Draw:
    return lambda path: plots.curves(path, kind, {"head": curve, "fine_tune": curve})


def confusion(names: tuple[str, ...], title: str = "on test") -> Draw:
    counts = np.arange(len(names) ** 2, dtype=np.int64).reshape(len(names), len(names))
    return lambda path: plots.confusion(path, counts, names, title)


def probabilities(names: tuple[str, ...], thresholds: dict[str, float] | None = None) -> Draw:
    label = np.arange(60) % len(names)
    probability = np.linspace(0, 1, 60)
    return lambda path: plots.probabilities(path, probability, label, names, "on", thresholds)


def named(n_classes: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(n_classes))


DRAWINGS: dict[str, Draw] = {
    "learning curves": learning_curves(head=history(12), tuned=history(31, 0)),
    "learning curves of one epoch": learning_curves(head=history(1, 18), tuned=history(1, 0)),
    "ROC": curves("roc", *CURVE),
    "ROC without points": curves("roc", [], []),
    "reliability": curves("reliability", *CURVE, np.array([1, 2, 3, 40])),
    "accuracy by threshold": lambda path: plots.accuracy_by_threshold(
        path, {"valid": CURVE}, THRESHOLDS, "a class"
    ),
    **{f"confusion of {count}": confusion(named(count)) for count in (2, 12, 30, 200)},
    **{f"probabilities of {count}": probabilities(named(count)) for count in (3, 12)},
    "probabilities with thresholds": probabilities(named(2), THRESHOLDS),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_plot_repeats_byte_for_byte_and_fits_a_screen(draw: Draw, tmp_path: Path) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    draw(first)
    draw(second)
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as image:
        assert image.format == "PNG"
        assert 400 <= min(image.size) <= max(image.size) <= 2000
        colors = image.convert("RGB").getcolors(2**24)
    assert len(colors or []) > 20  # lines, letters and their smooth edges


def test_a_name_is_drawn_literally_and_is_no_markup(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    probabilities(ODD_NAMES)(path)
    plots.curves(path, "roc", dict.fromkeys(ODD_NAMES, CURVE))
    learning_curves(**dict.fromkeys(ODD_NAMES, history(4)))(path)
    ink = []
    for names in (ODD_NAMES, ("$x$", "dog"), ("x", "dog")):  # as markup, $x$ is an italic x alone
        confusion(names, "$\\frac on test")(path)
        with Image.open(path) as image:
            ink.append((np.asarray(image)[:, 20:70, 0] < 128).sum())
    assert ink[1] > ink[2] + 20  # two dollar signs


def test_long_names_are_cut_and_underscores_stay_in_the_legend(tmp_path: Path) -> None:
    long, other, short = (tmp_path / name for name in ("long.png", "other.png", "short.png"))
    for path, name in ((long, "x" * 30 + "first"), (other, "x" * 30 + "second")):
        confusion((name, "dog"))(path)
    assert long.read_bytes() == other.read_bytes()
    for path, name in ((other, "_b"), (short, "_c")):  # matplotlib drops them from its own legends
        probabilities((name, "dog"))(path)
    assert other.read_bytes() != short.read_bytes()


def test_smoothing_is_an_exponential_moving_average() -> None:
    assert plots.smoothed([1.0, 0.0, 0.0]) == pytest.approx([1, 0.8, 0.64])
