"""What comes of pairing two runs that are made up, image by image."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation import paired
from pipeline.evaluation.losses import Floats
from pipeline.evaluation.paired import Difference, Side
from pipeline.storage.ledger import Row

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


def side(of_true: float, wrong: int = 0, subset: str = "test") -> Side:
    return Side(rows(subset), ("cat", "dog"), predicted(of_true, wrong))


def difference(figure: str, old: Side, new: Side) -> Difference:
    return next(one for one in paired.differences(old, new, "test") if one.figure == figure)


def test_fewer_errors_are_better_and_equal_ones_no_difference() -> None:
    found = difference("accuracy", side(0.9, 40), side(0.9, 10))
    assert (found.old, found.new, found.shown) == (0.8, 0.95, "better")
    assert found.difference == pytest.approx(0.15)
    assert difference("accuracy", side(0.9, 10), side(0.9, 40)).shown == "worse"
    same = difference("accuracy", side(0.9, 10), side(0.9, 10))
    assert (same.difference, same.interval, same.shown) == (0, (0, 0), "no difference shown")


def test_one_error_of_two_hundred_more_may_be_chance() -> None:
    assert difference("accuracy", side(0.9, 5), side(0.9, 4)).shown == "no difference shown"


def test_images_are_paired_by_content_whatever_their_order_and_names() -> None:
    old, new = side(0.9, 30), side(0.9, 30)
    order = np.random.default_rng(0).permutation(IMAGES)
    shuffled = Side(
        [replace(old.rows[place], member=f"new {place}") for place in order],
        old.classes,
        old.log_probability[order],
    )
    found = difference("log_loss", shuffled, new)
    assert (found.difference, found.interval) == (0, (0, 0))


def test_only_images_that_both_hold_out_under_one_label_count() -> None:
    old, new = side(0.9), side(0.9)
    old.rows[:50] = [replace(row, subset="train") for row in old.rows[:50]]
    old.rows[50:60] = [replace(row, label="wolf") for row in old.rows[50:60]]
    assert difference("accuracy", old, new).images == 140


def test_without_a_common_image_there_is_no_difference() -> None:
    assert paired.differences(side(0.9, subset="valid"), side(0.9), "test") == []


@pytest.mark.parametrize("figure", ["accuracy", "log_loss", "brier", "roc_auc"])
def test_each_figure_of_a_subset_is_compared(figure: str) -> None:
    assert difference(figure, side(0.8), side(0.9)).subset == "test"
