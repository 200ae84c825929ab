"""A stored file that is not what its writer wrote is refused; one without a sum is read as is."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.storage import sums

PATH = Path("metrics/kept")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, so that sentences can be compared whole."""
    monkeypatch.chdir(tmp_path)


def change(old: bytes, new: bytes) -> None:
    content = PATH.read_bytes()
    assert old in content
    PATH.write_bytes(content.replace(old, new))


def test_json_comes_back_without_its_sum() -> None:
    sums.write_json(PATH, {"b": (1, 2), "a": {10: 0.1, 9: None}})
    written = json.loads(PATH.read_bytes())
    assert list(written) == ["a", "b", "crc32"]
    assert sums.read_json(PATH, "evaluate") == {"b": [1, 2], "a": {"10": 0.1, "9": None}}


def test_json_that_was_changed_is_refused() -> None:
    sums.write_json(PATH, {"temperature": 1.25})
    change(b"1.25", b"1.35")
    with pytest.raises(UserError) as told:
        sums.read_json(PATH, "evaluate")
    assert str(told.value) == (
        "metrics/kept: expected content that fits its crc32, got 'other content'; "
        "run `dvc repro evaluate` again"
    )


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[1]"])
def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    PATH.parent.mkdir()
    PATH.write_bytes(content)
    with pytest.raises(UserError, match=r"^metrics/kept: expected a JSON object, got "):
        sums.read_json(PATH, "evaluate")


def test_json_of_somebody_else_is_read_as_it_is() -> None:
    PATH.parent.mkdir()
    PATH.write_text('{"a": 1}', encoding="utf-8")
    assert sums.read_json(PATH, "evaluate") == {"a": 1}


def test_a_csv_comes_back_without_its_sums() -> None:
    sums.write_csv(PATH, ["x", "y"], [[1, None], ["a,b", 'say "no"']])
    assert PATH.read_text(encoding="utf-8").splitlines()[0] == "x,y,crc32"
    assert list(sums.read_csv(PATH, "audit")) == [["x", "y"], ["1", ""], ["a,b", 'say "no"']]


@pytest.mark.parametrize(("old", "new"), [(b"2,cat", b"2,cau"), (b"x,label", b"x,labem")])
def test_a_csv_that_was_changed_is_refused_from_that_line_on(old: bytes, new: bytes) -> None:
    sums.write_csv(PATH, ["x", "label"], [[1, "dog"], [2, "cat"]])
    change(old, new)
    at = 3 if b"2" in old else 2
    with pytest.raises(UserError) as told:
        list(sums.read_csv(PATH, "audit"))
    assert str(told.value).startswith(
        f"metrics/kept line {at}: expected fields that fit their crc32, got "
    )


def test_weights_keep_their_content_behind_a_seal() -> None:
    PATH.parent.mkdir()
    with h5py.File(PATH, "w") as file:
        file["kernel"] = np.arange(12)
    without = PATH.stat().st_size
    atomic_files.seal(PATH)
    assert PATH.stat().st_size == without + atomic_files.SEAL_BYTES
    with h5py.File(atomic_files.require_sealed(PATH, "fine_tune")) as file:
        np.testing.assert_array_equal(file["kernel"][()], np.arange(12))


def test_a_sealed_file_that_was_changed_is_refused() -> None:
    PATH.parent.mkdir()
    PATH.write_bytes(b"weights" * 400_000)  # read in several blocks
    atomic_files.seal(PATH)
    assert atomic_files.require_sealed(PATH, "fine_tune") == PATH
    with PATH.open("r+b") as file:
        file.seek(2_000_000)
        file.write(b"!")
    with pytest.raises(UserError) as told:
        atomic_files.require_sealed(PATH, "fine_tune")
    assert str(told.value) == (
        "metrics/kept: expected the bytes that `fine_tune` wrote, got others, by the sha256 behind "
        "them; remove metrics/kept and run `dvc repro` again"
    )


def test_a_file_without_a_seal_is_somebody_elses() -> None:
    PATH.parent.mkdir()
    for content in (b"", b"weights", b"weights" * 100):
        PATH.write_bytes(content)
        assert atomic_files.require_sealed(PATH, "fine_tune") == PATH
