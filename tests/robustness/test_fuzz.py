"""A few of the damaged inputs that `make fuzz` tries by the thousand, and faults it notices."""

import sys
from pathlib import Path

import fuzzing
import hypothesis
import pytest
from fuzz_kinds import KINDS
from mutation import mutated, with_valid_chunks

INPUTS = 40


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "weights" else ()) for name in KINDS],
)
def test_damaged_inputs_end_in_a_sentence_or_a_reason(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = fuzzing.search(name, INPUTS, seed=1)
    assert INPUTS // 2 < result["outcomes"].total() <= INPUTS  # hypothesis may skip repetitions
    assert set(result["outcomes"]) <= {"accepted", "rejected", "refused"}
    assert result["slowest"] < fuzzing.SECONDS


def test_the_same_seed_draws_the_same_inputs() -> None:
    good = [b"some good bytes" * 9, b"and others" * 9]

    def draw(seed: int) -> list[bytes]:
        drawn: list[bytes] = []

        @hypothesis.seed(seed)
        @hypothesis.settings(max_examples=40, database=None, deadline=None)
        @hypothesis.given(mutated(good, [b"token"]))
        def collect(content: bytes) -> None:
            drawn.append(content)

        collect()
        return drawn

    first = draw(0)
    assert first == draw(0) != draw(1)
    assert len(set(first)) > 20


def test_checksums_of_a_png_are_corrected() -> None:
    images = KINDS["image"].prepare()
    (good,) = {one for one in images if one.startswith(b"\x89PNG") and len(one) == 69}
    assert with_valid_chunks(good[:30] + bytes(3) + good[33:]) == good


FAULTY = """
import signal
import fuzzing
import numpy as np
from fuzz_kinds import KINDS, Kind

fuzzing.SECONDS = 1

def hang(content):
    while True:
        pass

KINDS["raises"] = Kind(1, lambda: [b"good"], lambda content: 1 / 0)
KINDS["hangs"] = Kind(1, lambda: [b"good"], hang)
KINDS["grows"] = Kind(1, lambda: [b"good"], lambda content: np.ones(2**28).sum())
KINDS["ends"] = Kind(1, lambda: [b"good"], lambda content: signal.raise_signal(signal.SIGSEGV))
fuzzing.main()
"""


@pytest.mark.parametrize(
    ("name", "status", "trace"),
    [
        ("raises", 1, "ZeroDivisionError: division by zero"),
        ("hangs", -27, "in hang"),
        ("grows", 1, "Unable to allocate 2.00 GiB"),
        ("ends", -11, "Fatal Python error: Segmentation fault"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
@pytest.mark.slow
def test_a_fault_is_noticed_with_its_input(
    tmp_path: Path, name: str, status: int, trace: str
) -> None:
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY, encoding="utf-8")
    result = fuzzing.search_apart(name, 9, 0, str(script))
    assert result["fault"].startswith(f"status {status}\n")
    assert trace in result["fault"]
    assert isinstance(result["input"], bytes)
