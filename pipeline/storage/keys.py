"""Keys of 32 bytes, such as sha256, of many rows, in arrays; and an index of them."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 32


class Keys(Sequence[bytes]):
    """A sequence of keys in one array, uint8 (n, 32)."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> list[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | list[bytes]:
        if isinstance(place, slice):
            return [key.tobytes() for key in self.array[place]]
        key: bytes = self.array[place].tobytes()
        return key

    def __iter__(self) -> Iterator[bytes]:
        return map(np.ndarray.tobytes, self.array)


def array(keys: Sequence[bytes]) -> NDArray[np.uint8]:
    """Return keys as one array (n, 32)."""
    if isinstance(keys, Keys):
        return keys.array
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


class KeyIndex:
    """A number for each of a fixed set of keys, at first 0; 40 bytes a key."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = np.unique(_comparable(keys))
        self._numbers = np.zeros(len(self._keys), np.int64)

    def get(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the number of each key; 0 for others."""
        places, known = self._find(keys)
        numbers = np.zeros(len(keys), np.int64)
        numbers[known] = self._numbers[places]
        return numbers

    def set(self, keys: Sequence[bytes], numbers: NDArray[np.int64]) -> int:
        """Set the numbers of the known ones of these keys, the last of equal keys; count them."""
        places, known = self._find(keys)
        self._numbers[places] = numbers[known]
        return len(places)

    def has(self, keys: Sequence[bytes]) -> NDArray[np.bool_]:
        """Return which keys are in the set."""
        return self._find(keys)[1]

    def _find(self, keys: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the places of the known keys, and which are known."""
        asked = _comparable(keys)
        places = np.searchsorted(self._keys, asked)
        known = places < len(self._keys)
        known[known] = self._keys[places[known]] == asked[known]
        return places[known], known


def _comparable(keys: Sequence[bytes]) -> NDArray[np.bytes_]:
    return np.ascontiguousarray(array(keys)).view(f"S{KEY_BYTES}").ravel()
