"""Compare two outputs: the same bytes, or else number by number.

Files are decoded by their extension: zarr arrays, npz, HDF5, JSON, plots, other text. Numbers a and
b of the first and second output are close if |a - b| <= absolute + relative * |a|, as in
`numpy.isclose`; whole numbers and anything that is no number must be the same.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

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

    def add(self, where: str, what: str) -> None:
        """Add a difference that no tolerance covers."""
        self.beyond = self.beyond or f"{where}: {what}"

    def add_numbers(
        self, first: Any, second: Any, place: Callable[[int], str], *, exact: bool
    ) -> None:
        """Compare two arrays of one shape; `place` names an element by its flat index."""
        equal = np.ravel(np.asarray(first) == np.asarray(second))
        a, b = (np.ravel(np.asarray(side, dtype=np.float64)) for side in (first, second))
        same = equal | (np.isnan(a) & np.isnan(b))
        if same.all():
            return
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            gap = np.where(same, 0.0, np.abs(a - b))
            gap = np.where(np.isnan(gap), np.inf, gap)  # a NaN against a number
            ratio = np.where(same, 0.0, gap / np.abs(a))
            close = np.isclose(b, a, rtol=self.tolerance.relative, atol=self.tolerance.absolute)
            beyond = ~same & (exact | ~close)
        worst = int(gap.argmax())
        if gap[worst] > self.absolute:
            self.absolute, self.where = float(gap[worst]), place(worst)
        self.relative = max(self.relative, float(np.nanmax(ratio)))
        if beyond.any():
            i = int(beyond.argmax())
            self.add(place(i), f"{a[i]:.7g} and {b[i]:.7g}")

    def add_plot(self, where: str, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> None:
        """Compare the pixels of two plots, uint8 (height, width, channels)."""
        if first.shape != second.shape:
            sizes = (f"{one.shape[1]} x {one.shape[0]} pixels" for one in (first, second))
            self.add(where, " and ".join(sizes))
            return
        changed = float((first != second).any(axis=2).mean())
        self.pixels = max(self.pixels, changed)
        if changed > self.tolerance.pixels:
            self.add(where, f"{changed:.2%} of its pixels")

    def largest(self) -> str:
        """Describe the largest differences."""
        numbers = f"{self.absolute:.2g} absolute, {self.relative:.2g} relative; at {self.where}"
        pixels = f"{self.pixels:.2%} of a plot's pixels"
        return "; ".join([numbers] * bool(self.where) + [pixels] * bool(self.pixels))


def between(first: Path, second: Path, tolerance: Tolerance) -> Difference:
    """Compare two files, or two folders file by file.

    A file that cannot be decoded, or is in only one of them, is beyond any tolerance.
    """
    difference = Difference(tolerance)
    for name, a, b in _pairs(first, second, difference):
        try:
            _compare(name, a, b, difference)
        except (OSError, ValueError, KeyError, UnidentifiedImageError) as error:
            difference.add(name, f"cannot be decoded ({' '.join(str(error).split())[:100]})")
    return difference


def _pairs(first: Path, second: Path, difference: Difference) -> Iterator[tuple[str, Path, Path]]:
    """Yield pairs to compare: files that differ, and zarr arrays with such files."""
    if first.is_dir() != second.is_dir():
        difference.add(first.name, "a file and a folder")
        return
    if first.is_file():
        if first.read_bytes() != second.read_bytes():
            yield first.name, first, second
        return
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (first, second)
    ]
    for name in sorted(names[0] ^ names[1]):
        difference.add(name, _only_in(name in names[0]))
    arrays = {}
    for name in sorted(names[0] & names[1]):
        if (first / name).read_bytes() == (second / name).read_bytes():
            continue
        array = next((at for at in (first / name).parents if (at / "zarr.json").is_file()), None)
        if array is None:
            yield name, first / name, second / name
        else:
            arrays[array] = second / array.relative_to(first)
    for a, b in arrays.items():
        yield str(a.relative_to(first)) if a != first else first.name, a, b


def _only_in(in_first: bool) -> str:
    return f"only in the {'first' if in_first else 'second'}"


def _compare(name: str, first: Path, second: Path, difference: Difference) -> None:
    suffix = first.suffix
    if first.is_dir():
        _zarr(name, first, second, difference)
    elif suffix in PLOTS:
        with Image.open(first) as a, Image.open(second) as b:
            difference.add_plot(name, *(np.asarray(image.convert("RGBA")) for image in (a, b)))
    elif suffix == ".npz":
        with np.load(first, allow_pickle=False) as a, np.load(second, allow_pickle=False) as b:
            _arrays(name, dict(a), dict(b), difference)
    elif suffix == ".h5":
        with h5py.File(first) as a, h5py.File(second) as b:
            _arrays(name, _datasets(a), _datasets(b), difference)
    elif suffix == ".json":
        a, b = (json.loads(path.read_text(encoding="utf-8")) for path in (first, second))
        _json(name, a, b, difference)
    else:
        _text(name, first, second, difference)


def _zarr(name: str, first: Path, second: Path, difference: Difference) -> None:
    a, b = (zarr.open(path, mode="r") for path in (first, second))
    if a.attrs.asdict() != b.attrs.asdict():
        difference.add(name, "attributes")
    if not (isinstance(a, zarr.Array) and isinstance(b, zarr.Array)):
        return
    if not _same_type(name, a, b, difference):
        return
    rows = (a.shards or a.chunks)[0] if a.ndim else 1
    for start in range(0, a.shape[0] if a.ndim else 1, rows):
        part = slice(start, start + rows) if a.ndim else ()
        _array(name, np.asarray(a[part]), np.asarray(b[part]), difference, start)


def _arrays(
    name: str, first: Mapping[str, Any], second: Mapping[str, Any], difference: Difference
) -> None:
    for key in sorted(first.keys() ^ second.keys()):
        difference.add(name, f"{key!r} {_only_in(key in first)}")
    for key in sorted(first.keys() & second.keys()):
        _array(f"{name} {key}", np.asarray(first[key]), np.asarray(second[key]), difference)


def _same_type(name: str, first: Any, second: Any, difference: Difference) -> bool:
    types = [f"{one.dtype}{list(one.shape)}" for one in (first, second)]
    if types[0] != types[1]:
        difference.add(name, " and ".join(types))
    return types[0] == types[1]


def _array(
    name: str, first: NDArray[Any], second: NDArray[Any], difference: Difference, row: int = 0
) -> None:
    if not _same_type(name, first, second, difference):
        return
    if first.dtype.kind not in "biuf":
        if first.tobytes() != second.tobytes():
            difference.add(name, "its text")
    else:
        a, b = first.ravel(), second.ravel()
        for start in range(0, max(a.size, 1), BLOCK):

            def place(at: int, start: int = start) -> str:
                index = list(map(int, np.unravel_index(start + at, first.shape)))
                return f"{name} {[index[0] + row, *index[1:]] if index else index}"

            blocks = a[start : start + BLOCK], b[start : start + BLOCK]
            difference.add_numbers(*blocks, place, exact=first.dtype.kind != "f")


def _datasets(file: h5py.File) -> dict[str, Any]:
    names: list[str] = []
    file.visit(names.append)
    return {name: file[name][()] for name in names if isinstance(file[name], h5py.Dataset)}


def _json(where: str, first: Any, second: Any, difference: Difference) -> None:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() ^ second.keys()):
            difference.add(where, f"{key!r} {_only_in(key in first)}")
        for key in sorted(first.keys() & second.keys()):
            _json(f"{where} {key}", first[key], second[key], difference)
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for at, pair in enumerate(zip(first, second, strict=True)):
            _json(f"{where} [{at}]", *pair, difference)
    elif all(type(value) in (int, float) for value in (first, second)):
        whole = isinstance(first, int) and isinstance(second, int)
        difference.add_numbers([first], [second], lambda _: where, exact=whole)
    elif first != second:
        difference.add(where, f"{str(first)[:40]!r} and {str(second)[:40]!r}")


def _text(name: str, first: Path, second: Path, difference: Difference) -> None:
    """Compare line by line, numbers in a line as numbers."""
    lines = [path.read_bytes().decode().split("\n") for path in (first, second)]
    if len(lines[0]) != len(lines[1]):
        difference.add(name, f"{len(lines[0]):,} and {len(lines[1]):,} lines")
        return
    for number, (a, b) in enumerate(zip(*lines, strict=True), start=1):
        where = f"{name} line {number}"
        if NUMBER.sub("0", a) != NUMBER.sub("0", b):
            difference.add(where, "its text")
        else:
            for x, y in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True):
                whole = x.lstrip("+-").isdigit() and y.lstrip("+-").isdigit()
                kind = int if whole else float
                difference.add_numbers([kind(x)], [kind(y)], lambda _: where, exact=whole)  # noqa: B023
