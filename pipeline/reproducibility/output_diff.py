"""How two outputs differ: not at all, byte for byte; else number by number.

Files are decoded by their extension: zarr arrays, npz, HDF5, JSON and other text, pictures. What is
no number must be the same; numbers a and b of the first and second output are taken for the same
where |a - b| <= absolute + relative * |a|, as `numpy.isclose` does it.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

PICTURES = (".png", ".jpg", ".webp")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w)")
SUM = "crc32"  # the key, column or attribute in which a file keeps the sum of the rest
BLOCK = 2**22  # elements that are compared at a time


class Tolerance(NamedTuple):
    """What may differ: numbers, and the fraction of a picture's pixels."""

    absolute: float
    relative: float
    pixels: float


class Difference:
    """What was found different so far.

    Attributes:
        absolute, relative: largest differences of two numbers.
        where: place of the largest absolute one, such as `weights.zarr [3, 17]`.
        pixels: largest fraction of a picture's pixels.
        beyond: the first thing that is outside the tolerance; "" if nothing is.
    """

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self.absolute = self.relative = self.pixels = 0.0
        self.where = self.beyond = ""

    def other(self, where: str, told: str) -> None:
        """Take down something that no tolerance covers."""
        self.beyond = self.beyond or f"{where}: {told}"

    def numbers(
        self, first: Any, second: Any, place: Callable[[int], str], *, whole: bool = False
    ) -> None:
        """Compare two arrays of one shape; `place` names an element by its flat index.

        Whole numbers count or name something, so none is taken for another.
        """
        equal = np.ravel(np.asarray(first) == np.asarray(second))
        a, b = (np.ravel(np.asarray(given, dtype=np.float64)) for given in (first, second))
        same = equal | (np.isnan(a) & np.isnan(b))
        if same.all():
            return
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            gap = np.where(same, 0.0, np.abs(a - b))
            gap = np.where(np.isnan(gap), np.inf, gap)  # a NaN against a number
            ratio = np.where(same, 0.0, gap / np.abs(a))
            beyond = ~np.isclose(b, a, rtol=self._tolerance.relative, atol=self._tolerance.absolute)
            beyond |= whole
        worst = int(gap.argmax())
        if gap[worst] > self.absolute:
            self.absolute, self.where = float(gap[worst]), place(worst)
        self.relative = max(self.relative, float(np.nanmax(ratio)))
        if (beyond & ~same).any():
            first_beyond = int((beyond & ~same).argmax())
            self.other(place(first_beyond), f"{a[first_beyond]:.7g} and {b[first_beyond]:.7g}")

    def picture(self, where: str, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> None:
        """Compare two pictures, uint8 (height, width, channels)."""
        if first.shape != second.shape:
            self.other(where, f"{_size(first)} and {_size(second)}")
            return
        changed = float((first != second).any(axis=2).mean())
        self.pixels = max(self.pixels, changed)
        if changed > self._tolerance.pixels:
            self.other(where, f"{changed:.2%} of its pixels")

    def told(self) -> str:
        """The largest differences, in words."""
        parts = []
        if self.where:
            parts.append(f"{self.absolute:.2g} absolute, {self.relative:.2g} relative")
            parts.append(f"at {self.where}")
        if self.pixels:
            parts.append(f"{self.pixels:.2%} of a picture's pixels")
        return "; ".join(parts)


def between(first: Path, second: Path, tolerance: Tolerance) -> Difference:
    """Compare two files, or two folders file by file.

    What cannot be decoded, or is in only one of the two, is beyond any tolerance.
    """
    found = Difference(tolerance)
    for name, a, b in _pairs(first, second, found):
        try:
            _compare(name, a, b, found)
        except (OSError, ValueError, KeyError, UnidentifiedImageError) as error:
            found.other(name, f"cannot be decoded ({' '.join(str(error).split())[:100]})")
    return found


def _pairs(first: Path, second: Path, found: Difference) -> Iterator[tuple[str, Path, Path]]:
    """What is to be compared by itself: files that differ, and zarr arrays with such files."""
    if first.is_dir() != second.is_dir():
        found.other(first.name, "a file and a folder")
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
        found.other(name, f"only in the {'first' if name in names[0] else 'second'}")
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


def _compare(name: str, first: Path, second: Path, found: Difference) -> None:
    suffix = first.suffix
    if first.is_dir():
        _zarr(name, first, second, found)
    elif suffix in PICTURES:
        found.picture(name, _pixels(first), _pixels(second))
    elif suffix == ".npz":
        with np.load(first, allow_pickle=False) as a, np.load(second, allow_pickle=False) as b:
            _arrays(name, dict(a), dict(b), found)
    elif suffix == ".h5":
        with h5py.File(first) as a, h5py.File(second) as b:
            _arrays(name, _datasets(a), _datasets(b), found)
    elif suffix == ".json":
        a, b = (json.loads(path.read_text(encoding="utf-8")) for path in (first, second))
        _json(name, _without_sum(a), _without_sum(b), found)
    else:
        _text(name, first, second, found)


def _zarr(name: str, first: Path, second: Path, found: Difference) -> None:
    a, b = (zarr.open(path, mode="r") for path in (first, second))
    if _without_sum(a.attrs.asdict()) != _without_sum(b.attrs.asdict()):
        found.other(name, "attributes")
    if not (isinstance(a, zarr.Array) and isinstance(b, zarr.Array)):
        return
    if a.shape != b.shape or a.dtype != b.dtype:
        found.other(name, f"{a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}")
        return
    rows = (a.shards or a.chunks)[0] if a.ndim else 1
    for start in range(0, a.shape[0] if a.ndim else 1, rows):
        part = slice(start, start + rows) if a.ndim else ()
        _array(name, np.asarray(a[part]), np.asarray(b[part]), found, start)


def _arrays(
    name: str, first: Mapping[str, Any], second: Mapping[str, Any], found: Difference
) -> None:
    for key in sorted(first.keys() ^ second.keys()):
        found.other(name, f"{key!r} only in the {'first' if key in first else 'second'}")
    for key in sorted(first.keys() & second.keys()):
        _array(f"{name} {key}", np.asarray(first[key]), np.asarray(second[key]), found)


def _array(
    name: str, first: NDArray[Any], second: NDArray[Any], found: Difference, row: int = 0
) -> None:
    if first.shape != second.shape or first.dtype != second.dtype:
        told = (f"{one.dtype}{list(one.shape)}" for one in (first, second))
        found.other(name, " and ".join(told))
    elif first.dtype.kind not in "biuf":
        if first.tobytes() != second.tobytes():
            found.other(name, "its text")
    else:
        a, b = first.ravel(), second.ravel()
        for start in range(0, max(a.size, 1), BLOCK):

            def place(at: int, start: int = start) -> str:
                index = list(map(int, np.unravel_index(start + at, first.shape)))
                return f"{name} {[index[0] + row, *index[1:]] if index else index}"

            blocks = a[start : start + BLOCK], b[start : start + BLOCK]
            found.numbers(*blocks, place, whole=first.dtype.kind != "f")


def _datasets(file: h5py.File) -> dict[str, Any]:
    found: dict[str, Any] = {}
    file.visititems(
        lambda name, node: (
            found.__setitem__(name, node[()]) if isinstance(node, h5py.Dataset) else None
        )
    )
    return found


def _json(where: str, first: Any, second: Any, found: Difference) -> None:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() ^ second.keys()):
            found.other(where, f"{key!r} only in the {'first' if key in first else 'second'}")
        for key in sorted(first.keys() & second.keys()):
            _json(f"{where} {key}", first[key], second[key], found)
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for at, pair in enumerate(zip(first, second, strict=True)):
            _json(f"{where} [{at}]", *pair, found)
    elif _is_number(first) and _is_number(second):
        whole = isinstance(first, int) and isinstance(second, int)
        found.numbers([first], [second], lambda _: where, whole=whole)
    elif first != second:
        found.other(where, f"{str(first)[:40]!r} and {str(second)[:40]!r}")


def _without_sum(content: Any) -> Any:
    """What a sum is of; it says no more than the rest."""
    if not isinstance(content, dict):
        return content
    return {key: value for key, value in content.items() if key != SUM}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(name: str, first: Path, second: Path, found: Difference) -> None:
    """Line by line, numbers within lines as numbers."""
    lines = [path.read_bytes().decode().split("\n") for path in (first, second)]
    if all(of[0].endswith(f",{SUM}") for of in lines):
        lines = [[line.rpartition(",")[0] for line in of] for of in lines]
    if len(lines[0]) != len(lines[1]):
        found.other(name, f"{len(lines[0]):,} and {len(lines[1]):,} lines")
        return
    for number, (a, b) in enumerate(zip(*lines, strict=True), start=1):
        where = f"{name} line {number}"
        if NUMBER.sub("0", a) != NUMBER.sub("0", b):
            found.other(where, "its text")
        else:
            for x, y in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True):
                whole = x.lstrip("+-").isdigit() and y.lstrip("+-").isdigit()
                kind = int if whole else float
                found.numbers([kind(x)], [kind(y)], lambda _: where, whole=whole)  # noqa: B023


def _pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


def _size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
