"""Differences between two `code.yaml` are told in words."""

from typing import Any

import pytest

from pipeline.reproducibility import code_changes

OLD: dict[str, Any] = {
    "extract": {"pipeline/a.py": "1", "cykooz.resizer": "4.0.1", "keras": "3.15.1"},
    "split": {"pipeline/a.py": "1"},
    "backend": {"jax": {}, "tensorflow": {"tensorflow": "2.21.0"}},
}
NEWER = OLD["extract"] | {"keras": "3.15.2", "cykooz.resizer": "5"}
CHANGED_BACKENDS = ["jax none -> 1", "tensorflow 2.21.0 -> none"]


@pytest.mark.parametrize(
    ("changes", "stages", "modules"),
    [
        ({}, [], []),
        ({"split": {"pipeline/a.py": "2"}}, ["split"], ["pipeline/a.py"]),
        ({"split": {"b.py": "1"}}, ["split"], ["b.py added", "pipeline/a.py removed"]),
        ({"extract": NEWER}, ["extract"], ["cykooz.resizer 4.0.1 -> 5", "keras 3.15.1 -> 3.15.2"]),
        ({"backend": {"jax": {"jax": "1"}}}, ["other backends or engines"], CHANGED_BACKENDS),
        ({"new": {"pipeline/a.py": "1"}}, ["new"], ["pipeline/a.py added"]),
    ],
)
def test_stages_and_modules_that_differ(
    changes: dict[str, Any], stages: list[str], modules: list[str]
) -> None:
    assert code_changes.code_differences(OLD, OLD | changes) == (stages, modules)


def test_a_run_without_the_file_differs_in_all() -> None:
    stages, modules = code_changes.code_differences({}, OLD)
    assert (len(stages), modules) == (3, ["code.yaml added"])


def test_settings_are_compared_key_by_key() -> None:
    old = {"convnet": {"views": 2, "augment": None, "compute": {"threads": 2}}}
    new = {"convnet": {"views": 2, "augment": {"flip": True}, "compute": {"threads": 1}}}
    assert code_changes.differences(old, new) == [
        "convnet.augment.flip none -> True",
        "convnet.compute.threads 2 -> 1",
    ]
    assert code_changes.differences(2, 3) == ["2 -> 3"]


def test_only_the_first_differences_are_listed() -> None:
    assert code_changes.listed("abc") == "a, b, c"
    assert code_changes.listed("abcdefg") == "a, b, c, d, e and 2 more"


@pytest.mark.parametrize("text", [None, "", "- a", "a: ["])
def test_an_absent_or_damaged_file_is_empty(text: str | None) -> None:
    assert code_changes.parsed(text) == {}
