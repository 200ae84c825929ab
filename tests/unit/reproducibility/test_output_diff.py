"""Outputs are compared number by number; nothing but numbers can be close."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from PIL import Image

from pipeline.reproducibility import output_diff
from pipeline.reproducibility.output_diff import Difference, Tolerance

NONE, SOME, ANY = Tolerance(0, 0, 0), Tolerance(0.01, 0, 0.3), Tolerance(9, 9, 1)
NUMBERS = np.array([[1.0, np.nan, 4.0], [8.0, 16.0, 32.0]], dtype=np.float32)


def to_h5(path: Path, numbers: Any) -> None:
    with h5py.File(path, "w") as file:
        file["layer/kernel"] = numbers


def to_csv(path: Path, numbers: Any) -> None:
    lines = (",".join(f"{value!r}" for value in row) for row in numbers.tolist())
    path.write_text("\n".join(["a,b,c", *lines]) + "\n")


WRITERS: dict[str, tuple[Callable[[Path, Any], object], str]] = {
    "features.zarr": (
        lambda path, numbers: zarr.create_array(path, data=numbers),
        "features.zarr [1, 2]",
    ),
    "model.weights.h5": (to_h5, "model.weights.h5 layer/kernel [1, 2]"),
    "head.npz": (lambda path, numbers: np.savez(path, w=numbers), "head.npz w [1, 2]"),
    "history.csv": (to_csv, "history.csv line 3 number 3"),
}


def compared(folder: Path, name: str, first: Any, second: Any, tolerance: Tolerance) -> Difference:
    """Compare two files of a name, each with text, bytes or a writer's numbers."""
    paths = [folder / side / name for side in ("1", "2")]
    for path, content in zip(paths, (first, second), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str | bytes):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            WRITERS[name][0](path, content)
    return output_diff.between(paths[0], paths[1], tolerance)


@pytest.mark.parametrize("name", WRITERS)
def test_the_largest_difference_of_each_format_has_its_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_diff, "BLOCK", 3)  # numbers at a time
    same = compared(tmp_path / "same", name, NUMBERS, NUMBERS, NONE)
    assert (same.largest(), same.beyond) == ("", "")
    other, where = NUMBERS.copy(), WRITERS[name][1]
    other[1, 2] += 0.0078125  # exact in float32
    difference = compared(tmp_path, name, NUMBERS, other, SOME)
    assert (difference.absolute, difference.relative) == (0.0078125, 0.0078125 / 32)
    assert (difference.where, difference.beyond) == (where, "")
    strict = output_diff.between(tmp_path / "1" / name, tmp_path / "2" / name, NONE)
    assert strict.beyond == f"{where}: 32 and 32.00781"


def test_the_relative_tolerance_is_of_the_first_number(tmp_path: Path) -> None:
    other = NUMBERS * np.float32(1.0625)
    for relative, close in ((0.0625, True), (0.0624, False)):
        tolerance = Tolerance(0, relative, 0)
        difference = compared(tmp_path / str(relative), "head.npz", NUMBERS, other, tolerance)
        assert (difference.beyond == "") is close


def png(changed: int, width: int = 4) -> bytes:
    pixels = np.zeros((5, width, 3), np.uint8)
    pixels.reshape(-1, 3)[:changed, 1] = 200
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "first", "second", "beyond"),
    [
        ("a.csv", "cat 1a,1\n", "cat 1b,1\n", "a.csv line 1: 'cat 1a,0' and 'cat 1b,0'"),
        ("a.csv", "cat,1\n", "cat,1\ncat,1\n", "a.csv: 'line 2 number 1' only in the second"),
        ("a.json", '{"n": 12000}', '{"n": 12010}', "a.json line 1 number 1: 12000 and 12010"),
        ("a.png", b"PNG", b"PNX", "a.png: cannot be decoded"),
        ("a.h5", b"HDF", b"HDX", "a.h5: cannot be decoded"),
        ("a.png", png(0), png(0, width=3), "a.png: 4 x 5 and 3 x 5 pixels"),
        ("head.npz", NUMBERS, NUMBERS[:, :2], "head.npz w: float32[2, 3] and float32[2, 2]"),
        ("head.npz", NUMBERS, np.nan_to_num(NUMBERS), "head.npz w [0, 1]: nan and 0"),
        ("a.npz", npz(n=np.array([2**53])), npz(n=np.array([2**53 + 1])), "a.npz n [0]: "),
        ("a.npz", npz(n=np.array("a")), npz(n=np.array("b")), "a.npz n: 'a' and 'b'"),
    ],
)
def test_no_tolerance_covers(
    name: str, first: Any, second: Any, beyond: str, tmp_path: Path
) -> None:
    assert compared(tmp_path, name, first, second, ANY).beyond.startswith(beyond)


def test_of_plots_the_fraction_of_differing_pixels_counts(tmp_path: Path) -> None:
    close = compared(tmp_path, "1.png", png(0), png(3), SOME)
    assert (close.pixels, close.beyond, close.largest()) == (0.15, "", "15.00% of a plot's pixels")
    assert compared(tmp_path, "1.png", png(0), png(3), NONE).beyond == "1.png: 15.00% of its pixels"


def test_folders_are_compared_file_by_file_and_arrays_as_one(tmp_path: Path) -> None:
    folders = [tmp_path / side / "model" for side in "12"]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        zarr.create_array(folder / "a.zarr", data=NUMBERS + np.float32(number / 128))
        (folder / "same.txt").write_text("same")
        (folder / f"{number}.txt").write_text("one")
    difference = output_diff.between(folders[0], folders[1], SOME)
    assert difference.beyond == "model: 'model/0.txt' only in the first"
    assert difference.largest() == "0.0078 absolute, 0.0078 relative; at model/a.zarr [0, 0]"
    zarr.open_array(folders[1] / "a.zarr", mode="a").attrs["rows"] = "another ledger"
    difference = output_diff.between(folders[0] / "a.zarr", folders[1] / "a.zarr", SOME)
    assert difference.beyond.startswith("a.zarr attributes: '[]' and ")
