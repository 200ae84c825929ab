"""An index of keys answers as a dict does, in a quarter of the memory."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.storage.keys import KEY_BYTES, KeyIndex, Keys, array


def some(count: int, seed: int = 0, values: int = 256) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, values, (count, KEY_BYTES), dtype=np.uint8)


@pytest.mark.parametrize("known", [0, 1, 50])
def test_an_index_answers_as_a_dict_does(known: int) -> None:
    keys = some(known, values=2)
    keys[:, 2:-2] = 0  # many are equal, and many end with zeros
    others = np.concatenate([keys[::-1], some(20, 1), np.zeros((1, KEY_BYTES), np.uint8)])
    index, expected = KeyIndex(Keys(keys)), dict.fromkeys(map(bytes, keys), 0)
    asked = [bytes(key) for key in others]
    for first in (1, 1000):
        numbers = np.arange(first, first + len(asked))
        pairs = zip(asked, numbers.tolist(), strict=True)
        wanted = [(key, number) for key, number in pairs if key in expected]
        expected.update(wanted)
        assert index.set(asked, numbers) == len(wanted)
        assert index.get(asked).tolist() == [expected.get(key, 0) for key in asked]
    assert index.has(asked).tolist() == [key in expected for key in asked]


def test_keys_are_a_sequence_of_bytes() -> None:
    content = some(5)
    keys, expected = Keys(content), [bytes(key) for key in content]
    assert (len(keys), list(keys), keys[1:4], keys[-1]) == (5, expected, expected[1:4], expected[4])
    for one in (keys, expected):
        np.testing.assert_array_equal(array(one), content)


def test_an_index_takes_forty_bytes_a_key() -> None:
    keys = Keys(some(100_000))
    tracemalloc.start()
    try:
        index = KeyIndex(keys)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert index.has(keys[:9]).all()
    assert held < 41 * len(keys)
