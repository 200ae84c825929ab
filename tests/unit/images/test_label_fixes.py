"""A fix finds its file by the whole path or by the end of it."""

import pytest

from pipeline.images.label_fixes import Fix, match
from pipeline.runtime.errors import UserError

CLASSES = ("cat", "dog")
MEMBERS = ["train/cat.1.jpg", "train/dog.1.jpg", "more/dog.1.jpg", "top.jpg"]


@pytest.mark.parametrize(
    ("name", "index"),
    [("train/cat.1.jpg", 0), ("cat.1.jpg", 0), ("more/dog.1.jpg", 2), ("top.jpg", 3)],
)
def test_a_fix_matches_a_path_or_its_end(name: str, index: int) -> None:
    fix = Fix(name, "dog", "x")
    assert match([fix], MEMBERS, CLASSES, "f") == ({index: fix}, [])


@pytest.mark.parametrize("name", ["at.1.jpg", "other/cat.1.jpg", "cat.1", "rain/cat.1.jpg"])
def test_another_path_matches_nothing(name: str) -> None:
    fix = Fix(name, "exclude", "x")
    assert match([fix], MEMBERS, CLASSES, "f") == ({}, [fix])


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
    with pytest.raises(UserError, match=rf"^f: {fixes[0][0]}: {sentence}"):
        match([Fix(*fix, "x") for fix in fixes], MEMBERS, CLASSES, "f")
