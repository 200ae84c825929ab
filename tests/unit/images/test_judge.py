"""Rules by which files become rows: rejections, groups, subsets, label fixes, the summary."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.images import judge
from pipeline.images.label_fixes import Fix
from pipeline.runtime.errors import UserError
from pipeline.storage.ledger import LedgerRow

CLASSES = ("cat", "dog")
SUMMARY: dict[str, Any] = {
    "subsets": {"cat": {"train": 1200, "valid": 3}},
    "label_fixes": {"excluded": 0, "in_test": 0, "relabelled": 0, "unmatched": 0},
    "near_duplicates": 0,
    "accepted": 100,
    "duplicates_with_other_label": 0,
    "duplicates_across_subsets": 0,
}


def row(number: int, label: str = "cat", **changes: Any) -> LedgerRow:
    index = CLASSES.index(label) if label else -1
    name, subset = (f"{label}.{number}", "train") if label else (str(number), "unlabelled")
    plain = LedgerRow(
        name, "train", f"{name}.png", label, index, subset, name, 9, 6, "RGB", name, ""
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(("most", "refused"), [(0.08, False), (0.079, True), (0, True)])
def test_exactly_as_many_rejected_as_allowed_pass(most: float, refused: bool) -> None:
    rejected = [row(number, reason="empty file") for number in (0, 1)]
    rows = [*rejected, *(row(number) for number in range(2, 25))]
    if refused:
        with pytest.raises(UserError, match=r"got 2 of 25: cat.0.png \(empty file\), .*; fix or"):
            judge.require_few_rejected(rows, most)
    else:
        assert judge.require_few_rejected(rows, most) == rejected


def test_only_the_first_ten_rejected_are_named() -> None:
    with pytest.raises(UserError) as raised:
        judge.require_few_rejected([row(n, reason="empty file") for n in range(12)], 0.5)
    assert str(raised.value).count("empty file") == 10
    lines = [str(number) for number in range(12)]
    assert list(judge.first_lines(lines, ", see there")) == [*lines[:10], "and 2 more, see there"]
    assert list(judge.first_lines(lines[:10])) == lines[:10]


def test_labelled_images_may_share_an_id() -> None:
    judge.require_unique_ids([row(1), row(1), row(1, ""), row(2, "")])
    with pytest.raises(UserError, match=r"got '1' in data.train and in data.test"):
        judge.require_unique_ids([row(1, ""), row(1, "", source="test")])


@pytest.mark.parametrize(
    ("threshold", "groups"),
    [(None, ["cat.0", "cat.0", "cat.2", "cat.3"]), (0.9, ["cat.0", "cat.0", "cat.0", "cat.3"])],
)
def test_a_group_has_equal_bytes_and_with_a_threshold_nearly_equal_pixels(
    threshold: float | None, groups: list[str]
) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 10, 10), dtype=np.uint8)
    thumbnails = np.stack([one, one, one[:, ::-1], other])  # the third is mirrored
    rows = [row(0), row(1, sha256="cat.0"), row(9, reason="empty file", group=""), row(2), row(3)]
    grouped = judge.group(rows, thumbnails, threshold)
    assert [row.group for row in grouped if row.accepted] == [f"train/{name}" for name in groups]
    assert grouped[2] == rows[2]


def test_a_group_gets_one_subset_whatever_its_name() -> None:
    def assign(names: list[str]) -> list[str]:
        rows = [row(number, label) for label in CLASSES for number in range(20)]
        rows = [replace(one, group=names[place]) for place, one in enumerate(rows)]
        preset = {one.member: None for one in rows}
        assigned = judge.assign(rows, CLASSES, preset, valid=0.2, test=0.2, seed=0)
        return [one.subset for one in assigned]

    pairs = [str(place // 2) for place in range(40)]
    subsets = assign(pairs)
    assert subsets[::2] == subsets[1::2]
    assert {subset: subsets.count(subset) for subset in set(subsets)} == {
        "train": 24,
        "valid": 8,
        "test": 8,
    }
    assert assign([f"other {name}" for name in pairs]) == subsets


def test_a_class_without_an_accepted_image_is_refused() -> None:
    with pytest.raises(UserError, match=r"readable image of class 'dog', got none; fix its files"):
        judge.assign([row(1)], CLASSES, {"cat.1.png": None}, valid=0.2, test=0.2, seed=0)


def test_fixes_change_train_and_valid_and_only_mark_test() -> None:
    rows = [row(1), row(2, subset="valid"), row(3, subset="test"), row(4, reason="empty file")]
    labels = [("cat.1.png", "dog"), ("cat.2.png", "exclude"), ("cat.3.png", "dog")]
    fixes = [Fix(member, label, "") for member, label in [*labels, ("cat.4.png", "dog")]]
    fixed, counts, unmatched = judge.apply_fixes(rows, fixes, CLASSES, Path("data/fixes.csv"))
    assert fixed == [
        replace(rows[0], label="dog", index=1, fix="dog"),
        replace(
            rows[1],
            subset="",
            group="",
            reason="excluded by fixes.csv: no source given",
            fix="exclude",
        ),
        replace(rows[2], fix="dog"),
        rows[3],
    ]
    assert counts == {"excluded": 1, "relabelled": 1, "in_test": 1, "unmatched": 1}
    assert unmatched == fixes[3:]


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"near_duplicates": 5}, ["5 images are nearly equal"]),
        ({"near_duplicates": 6}, ["6 images are nearly equal", "warning: these are 6% of all"]),
        (
            {"duplicates_with_other_label": 2},
            ["warning: 2 images are in the data under two labels"],
        ),
        ({"duplicates_across_subsets": 3}, ["warning: 3 images have copies in another subset"]),
        (
            {"label_fixes": {"excluded": 4, "in_test": 5, "relabelled": 6, "unmatched": 0}},
            ["label fixes: 6 images relabelled, 4 excluded; 5 in test, which keep their labels"],
        ),
    ],
)
def test_the_summary_has_a_line_for_each_finding(changes: dict[str, Any], lines: list[str]) -> None:
    first, *others = judge.summary_lines(SUMMARY | changes)
    assert first == "class cat: 1,200 train, 3 valid"
    assert len(others) == len(lines)
    for line, start in zip(others, lines, strict=True):
        assert line.startswith(start)
