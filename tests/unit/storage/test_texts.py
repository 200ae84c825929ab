"""Texts in arrays: sequences, equal texts, natural order; the memory of names and of rows."""

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.images import labels, sources
from pipeline.storage import ledger, texts

ODD = ["", "a\0", "\0", "caf\u00e9", "\U0001f431" * 9, "x" * 300]


def test_texts_are_a_sequence() -> None:
    held = texts.Texts(ODD)
    assert (len(held), list(held), held[4], held[-1]) == (6, ODD, ODD[4], ODD[-1])
    assert held[1:3] == ODD[1:3]
    assert [*held.of(np.array([5, 0]))] == [ODD[5], ODD[0]]
    assert held != ODD[:-1]


@pytest.mark.parametrize("same_hash", [False, True])
def test_equal_texts_are_found_whatever_their_hashes(
    same_hash: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if same_hash:
        monkeypatch.setattr(texts, "hash", lambda text: 7, raising=False)
    names = ["a", "b", "a", "c", "a"]
    assert texts.repeated(iter(names), iter(names), 5) == {"a"}
    assert texts.first_of_equal(texts.strings(names)).tolist() == [0, 1, 0, 3, 0]


def test_names_are_sorted_naturally_without_a_copy_if_they_are() -> None:
    ordered = texts.Texts([f"{number}.jpg" for number in range(12)])
    assert texts.naturally_sorted(ordered) is ordered
    assert texts.naturally_sorted([*ordered][::-1]) == list(ordered)


def held_by(make: Callable[[], object]) -> int:
    """Return the bytes that a result takes."""
    tracemalloc.start()
    try:
        kept = make()
        assert kept is not None
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_row_of_the_ledger_takes_at_most_250_bytes_and_a_member_200(tmp_path: Path) -> None:
    count, path = 20_000, tmp_path / "train.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            archive.writestr(f"train/{('cat', 'dog')[number % 2]}.{number}.jpg", b"")
    rows = (
        ledger.LedgerRow(
            *(f"cat.{number}", "train", f"train/cat.{number}.jpg", "cat", 0, "train"),
            *(f"{number:064x}", 200, 200, "RGB", f"train/cat.{number}", ""),
        )
        for number in range(count)
    )
    assert held_by(lambda: ledger.Ledger(rows)) < 250 * count

    def opened() -> object:
        source = sources.open_source(path)
        source.close()
        return source, labels.infer_layout(source.names, str(path), None)

    assert held_by(opened) < 200 * count
