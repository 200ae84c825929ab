"""Two outputs are compared number by number, and what is no number is never taken for close."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from PIL import Image

from pipeline.reproducibility import output_diff
from pipeline.reproducibility.output_diff import Tolerance

NONE = Tolerance(absolute=0, relative=0, pixels=0)
SOME = Tolerance(absolute=0.01, relative=0, pixels=0.3)
NUMBERS = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], dtype=np.float32)
Write = Callable[[Path, NDArray[np.float32]], None]


def to_zarr(path: Path, numbers: NDArray[np.float32]) -> None:
    array = zarr.create_array(path, shape=(2, 3), chunks=(1, 3), dtype="float32")
    array[:] = numbers


def to_h5(path: Path, numbers: NDArray[np.float32]) -> None:
    with h5py.File(path, "w") as file:
        file["layer/kernel"] = numbers


def to_csv(path: Path, numbers: NDArray[np.float32]) -> None:
    lines = (",".join(f"{value!r}" for value in row) for row in numbers.tolist())
    path.write_text("\n".join(["a,b,c", *lines]) + "\n")


def to_html(path: Path, numbers: NDArray[np.float32]) -> None:
    path.write_text(f"<p>loss <b>{numbers[1, 2]:.3f}</b>, x86_64 1a2b</p>\n")


def to_json(path: Path, numbers: NDArray[np.float32]) -> None:
    path.write_text(json.dumps({"test": {"loss": numbers.tolist(), "n": 3}}))


WRITERS: dict[str, tuple[Write, str]] = {
    "features.zarr": (to_zarr, "features.zarr [1, 2]"),
    "model.weights.h5": (to_h5, "model.weights.h5 layer/kernel [1, 2]"),
    "head.npz": (lambda path, numbers: np.savez(path, w=numbers), "head.npz w [1, 2]"),
    "history.csv": (to_csv, "history.csv line 3"),
    "index.html": (to_html, "index.html line 1"),
    "evaluate.json": (to_json, "evaluate.json test loss [1] [2]"),
}


def pair(folder: Path, name: str, other: NDArray[np.float32]) -> tuple[Path, Path]:
    write = WRITERS[name][0]
    for side, numbers in (("first", NUMBERS), ("second", other)):
        (folder / side).mkdir()
        write(folder / side / name, numbers)
    return folder / "first" / name, folder / "second" / name


@pytest.mark.parametrize("name", WRITERS)
def test_the_largest_difference_of_each_format_is_found_with_its_place(
    name: str, tmp_path: Path
) -> None:
    other = NUMBERS.copy()
    other[1, 2] += 0.0078125  # exact in float32
    first, second = pair(tmp_path, name, other)
    found = output_diff.between(first, second, SOME)
    rounded = 0.008 if name == "index.html" else 0.0078125
    assert found.absolute == pytest.approx(rounded, rel=1e-9)
    assert found.relative == pytest.approx(rounded / 32, rel=1e-9)
    assert found.where == WRITERS[name][1]
    assert found.beyond == ""
    strict = output_diff.between(first, second, NONE)
    assert strict.beyond.startswith(f"{WRITERS[name][1]}: 32 and 32.00")


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_content_has_no_difference(name: str, tmp_path: Path) -> None:
    found = output_diff.between(*pair(tmp_path, name, NUMBERS), NONE)
    assert (found.absolute, found.relative, found.pixels, found.beyond) == (0, 0, 0, "")


def test_the_relative_tolerance_is_of_the_first_number(tmp_path: Path) -> None:
    first, second = pair(tmp_path, "head.npz", NUMBERS * np.float32(1.0625))
    assert output_diff.between(first, second, Tolerance(0, 0.0625, 0)).beyond == ""
    assert output_diff.between(first, second, Tolerance(0, 0.0624, 0)).beyond != ""


def test_a_number_that_is_none_is_close_to_nothing_but_itself(tmp_path: Path) -> None:
    other = NUMBERS.copy()
    other[0, 1] = np.nan
    first, second = pair(tmp_path, "head.npz", other)
    assert output_diff.between(first, second, Tolerance(1e9, 1e9, 1)).beyond == (
        "head.npz w [0, 1]: 2 and nan"
    )
    assert output_diff.between(second, second, NONE).beyond == ""


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    ("name", "first", "second", "told"),
    [
        ("a.csv", "cat,1\n", "dog,1\n", "a.csv line 1: its text"),
        ("a.csv", "cat,1\n", "cat,1\ncat,1\n", "a.csv: 2 and 3 lines"),
        ("a.csv", "id a1b2,1\n", "id a1b3,1\n", "a.csv line 1: its text"),
        ("a.json", '{"a": 1}', '{"b": 1}', "a.json: 'a' only in the first"),
        ("a.json", '{"a": true}', '{"a": false}', "a.json a: 'True' and 'False'"),
        ("a.json", '{"a": [1]}', '{"a": [1, 2]}', "a.json a: '[1]' and '[1, 2]'"),
        ("a.json", '{"n": 12000}', '{"n": 12010}', "a.json n: 12000 and 12010"),
        ("a.csv", "id,12000\n", "id,12010\n", "a.csv line 1: 12000 and 12010"),
        ("a.csv", "a,1\n", "a,1\r\n", "a.csv line 1: its text"),
        ("a.npz", b"PK", b"PX", "a.npz: cannot be decoded"),
        ("a.png", b"PNG", b"PNX", "a.png: cannot be decoded"),
        ("a.h5", b"HDF", b"HDX", "a.h5: cannot be decoded"),
        ("a.bin", b"\xff\x00", b"\xff\x01", "a.bin: cannot be decoded"),
    ],
)
def test_no_tolerance_covers_what_is_no_number(
    name: str, first: str | bytes, second: str | bytes, told: str, tmp_path: Path
) -> None:
    write(tmp_path / "1" / name, first)
    write(tmp_path / "2" / name, second)
    found = output_diff.between(tmp_path / "1" / name, tmp_path / "2" / name, Tolerance(9, 9, 1))
    assert found.beyond.startswith(told)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (np.zeros((2, 2), np.float32), "head.npz w: float32[2, 3] and float32[2, 2]"),
        (np.zeros((2, 3), np.float64), "head.npz w: float32[2, 3] and float64[2, 3]"),
    ],
)
def test_arrays_of_other_shape_or_type_are_not_close(
    other: NDArray[np.float32], told: str, tmp_path: Path
) -> None:
    found = output_diff.between(*pair(tmp_path, "head.npz", other), Tolerance(9, 9, 1))
    assert found.beyond == told


def test_whole_numbers_in_an_array_are_compared_exactly(tmp_path: Path) -> None:
    np.savez(tmp_path / "1.npz", label=np.array([2**53, 1]))
    np.savez(tmp_path / "2.npz", label=np.array([2**53 + 1, 1]))
    found = output_diff.between(tmp_path / "1.npz", tmp_path / "2.npz", Tolerance(9, 9, 1))
    assert found.beyond.startswith("1.npz label [0]: ")


def test_text_in_an_array_must_be_the_same(tmp_path: Path) -> None:
    np.savez(tmp_path / "1.npz", name=np.array("resize-1"))
    np.savez(tmp_path / "2.npz", name=np.array("resize-2"))
    found = output_diff.between(tmp_path / "1.npz", tmp_path / "2.npz", Tolerance(9, 9, 1))
    assert found.beyond == "1.npz name: its text"


def test_attributes_of_an_array_must_be_the_same(tmp_path: Path) -> None:
    first, second = pair(tmp_path, "features.zarr", NUMBERS)
    zarr.open_array(second, mode="a").attrs["rows"] = "another ledger"
    assert output_diff.between(first, second, SOME).beyond == "features.zarr: attributes"


def test_of_pictures_the_fraction_of_other_pixels_counts(tmp_path: Path) -> None:
    for name, changed in (("1.png", 0), ("2.png", 3)):
        pixels = np.zeros((5, 4, 3), np.uint8)
        pixels.reshape(-1, 3)[:changed, 1] = 200
        Image.fromarray(pixels).save(tmp_path / name)
    found = output_diff.between(tmp_path / "1.png", tmp_path / "2.png", SOME)
    assert (found.pixels, found.beyond, found.largest()) == (0.15, "", "15.00% of a plot's pixels")
    strict = output_diff.between(tmp_path / "1.png", tmp_path / "2.png", NONE)
    assert strict.beyond == "1.png: 15.00% of its pixels"


def test_folders_are_compared_file_by_file_and_arrays_in_them_whole(tmp_path: Path) -> None:
    for side in ("first", "second"):
        (tmp_path / side).mkdir()
        to_zarr(tmp_path / side / "predictions.zarr", NUMBERS + (side == "second") / 128)
        write(tmp_path / side / "same.txt", "same")
        write(tmp_path / side / f"{side}.txt", "one")
    found = output_diff.between(tmp_path / "first", tmp_path / "second", SOME)
    assert found.beyond == "first.txt: only in the first"
    assert found.where == "predictions.zarr [0, 0]"
    assert found.largest() == "0.0078 absolute, 0.0078 relative; at predictions.zarr [0, 0]"


def test_a_file_in_place_of_a_folder_is_no_match(tmp_path: Path) -> None:
    write(tmp_path / "1", "")
    (tmp_path / "2").mkdir()
    assert output_diff.between(tmp_path / "1", tmp_path / "2", SOME).beyond == (
        "1: a file and a folder"
    )
