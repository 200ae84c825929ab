"""numpy's products use the same kernels on every processor that has them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime import machine

ROOT = Path(__file__).parents[1]
KERNELS = """
import stages, numpy, scipy.linalg, threadpoolctl
print({one.get("architecture") for one in threadpoolctl.threadpool_info()})
"""


@pytest.mark.parametrize("given", [None, "SkylakeX", "Nehalem"])
def test_the_kernels_are_those_of_avx2_whatever_the_environment_says(given: str | None) -> None:
    if "AVX2" not in machine.instruction_sets():
        pytest.skip("this processor has no AVX2")
    variables = {} if given is None else {"OPENBLAS_CORETYPE": given}
    printed = subprocess.run(
        [sys.executable, "-c", KERNELS],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | variables,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert printed == "{'Haswell'}\n"


def test_a_processor_without_them_chooses_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "SkylakeX")
    monkeypatch.setattr(cpu, "flags", lambda: frozenset({"sse4_1", "avx"}))
    blas.choose_kernels()
    assert "OPENBLAS_CORETYPE" not in os.environ
