"""Pictures: they repeat, they open, and no name of a class can break them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.reporting import plots

CURVE = (np.array([0, 0, 0.5, 1]), np.array([0, 0.75, 1, 1]), "head, area 0.8750")
NONE = (np.empty(0), np.empty(0), "head")  # what a subset of one class gives
ODD_NAMES = (
    "<b>$x_1$",
    "_$\\frac",
    "unbalanced $_{",
    "%s {0}",
    "a name of " + 60 * "many " + "letters",
)


def history(epochs: int, first: int = 1) -> dict[str, list[float]]:
    number = np.arange(first, first + epochs, dtype=float)
    loss = 0.7 * 0.9**number
    return {
        "epoch": number.tolist(),
        "loss": loss.tolist(),
        "val_loss": (loss + 0.1).tolist(),
        "accuracy": (1 - loss / 2).tolist(),
        "val_accuracy": (0.95 - loss / 2).tolist(),
    }


def counts(n_classes: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.arange(n_classes**2, dtype=np.int64).reshape(n_classes, n_classes)


def names(n_classes: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(n_classes))


def draw_scores(path: Path, classes: tuple[str, ...], title: str) -> None:
    probability = np.linspace(0, 1, 60)
    plots.scores(path, probability, np.arange(60) % len(classes), classes, title)


DRAWINGS: dict[str, Callable[[Path], None]] = {
    "learning curves": lambda path: plots.learning_curves(
        path, {"head": history(12), "fine-tuned": history(31, 0)}
    ),
    "learning curves of one epoch": lambda path: plots.learning_curves(
        path, {"head": history(1, 18), "fine-tuned": history(1, 0)}
    ),
    "roc": lambda path: plots.roc(path, {"head": CURVE, "fine_tune": CURVE}),
    "roc of one class": lambda path: plots.roc(path, {"head": NONE}),
    "confusion of 2": lambda path: plots.confusion(path, counts(2), names(2), "head on test"),
    "confusion of 12": lambda path: plots.confusion(path, counts(12), names(12), "head on test"),
    "confusion of 30": lambda path: plots.confusion(path, counts(30), names(30), "head on test"),
    "scores of 2": lambda path: draw_scores(path, names(2), "head on test"),
    "scores of 2 with thresholds": lambda path: plots.scores(
        path, np.linspace(0, 1, 60), np.arange(60) % 2, names(2), "final", {"half": 0.5}
    ),
    "accuracy by threshold": lambda path: plots.accuracy_by_threshold(
        path,
        {"valid": (np.linspace(0, 1, 9), np.linspace(0.5, 0.9, 9))},
        {"half": 0.5, "symmetric": 0.4, "accurate": 0.41},
        "a class",
    ),
    "scores of 3": lambda path: draw_scores(path, names(3), "head on test"),
    "scores of 12": lambda path: draw_scores(path, names(12), "head on test"),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_picture_repeats_byte_for_byte_and_fits_a_screen(
    draw: Callable[[Path], None], tmp_path: Path
) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    draw(first)
    draw(second)
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as picture:
        assert picture.format == "PNG"
        assert 400 <= picture.width <= 2000
        assert 400 <= picture.height <= 2000
        colours = picture.convert("RGB").getcolors(2**24)
    assert colours is not None
    assert len(colours) > 20  # lines, letters and their smooth edges


def test_names_of_classes_are_no_markup(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    plots.confusion(path, counts(len(ODD_NAMES)), ODD_NAMES, "$\\frac on test")
    draw_scores(path, ODD_NAMES, "$\\frac on test")
    plots.roc(path, {name: (*CURVE[:2], name) for name in ODD_NAMES})
    plots.learning_curves(path, dict.fromkeys(ODD_NAMES, history(4)))


def test_a_name_is_shown_letter_by_letter(tmp_path: Path) -> None:
    """As markup, `$x$` would be an x alone, in another slant."""
    marked, plain = tmp_path / "marked.png", tmp_path / "plain.png"
    for path, name in ((marked, "$x$"), (plain, "x")):
        plots.confusion(path, counts(2), (name, "dog"), "on test")
    with Image.open(marked) as first, Image.open(plain) as second:
        inked = [(np.asarray(i)[:, 20:70, 0] < 128).sum() for i in (first, second)]
    assert inked[0] > inked[1] + 20  # two dollar signs


def test_a_long_name_is_cut_and_ends_in_dots(tmp_path: Path) -> None:
    """Two names that differ only beyond the cut give the same picture."""
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    plots.confusion(first, counts(2), ("x" * 30 + "first", "dog"), "on test")
    plots.confusion(second, counts(2), ("x" * 30 + "second", "dog"), "on test")
    assert first.read_bytes() == second.read_bytes()


def test_a_class_whose_name_begins_with_an_underscore_stands_in_the_legend(tmp_path: Path) -> None:
    """Matplotlib leaves such labels out of legends unless told otherwise."""
    hidden, shown = tmp_path / "hidden.png", tmp_path / "shown.png"
    for path, second in ((hidden, "_b"), (shown, "_c")):
        draw_scores(path, ("a", second), "on test")
    assert hidden.read_bytes() != shown.read_bytes()


def test_smoothing_draws_each_value_towards_those_before() -> None:
    assert plots.smoothed([1.0, 0.0, 0.0]) == pytest.approx([1, 0.8, 0.64])
    assert plots.smoothed([0.3]) == [pytest.approx(0.3)]
