"""Rules by which files become rows: rejections, groups, subsets, the summary."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.images import judge
from pipeline.runtime.errors import UserError
from pipeline.storage.ledger import Ledger, LedgerRow

CLASSES = ("cat", "dog")


def row(number: int, label: str = "cat", **changes: Any) -> LedgerRow:
    """A row with other bytes than any other, not assigned yet."""
    index = CLASSES.index(label) if label else -1
    name, subset = f"{label}.{number}" if label else str(number), "" if label else "unlabelled"
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    known = (name, "train", f"{name}.png", label, index, subset)
    return replace(LedgerRow(*known, sha256, 9, 6, "RGB", sha256, ""), **changes)


@pytest.mark.parametrize(("most", "refused"), [(0.48, False), (0.479, True), (0, True)])
def test_exactly_as_many_rejected_as_allowed_pass(most: float, refused: bool) -> None:
    rejected = [row(number, reason="empty file") for number in range(12)]
    rows = [*rejected, *(row(number) for number in range(12, 25))]
    if not refused:
        assert judge.require_few_rejected(Ledger(rows), most) == rejected
        return
    with pytest.raises(UserError, match=r"got 12 of 25: cat.0.png .*; fix or remove") as raised:
        judge.require_few_rejected(Ledger(rows), most)
    assert str(raised.value).count("(empty file)") == judge.MOST_LISTED


def test_labelled_images_may_share_an_id() -> None:
    judge.require_unique_ids(Ledger([row(1), row(1), row(1, ""), row(2, "")]))
    with pytest.raises(UserError, match=r"got '1' in data.train and in data.test"):
        judge.require_unique_ids(Ledger([row(1, ""), row(1, "", source="test")]))


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
    copy = row(1, sha256=row(0).sha256)
    rows = [row(0), copy, row(9, reason="empty file", group=""), row(2), row(3)]
    grouped = Ledger(rows)
    judge.group(grouped, thumbnails, threshold)
    assert [row.group for row in grouped if row.accepted] == [f"train/{name}" for name in groups]
    assert grouped[2] == rows[2]


def images(cats: int, dogs: int) -> list[LedgerRow]:
    """Accepted rows, all different."""
    return [row(i, label) for label, n in zip(CLASSES, (cats, dogs), strict=True) for i in range(n)]


def split(
    rows: Sequence[LedgerRow],
    preset: Sequence[str | None] = (),
    *,
    valid: float = 0.2,
    test: float = 0.1,
    seed: int = 0,
) -> list[str]:
    """The subset of each row; `preset` may give all of them."""
    known = zip(rows, preset or [row.subset for row in rows], strict=True)
    assigned = Ledger(replace(row, subset=one or "") for row, one in known)
    judge.assign(assigned, CLASSES, valid=valid, test=test, seed=seed)
    assert [row.member for row in assigned] == [row.member for row in rows]
    return [row.subset for row in assigned]


def counts(rows: Sequence[LedgerRow], subsets: Sequence[str]) -> dict[str, dict[str, int]]:
    found = Counter(zip((row.label for row in rows), subsets, strict=True))
    return {one: {name: found[one, name] for name in ("train", "valid", "test")} for one in CLASSES}


@pytest.mark.parametrize(
    ("cats", "dogs", "valid", "test"),
    [(100, 50, 0.2, 0.1), (40, 400, 0.25, 0.5), (3, 9, 0.3, 0.3), (9, 9, 0.2, 0)],
)
def test_each_class_is_split_by_the_fractions(
    cats: int, dogs: int, valid: float, test: float
) -> None:
    rows, expected = images(cats, dogs), {}
    for label, total in zip(CLASSES, (cats, dogs), strict=True):
        held_out = {"valid": round(valid * total), "test": round(test * total)}
        expected[label] = {"train": total - sum(held_out.values())} | held_out
    assert counts(rows, split(rows, valid=valid, test=test)) == expected


def test_a_small_class_has_one_image_in_each_subset() -> None:
    rows = images(3, 100)
    assert counts(rows, split(rows))["cat"] == {"train": 1, "valid": 1, "test": 1}


def test_a_group_with_two_labels_shares_a_subset_in_any_order() -> None:
    rows = images(30, 30)
    rows[:10] = [replace(rows[i], group=rows[30 + i].group) for i in range(10)]
    subsets = split(rows)
    assert subsets[:10] == subsets[30:40]
    assert split(rows[::-1])[::-1] == subsets
    renamed = [replace(row, group=f"another {row.group}", id="") for row in rows]
    assert split(renamed) == subsets


def test_the_order_of_the_images_changes_nothing() -> None:
    rows = [*images(60, 40), row(0, ""), row(99, reason="empty file")]
    subsets = split(rows)
    assert subsets[-2:] == ["unlabelled", ""]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(rows))
        assert split([rows[i] for i in order]) == [subsets[i] for i in order]


def test_an_added_or_removed_image_moves_at_most_two_others() -> None:
    rows = images(60, 40)
    subsets = dict(zip((row.id for row in rows), split(rows), strict=True))
    added = [[*rows, row(60 + extra)] for extra in range(50)]
    removed = [rows[:gone] + rows[gone + 1 :] for gone in range(60)]
    for others in added + removed:
        now = zip(others, split(others), strict=True)
        moved = [row for row, subset in now if subsets.get(row.id, subset) != subset]
        assert len(moved) <= 2
        assert all(row.label == "cat" for row in moved)


def test_another_seed_gives_another_split_of_the_same_sizes() -> None:
    rows = images(60, 40)
    first, second = (split(rows, seed=seed) for seed in (0, 1))
    assert first != second
    assert counts(rows, first) == counts(rows, second)


def test_preset_subsets_are_kept() -> None:
    preset = (["train"] * 20 + ["valid"] * 5 + ["test"] * 5) * 2
    assert split(images(30, 30), preset) == split(images(30, 30), preset, test=0) == preset


@pytest.mark.parametrize(("kept", "drawn", "size"), [("test", "valid", 4), ("valid", "test", 2)])
def test_a_missing_subset_is_drawn_from_train(kept: str, drawn: str, size: int) -> None:
    rows, preset = images(30, 30), (["train"] * 20 + [kept] * 10) * 2
    subsets = split(rows, preset)
    sizes = {"train": 20 - size, drawn: size, kept: 10}
    assert counts(rows, subsets) == {"cat": sizes, "dog": sizes}
    assert [old == kept for old in preset] == [new == kept for new in subsets]


COPIES = [replace(row, group="one", sha256="0") for row in images(10, 10)[:10]] + images(0, 10)
LACKING = ["train"] * 8 + ["valid"] * 2 + ["train"] * 10


@pytest.mark.parametrize(
    ("rows", "preset", "test", "sentence"),
    [
        (images(2, 20), (), 0.1, "'cat': .* each of train, valid, test, got none in valid of 2 "),
        (images(1, 20), (), 0, "'cat': .* each of train, valid, got none in valid of 1 "),
        (images(10, 10), LACKING, 0, "'dog': .* got none in valid of 10 "),
        (
            COPIES,
            (),
            0.1,
            "'cat': .* of 10 readable in all, of which 1 differ.* split.near_duplicates",
        ),
        (images(20, 0), (), 0, "'dog', got none; fix its files, or remove them"),
    ],
)
def test_too_few_images_of_a_class_are_refused(
    rows: list[LedgerRow], preset: list[str], test: float, sentence: str
) -> None:
    with pytest.raises(UserError, match=f"class {sentence}"):
        split(rows, preset, test=test)


NO_FIXES = {"excluded": 0, "in_test": 0, "relabelled": 0, "unmatched": 0}
SUMMARY: dict[str, Any] = {
    "subsets": {"cat": {"valid": 3, "train": 1200}},
    "label_fixes": NO_FIXES,
    "near_duplicates": 0,
    "accepted": 100,
    "duplicates_with_other_label": 0,
    "duplicates_across_subsets": 0,
}


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"near_duplicates": 5}, ["5 images are nearly equal"]),
        ({"near_duplicates": 6}, ["6 images are nearly equal", "warning: these are 6% of all"]),
        (
            {"duplicates_with_other_label": 2, "duplicates_across_subsets": 3},
            ["warning: 2 images are in the data under two", "warning: 3 images have copies in"],
        ),
        (
            {"label_fixes": NO_FIXES | {"excluded": 4, "in_test": 5, "relabelled": 6}},
            ["label fixes: 6 images relabelled, 4 excluded; 5 in test, which keep their labels"],
        ),
    ],
)
def test_the_summary_has_a_line_for_each_finding(changes: dict[str, Any], lines: list[str]) -> None:
    first, *others = judge.summary_lines(SUMMARY | changes)
    assert first == "class cat: 1,200 train, 3 valid"
    assert [line[: len(start)] for line, start in zip(others, lines, strict=True)] == lines
