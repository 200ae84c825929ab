"""Bytes changed at random, in the ways that parsers trip over; the same for the same generator."""

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

EDGES = [0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000]
EDGES += [0xFFFFFFFF, 10_000, 16_384, 65_500]
ENDS = 64  # bytes at either end, where headers and directories lie

Rng = np.random.Generator
T = TypeVar("T")


def mutated(rng: Rng, good: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """One of `good` with one to some ten changes; `tokens` are words that mean something in it."""
    content = bytearray(_one_of(rng, good))
    for _ in range(int(rng.geometric(0.4))):
        other = _one_of(rng, good)
        _one_of(rng, _CHANGES)(rng, content, other, tokens)
    return bytes(content)


def with_whole_chunks(content: bytes) -> bytes:
    """A PNG whose checksums fit again, so that what stands in its chunks is looked at."""
    changed, at = bytearray(content), 8
    while at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        if end + 4 > len(changed):
            break
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(changed[at + 4 : end]))
        at = end + 4
    return bytes(changed)


def _one_of(rng: Rng, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _place(rng: Rng, content: bytearray) -> int:
    if not content:
        return 0
    near = int(rng.integers(min(len(content), ENDS)))
    return (near, len(content) - 1 - near, int(rng.integers(len(content))))[rng.integers(3)]


def _flip(rng: Rng, content: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    if content:
        content[_place(rng, content)] ^= 1 << int(rng.integers(8))


def _set(rng: Rng, content: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    if content:
        content[_place(rng, content)] = int(rng.integers(256))


def _edge(rng: Rng, content: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    """A number at the edge of what some number of bytes holds."""
    size, at = int(rng.choice([1, 2, 4, 8])), _place(rng, content)
    value = _one_of(rng, EDGES) % 256**size
    content[at : at + size] = value.to_bytes(size, "little" if rng.integers(2) else "big")


def _token(rng: Rng, content: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    if tokens:
        token, at = _one_of(rng, tokens), _place(rng, content)
        content[at : at + len(token) * int(rng.integers(2))] = token


def _cut(rng: Rng, content: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    del content[_place(rng, content) :]


def _remove(rng: Rng, content: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    at = _place(rng, content)
    del content[at : at + int(rng.geometric(0.05))]


def _repeat(rng: Rng, content: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    at, size = _place(rng, content), int(rng.geometric(0.05))
    content[at:at] = content[at : at + size] * int(rng.integers(1, 5))


def _zero(rng: Rng, content: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    at, size = _place(rng, content), int(rng.geometric(0.1))
    content[at : at + size] = bytes(len(content[at : at + size]))


def _splice(rng: Rng, content: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    """The start of one and the end of another."""
    content[_place(rng, content) :] = other[_place(rng, bytearray(other)) :]


_CHANGES: list[Callable[[Rng, bytearray, bytes, Sequence[bytes]], None]] = [
    *(_flip, _set, _edge, _edge, _token, _cut, _remove, _repeat, _zero, _splice)
]
