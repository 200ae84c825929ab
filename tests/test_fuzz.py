"""A few of the damaged inputs that `make fuzz` tries by the thousand, and faults it notices."""

import sys
from pathlib import Path

import fuzzing
import numpy as np
import pytest
from fuzz_kinds import KINDS
from mutation import mutated, with_whole_chunks

INPUTS = 100


@pytest.mark.parametrize("name", KINDS)
def test_damaged_inputs_end_in_a_sentence_or_a_reason(name: str) -> None:
    found = fuzzing.tried(name, 1, 0, INPUTS)
    assert found["faults"] == []
    # Hypothesis may know fewer inputs than it is asked for.
    assert INPUTS // 2 < sum(found["words"].values()) <= INPUTS
    assert set(found["words"]) <= {"accepted", "rejected", "refused"}
    assert found["slowest"] < fuzzing.SECONDS
    assert found["peak"] <= fuzzing.MEMORY


def test_the_same_seed_gives_the_same_inputs_and_another_one_others() -> None:
    good = [b"some good bytes" * 9, b"and others" * 9]
    made = [
        [mutated(np.random.default_rng([seed, number]), good) for number in range(99)]
        for seed in (0, 0, 1)
    ]
    assert made[0] == made[1] != made[2]
    assert len(set(made[0])) > 90


def test_checksums_of_a_png_are_brought_in_order() -> None:
    png = KINDS["image"].prepare()[2:]
    (whole,) = (content for content in png if content.startswith(b"\x89PNG") and len(content) == 69)
    damaged = whole[:30] + bytes(3) + whole[33:]
    assert with_whole_chunks(damaged) == whole


FAULTY = """
import signal, sys
import fuzzing
import numpy as np
from fuzz_kinds import KINDS, Kind

fuzzing.SECONDS = 1

def hangs(content):
    while True:
        pass

KINDS["raises"] = Kind(1, lambda: [b"good"], lambda content: 1 / 0)
KINDS["hangs"] = Kind(1, lambda: [b"good"], hangs)
KINDS["grows"] = Kind(1, lambda: [b"good"], lambda content: np.ones(2**28).sum())
KINDS["ends"] = Kind(1, lambda: [b"good"], lambda content: signal.raise_signal(signal.SIGSEGV))
fuzzing.main()
"""


@pytest.mark.parametrize(
    ("name", "key", "told"),
    [
        ("raises", "ZeroDivisionError at ", "ZeroDivisionError: division by zero"),
        ("hangs", "process ended with -27", "in hangs"),
        ("grows", "MemoryError at ", "Unable to allocate 2.00 GiB"),
        ("ends", "process ended with -11", "Fatal Python error: Segmentation fault"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and signals told on Linux")
@pytest.mark.slow
def test_a_fault_is_noticed_and_its_input_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, key: str, told: str
) -> None:
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY, encoding="utf-8")
    found = fuzzing.tried(name, 0, 7, 1, str(script))
    assert found["words"] == {"fault": 1, **({"untold": 0} if "process" in key else {})}
    ((fault),) = found["faults"]
    assert fault["key"].startswith(key)
    assert told in fault["told"]
    monkeypatch.chdir(tmp_path)
    fuzzing.keep(name, found["faults"])
    assert Path(f"fuzzed/{name}-7").read_bytes() == bytes.fromhex(fault["content"])
    assert told in Path(f"fuzzed/{name}-7.txt").read_text(encoding="utf-8")
