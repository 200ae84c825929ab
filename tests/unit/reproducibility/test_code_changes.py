"""Differences between two `code.yaml` are told in words."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.reproducibility import code_changes

OLD: dict[str, Any] = {
    "extract": {"pipeline/a.py": "1", "keras": "3.15.1"},
    "split": {"pipeline/a.py": "1"},
    "backend": {"jax": {}, "tensorflow": {"tensorflow": "2.21.0"}},
}
MOVED = OLD | {"split": {"b.py": "1"}}
NEWER = OLD | {"extract": OLD["extract"] | {"keras": "3.15.2"}, "split": {"pipeline/a.py": "2"}}
JAX = OLD | {"backend": OLD["backend"] | {"jax": {"jax": "1"}}}


@pytest.mark.parametrize(
    ("old", "new", "stages", "changes"),
    [
        (OLD, OLD, [], []),
        (OLD, MOVED, ["split"], ["b.py added", "pipeline/a.py removed"]),
        (OLD, NEWER, ["extract", "split"], ["keras 3.15.1 -> 3.15.2", "pipeline/a.py"]),
        (OLD, JAX, ["other backends or engines"], ["jax.jax none -> 1"]),
        (OLD, OLD | {"new": {"pipeline/a.py": "1"}}, ["new"], ["pipeline/a.py added"]),
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


def test_an_absent_or_damaged_file_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "code.yaml"
    assert code_changes.read(path) == {}
    for text in (b"", b"- a", b"a: [", b"\xff"):
        path.write_bytes(text)
        assert code_changes.read(path) == {}
