"""Many texts in little memory, in arrays of numpy's strings of any length; natural order."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

STRINGS = np.dtypes.StringDType()
BATCH = 2**14  # texts that are converted at a time

Ints = NDArray[np.int64]
Strings = NDArray[Any]  # of `STRINGS`


class Texts(Sequence[str]):
    """A sequence of texts that holds them in one array."""

    def __init__(self, texts: Iterable[str] | Strings = ()) -> None:
        self.array = texts if isinstance(texts, np.ndarray) else strings(texts)

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> "Texts": ...
    def __getitem__(self, place: int | slice) -> "str | Texts":
        return Texts(self.array[place]) if isinstance(place, slice) else self.array[place]

    def __iter__(self) -> Iterator[str]:
        return self.of(np.arange(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def of(self, places: Ints) -> Iterator[str]:
        """Yield the listed texts."""
        for at in range(0, len(places), BATCH):
            yield from self.array[places[at : at + BATCH]].tolist()


class Collected:
    """Texts that come one by one."""

    def __init__(self) -> None:
        self._parts: list[Strings] = []
        self._last: list[str] = []

    def __len__(self) -> int:
        return sum(map(len, self._parts)) + len(self._last)

    def append(self, text: str) -> None:
        self._last.append(text)
        if len(self._last) == BATCH:
            self._parts.append(np.array(self._last, STRINGS))
            self._last = []

    def texts(self) -> Iterator[str]:
        """Yield them."""
        for part in self._parts:
            yield from part.tolist()
        yield from self._last


def strings(texts: Iterable[str]) -> Strings:
    """Return texts as an array."""
    texts = iter(texts)
    parts = [np.array([], STRINGS)]
    while batch := list(itertools.islice(texts, BATCH)):
        parts.append(np.array(batch, STRINGS))
    return np.concatenate(parts)


def hashes(texts: Iterable[str], count: int) -> Ints:
    """Return a hash of each text, other ones in another process."""
    return np.fromiter(map(hash, texts), np.int64, count)


def first_of_equal(texts: Strings) -> Ints:
    """Return the place of the first text that equals each one, (n,)."""
    _, first, of_text = np.unique(hashes(texts, len(texts)), return_index=True, return_inverse=True)
    first, every = first[of_text], np.arange(len(texts))
    copies = np.flatnonzero(first != every)
    other = copies[texts[copies] != texts[first[copies]]]  # of the same hash by chance
    first[other] = other
    return np.asarray(first, np.int64)


def repeated(texts: Iterable[str], again: Iterable[str], count: int) -> set[str]:
    """Return the texts that occur more than once; `again` yields the same ones as `texts`."""
    hashed = np.sort(hashes(texts, count))
    twice = set(hashed[1:][hashed[1:] == hashed[:-1]].tolist())
    if not twice:
        return set()
    counts = Counter(text for text in again if hash(text) in twice)
    return {text for text, number in counts.items() if number > 1}


def natural_key(name: str) -> str:
    """Return a sort key that puts "cat.2.jpg" before "cat.10.jpg"; different for any two names."""
    tokens = re.findall("([^0-9]*)([0-9]*)", name)
    numbers = ((text, digits, digits.lstrip("0")) for text, digits in tokens)
    # A longer number is a larger one: no int(), which refuses more than 4,300 digits.
    parts = (f"{text}\1{len(n):06}{n}" if digits else f"{text}\1\1" for text, digits, n in numbers)
    return f"{''.join(parts)}\0{name}"


def naturally_sorted(names: Sequence[str]) -> Texts:
    """Return the names in natural order."""
    texts = names if isinstance(names, Texts) else Texts(names)
    keys = map(natural_key, texts)
    if all(one <= other for one, other in itertools.pairwise(keys)):
        return texts
    order = np.argsort(strings(map(natural_key, texts)), kind="stable")
    return Texts(texts.array[order])
