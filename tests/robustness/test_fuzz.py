"""A few of the damaged inputs that `make fuzz` tries by the thousand."""

from pathlib import Path

import fuzzing
import pytest
from fuzz_kinds import KINDS

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
