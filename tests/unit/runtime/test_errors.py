"""Hints at known names."""

import pytest

from pipeline.runtime import errors

KNOWN = ("cats", "Dogs", "horses")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cat", "did you mean 'cats'?"),
        ("CATS", "did you mean 'cats'?"),
        ("dog", "did you mean 'Dogs'?"),
        ("zebra", "remove it"),
        ("", "remove it"),
    ],
)
def test_a_name_in_any_case_is_hinted_at_if_it_is_near(name: str, hint: str) -> None:
    assert errors.did_you_mean(name, KNOWN, "remove it") == hint
    assert errors.did_you_mean(name, (), "remove it") == "remove it"


def test_the_nearest_names_come_first_and_are_three_at_most() -> None:
    assert errors.nearest("horse", [*KNOWN, "house", "x"]).split(", ")[:2] == ["horses", "house"]
    assert errors.nearest("zzz", KNOWN).count(",") == 2
