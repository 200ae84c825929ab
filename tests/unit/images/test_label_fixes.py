"""A fix finds its file by the whole path or by the end of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.images import label_fixes
from pipeline.runtime.errors import UserError
from pipeline.storage.ledger import Ledger, LedgerRow

CLASSES = ("cat", "dog")
FILE = Path("data/fixes.csv")


def row(member: str, subset: str = "train", reason: str = "") -> LedgerRow:
    return LedgerRow("", "train", member, "cat", 0, subset, "", 9, 6, "RGB", "group", reason)


ROWS = [row(name) for name in ("train/cat.1.jpg", "train/dog.1.jpg", "more/dog.1.jpg", "top.jpg")]


@pytest.mark.parametrize(
    ("name", "index"),
    [
        *[("train/cat.1.jpg", 0), ("cat.1.jpg", 0), ("more/dog.1.jpg", 2), ("top.jpg", 3)],
        *[(name, None) for name in ("at.1.jpg", "other/cat.1.jpg", "cat.1", "rain/cat.1.jpg")],
    ],
)
def test_a_fix_matches_a_path_or_its_end(name: str, index: int | None) -> None:
    fixed = Ledger(ROWS)
    _, unmatched = label_fixes.apply([(name, "dog", "x")], fixed, CLASSES, FILE)
    assert [row.fix for row in fixed] == ["dog" if at == index else "" for at in range(4)]
    assert unmatched == ([name] if index is None else [])


@pytest.mark.parametrize(
    ("fixes", "sentence"),
    [
        ([("dog.1.jpg", "cat")], "expected one file of that name, got .* give more of its path"),
        ([("top.jpg", "cow")], "expected as label .*, got 'cow'; correct that line"),
        ([("top.jpg", "cat"), ("top.jpg", "dog")], "expected one line about it, got two; remove"),
    ],
)
def test_an_ambiguous_or_unknown_fix_is_refused(
    fixes: list[tuple[str, str]], sentence: str
) -> None:
    with pytest.raises(UserError, match=rf"^{FILE}: {fixes[0][0]}: {sentence}"):
        label_fixes.apply([(*fix, "x") for fix in fixes], Ledger(ROWS), CLASSES, FILE)


def test_fixes_change_train_and_valid_and_only_mark_test() -> None:
    rows = [row("1"), row("2", "valid"), row("3", "test"), row("4", "", "empty file")]
    fixes = [("1", "dog", ""), ("2", "exclude", ""), ("3", "dog", ""), ("4", "dog", "")]
    fixed = Ledger(rows)
    counts, unmatched = label_fixes.apply(fixes, fixed, CLASSES, FILE)
    reason = "excluded by fixes.csv: no source given"
    assert fixed == [
        replace(rows[0], label="dog", index=1, fix="dog"),
        replace(rows[1], subset="", group="", reason=reason, fix="exclude"),
        replace(rows[2], fix="dog"),
        rows[3],
    ]
    assert counts == {"excluded": 1, "relabelled": 1, "in_test": 1, "unmatched": 1}
    assert unmatched == ["4"]


def test_fixes_are_read_in_nfc(tmp_path: Path) -> None:
    (tmp_path / "fixes.csv").write_text("member,label,source\ncafe\u0301.jpg,e\u0301,a\n", "utf-8")
    assert label_fixes.read(tmp_path / "fixes.csv") == [["caf\u00e9.jpg", "\u00e9", "a"]]
