"""Compare two outputs: the same bytes, or else number by number.

Files are decoded by their extension: zarr arrays, npz, HDF5, plots; others are text with numbers in
it. Numbers a and b of the first and second output are close if |a - b| <= absolute + relative *
|a|, as in `numpy.isclose`; whole numbers and anything that is no number must be the same.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import zarr
from PIL import Image

PLOTS = (".png", ".jpg", ".webp")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w)")
BLOCK = 2**22  # elements compared at a time


class Tolerance(NamedTuple):
    """Accepted differences: of numbers, and the fraction of a plot's pixels."""

    absolute: float
    relative: float
    pixels: float


@dataclass
class Difference:
    """The differences so far."""

    tolerance: Tolerance
    absolute: float = 0.0  # largest difference of two numbers
    relative: float = 0.0  # also
    where: str = ""  # place of the largest absolute one, such as `weights.zarr [3, 17]`
    pixels: float = 0.0  # largest fraction of a plot's pixels
    beyond: str = ""  # the first difference outside the tolerance

    def largest(self) -> str:
        """Describe the largest differences."""
        numbers = f"{self.absolute:.2g} absolute, {self.relative:.2g} relative; at {self.where}"
        pixels = f"{self.pixels:.2%} of a plot's pixels"
        return "; ".join([numbers] * bool(self.where) + [pixels] * bool(self.pixels))

    def add(self, where: str, what: str) -> None:
        """Add a difference that no tolerance covers."""
        self.beyond = self.beyond or f"{where}: {what}"

    def add_content(self, where: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
        """Compare the values under each name: arrays, numbers or texts."""
        for name in sorted(first.keys() ^ second.keys()):
            self.add(where, f"{name!r} only in the {'first' if name in first else 'second'}")
        for name in first:
            if name in second:
                self._add_values(f"{where} {name}".rstrip(), first[name], second[name])

    def _add_values(self, where: str, first: Any, second: Any) -> None:
        if hasattr(first, "dtype") and hasattr(second, "dtype"):
            self._add_arrays(where, first, second)
        elif all(type(one) in (int, float) for one in (first, second)):
            exact = type(first) is type(second) is int
            self._add_numbers(where, 0, np.asarray(first), np.asarray(second), exact=exact)
        elif first != second:
            self.add(where, f"{str(first)[:40]!r} and {str(second)[:40]!r}")

    def _add_arrays(self, where: str, first: Any, second: Any) -> None:
        types = [f"{one.dtype}{list(one.shape)}" for one in (first, second)]
        if types[0] != types[1]:
            self.add(where, " and ".join(types))
        elif first.dtype.kind not in "biuf" or not first.shape:
            self._add_values(where, *(np.asarray(one[...]).tolist() for one in (first, second)))
        else:
            rows = max(1, BLOCK // max(1, int(np.prod(first.shape[1:]))))
            for start in range(0, first.shape[0], rows):
                parts = (np.asarray(one[start : start + rows]) for one in (first, second))
                self._add_numbers(where, start, *parts, exact=first.dtype.kind != "f")

    def _add_numbers(self, where: str, row: int, first: Any, second: Any, *, exact: bool) -> None:
        """Compare two numbers, or two arrays of one shape that begin at a row."""
        a, b = (np.ravel(np.asarray(side, dtype=np.float64)) for side in (first, second))
        same = np.ravel(first == second) | (np.isnan(a) & np.isnan(b))
        if same.all():
            return
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            gap = np.where(same, 0.0, np.abs(a - b))
            gap = np.where(np.isnan(gap), np.inf, gap)  # a NaN against a number
            ratio = np.where(same, 0.0, gap / np.abs(a))
            close = np.isclose(b, a, rtol=self.tolerance.relative, atol=self.tolerance.absolute)

        def place(element: int) -> str:
            index = list(map(int, np.unravel_index(element, first.shape)))
            return f"{where} {[index[0] + row, *index[1:]]}" if index else where

        worst = int(gap.argmax())
        if gap[worst] > self.absolute:
            self.absolute, self.where = float(gap[worst]), place(worst)
        self.relative = max(self.relative, float(np.nanmax(ratio)))
        beyond = ~same & (exact | ~close)
        if beyond.any():
            i = int(beyond.argmax())
            self.add(place(i), f"{a[i]:.7g} and {b[i]:.7g}")

    def add_plots(self, where: str, first: Path, second: Path) -> None:
        """Compare the pixels of two plots."""
        with Image.open(first) as a, Image.open(second) as b:
            if a.size != b.size:
                self.add(where, f"{a.width} x {a.height} and {b.width} x {b.height} pixels")
                return
            pixels = [np.asarray(image.convert("RGBA")) for image in (a, b)]
        changed = float((pixels[0] != pixels[1]).any(axis=2).mean())
        self.pixels = max(self.pixels, changed)
        if changed > self.tolerance.pixels:
            self.add(where, f"{changed:.2%} of its pixels")


def between(first: Path, second: Path, tolerance: Tolerance) -> Difference:
    """Compare two files, or two folders file by file.

    A file that cannot be decoded, or is in only one of them, is beyond any tolerance.
    """
    difference = Difference(tolerance)
    a, b = _parts(first), _parts(second)
    difference.add_content(first.name, dict.fromkeys(a), dict.fromkeys(b))
    for name in sorted(a.keys() & b.keys()):
        one, other = a[name], b[name]
        try:
            if one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes():
                continue
            if one.suffix in PLOTS:
                difference.add_plots(name, one, other)
            else:
                difference.add_content(name, _decoded(one), _decoded(other))
        except (OSError, ValueError, KeyError) as error:
            difference.add(name, f"cannot be decoded ({' '.join(str(error).split())[:100]})")
    return difference


def _parts(output: Path) -> dict[str, Path]:
    """Return the files and zarr arrays of an output by their names."""
    arrays = {path.parent for path in output.rglob("zarr.json")}
    files = output.rglob("*") if output.is_dir() else [output]
    parts = {
        next((folder for folder in path.parents if folder in arrays), path)
        for path in files
        if path.is_file()
    }
    return {path.relative_to(output.parent).as_posix(): path for path in parts}


def _decoded(path: Path) -> dict[str, Any]:
    """Return the arrays, numbers and texts of a file or zarr array by their places in it."""
    if path.is_dir():
        array = zarr.open_array(path, mode="r")
        return {"": array, "attributes": str(sorted(array.attrs.asdict().items()))}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            names: list[str] = []
            file.visit(names.append)
            return {name: file[name][()] for name in names if isinstance(file[name], h5py.Dataset)}
    content: dict[str, Any] = {}
    for number, line in enumerate(path.read_bytes().decode().split("\n"), start=1):
        content[f"line {number}"] = NUMBER.sub("0", line)
        for i, digits in enumerate(NUMBER.findall(line), start=1):
            whole = digits.lstrip("+-").isdigit()
            content[f"line {number} number {i}"] = int(digits) if whole else float(digits)
    return content
