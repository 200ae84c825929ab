"""A fix finds its file by the whole path or by the end of it."""

import pytest

from pipeline.images.label_fixes import Fix, match
from pipeline.runtime.errors import UserError

CLASSES = ("cat", "dog")
MEMBERS = ["train/cat.1.jpg", "train/dog.1.jpg", "more/dog.1.jpg", "top.jpg"]


@pytest.mark.parametrize(
    ("named", "place"),
    [("train/cat.1.jpg", 0), ("cat.1.jpg", 0), ("more/dog.1.jpg", 2), ("top.jpg", 3)],
)
def test_a_fix_matches_a_path_or_its_end(named: str, place: int) -> None:
    fix = Fix(named, "dog", "x")
    assert match([fix], MEMBERS, CLASSES, "f") == ({place: fix}, [])


@pytest.mark.parametrize("named", ["at.1.jpg", "other/cat.1.jpg", "cat.1", "rain/cat.1.jpg"])
def test_another_path_matches_nothing(named: str) -> None:
    fix = Fix(named, "exclude", "x")
    assert match([fix], MEMBERS, CLASSES, "f") == ({}, [fix])


def test_a_name_that_two_files_end_with_is_refused() -> None:
    with pytest.raises(UserError) as refused:
        match([Fix("dog.1.jpg", "cat", "x")], MEMBERS, CLASSES, "fixes.csv")
    assert str(refused.value) == (
        "fixes.csv: dog.1.jpg: expected one file of that name, got train/dog.1.jpg and "
        "more/dog.1.jpg; give more of its path"
    )
