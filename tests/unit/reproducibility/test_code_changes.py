"""Differences between two `code.yaml` are told in words."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.reproducibility import code_changes

OLD: dict[str, Any] = {
    "extract": {"pipeline/a.py": "1", "cykooz.resizer": "4.0.1", "keras": "3.15.1"},
    "split": {"pipeline/a.py": "1"},
    "backend": {"jax": {}, "tensorflow": {"tensorflow": "2.21.0"}},
}
NEWER = OLD["extract"] | {"keras": "3.15.2", "cykooz.resizer": "5"}
EDITED = OLD | {"split": {"b.py": "1"}}
JAX = OLD | {"backend": {"jax": {"jax": "1"}, "tensorflow": {"tensorflow": "2.21.0"}}}


@pytest.mark.parametrize(
    ("old", "new", "stages", "changes"),
    [
        (OLD, OLD, [], []),
        (OLD, EDITED, ["split"], ["b.py added", "pipeline/a.py removed"]),
        (
            OLD,
            OLD | {"extract": NEWER, "split": {"pipeline/a.py": "2"}},
            ["extract", "split"],
            ["cykooz.resizer 4.0.1 -> 5", "keras 3.15.1 -> 3.15.2", "pipeline/a.py"],
        ),
        (OLD, JAX, ["other backends or engines"], ["jax.jax none -> 1"]),
        (OLD, OLD | {"new": {"pipeline/a.py": "1"}}, ["new"], ["pipeline/a.py added"]),
        ({}, {"split": OLD["split"]}, ["split"], ["code.yaml added"]),
    ],
)
def test_stages_and_modules_that_differ(
    old: dict[str, Any], new: dict[str, Any], stages: list[str], changes: list[str]
) -> None:
    assert code_changes.code_differences(old, new) == (stages, changes)


def test_settings_are_compared_key_by_key_and_only_the_first_differences_listed() -> None:
    old = {"convnet": {"views": 2, "augment": None, "compute": {"threads": 2}}}
    new = {"convnet": {"views": 2, "augment": {"flip": True}, "compute": {"threads": 1}}}
    expected = ["convnet.augment.flip none -> True", "convnet.compute.threads 2 -> 1"]
    assert code_changes.differences(old, new) == expected
    assert code_changes.listed("abc") == "a, b, c"
    assert code_changes.listed("abcdefg") == "a, b, c, d, e and 2 more"


@pytest.mark.parametrize("text", [None, b"", b"- a", b"a: [", b"\xff"])
def test_an_absent_or_damaged_file_is_empty(text: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "code.yaml"
    if text is not None:
        path.write_bytes(text)
    assert code_changes.read(path) == {}
