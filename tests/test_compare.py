"""What `compare` makes of two runs that are made up."""

from dataclasses import replace

import numpy as np
import pytest

from stages import compare
from stages.scores.losses import Floats
from stages.store.tables import Row

IMAGES = 200


def rows(subset: str = "test") -> list[Row]:
    return [
        Row(
            f"{i}", "train", f"{i}.jpg", ("cat", "dog")[i % 2], i % 2, subset, f"hash {i}", 9, 9,
            "RGB", f"train/{i}", "",
        )
        for i in range(IMAGES)
    ]  # fmt: skip


def predicted(of_true: float, wrong: int = 0) -> Floats:
    """The probability of the true class, but of the first `wrong` images that of the other."""
    probability = np.full((IMAGES, 2), 1 - of_true)
    probability[np.arange(IMAGES), np.arange(IMAGES) % 2] = of_true
    probability[:wrong] = probability[:wrong, ::-1]
    return np.asarray(np.log(probability))


def side(of_true: float, wrong: int = 0, subset: str = "test") -> compare.Side:
    return compare.Side(rows(subset), ("cat", "dog"), predicted(of_true, wrong))


def line(figure: str, this: compare.Side, other: compare.Side) -> tuple[str, ...]:
    return next(line for line in compare.compared(this, other, "test") if line[2] == figure)


def test_fewer_errors_are_better_and_equal_ones_no_difference() -> None:
    assert line("accuracy", side(0.9, 10), side(0.9, 40))[3:5] == ("0.9500", "0.8000")
    assert line("accuracy", side(0.9, 10), side(0.9, 40))[6] == "better"
    assert line("accuracy", side(0.9, 40), side(0.9, 10))[6] == "worse"
    assert line("accuracy", side(0.9, 10), side(0.9, 10))[5:] == (
        "+0.0000 (+0.0000 to +0.0000)",
        "no difference shown",
    )


def test_one_error_of_two_hundred_more_may_be_chance() -> None:
    assert line("accuracy", side(0.9, 4), side(0.9, 5))[6] == "no difference shown"


def test_images_are_paired_by_content_whatever_their_order_and_names() -> None:
    this, other = side(0.9, 30), side(0.9, 30)
    order = np.random.default_rng(0).permutation(IMAGES)
    shuffled = compare.Side(
        [replace(other.rows[place], member=f"new {place}") for place in order],
        other.classes,
        other.log_probability[order],
    )
    assert line("log_loss", this, shuffled)[5] == "+0.0000 (+0.0000 to +0.0000)"


def test_only_images_that_both_hold_out_under_one_label_count() -> None:
    this, other = side(0.9), side(0.9)
    other.rows[:50] = [replace(row, subset="train") for row in other.rows[:50]]
    other.rows[50:60] = [replace(row, label="wolf") for row in other.rows[50:60]]
    assert line("accuracy", this, other)[1] == "140"


def test_without_a_common_image_there_is_no_line() -> None:
    assert compare.compared(side(0.9), side(0.9, subset="valid"), "test") == []


@pytest.mark.parametrize("figure", ["accuracy", "log_loss", "brier", "roc_auc"])
def test_each_figure_of_a_subset_has_a_line(figure: str) -> None:
    assert line(figure, side(0.9), side(0.8))[0] == "test"
