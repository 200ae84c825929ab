"""Hypothesis strategy for bytes that are damaged in the ways that parsers stumble over."""

import struct
import zlib
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

LIMITS = [0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000]
LIMITS += [0xFFFFFFFF, 10_000, 16_384, 65_500]
ENDS = 64  # bytes at either end, where headers and directories are


@st.composite
def mutated(draw: Any, good: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """Draw one of `good` and damage it one to six times; `tokens` mean something in it."""
    content = bytearray(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(1, 6))):
        at, change = draw(_position(len(content))), draw(st.sampled_from(CHANGES))
        if change == "bit" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "byte" and content:
            content[at] = draw(st.integers(0, 255))
        elif change == "number":
            size, order = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from(ORDERS))
            number = draw(st.sampled_from(LIMITS)) % 256**size
            content[at : at + size] = number.to_bytes(size, order)
        elif change == "token" and tokens:
            token = draw(st.sampled_from(tokens))
            content[at : at + len(token) * draw(st.integers(0, 1))] = token
        elif change == "cut":
            del content[at:]
        elif change == "remove":
            del content[at : at + draw(st.integers(1, 60))]
        elif change == "repeat":
            content[at:at] = content[at : at + draw(st.integers(1, 60))] * draw(st.integers(1, 4))
        elif change == "zero":
            end = min(len(content), at + draw(st.integers(1, 30)))
            content[at:end] = bytes(end - at)
        elif change == "splice":
            other = draw(st.sampled_from(good))
            content[at:] = other[draw(_position(len(other))) :]
    return bytes(content)


ORDERS = ("little", "big")
CHANGES = ("bit", "byte", "number", "number", "token", "cut", "remove", "repeat", "zero", "splice")


def _position(length: int) -> st.SearchStrategy[int]:
    last = max(0, length - 1)
    near = st.integers(0, min(last, ENDS))
    return st.one_of(near, near.map(lambda distance: last - distance), st.integers(0, last))


def with_valid_chunks(content: bytes) -> bytes:
    """Correct the checksums of a PNG, so that damage inside of its chunks is read."""
    changed, at = bytearray(content), 8
    while at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        if end + 4 > len(changed):
            break
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(changed[at + 4 : end]))
        at = end + 4
    return bytes(changed)
