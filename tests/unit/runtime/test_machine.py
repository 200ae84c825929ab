"""The processor as the system describes it, what is refused on it, and the record of machines."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from project import ROOT

from pipeline.runtime import machine
from pipeline.runtime.errors import UserError
from pipeline.schema import Compute

AVX2 = "fpu sse2 sse4_1 avx avx2 fma"
AVX512 = f"{AVX2} avx512f avx512bw avx512vl avx512dq avx512_vnni"

SetFlags = Callable[[str], None]


@pytest.fixture
def set_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SetFlags]:
    """Let the system list these flags of the processor; before a call it knows none."""
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")

    def forget() -> None:
        machine.flags.cache_clear()
        machine.kernel_features.cache_clear()
        machine.model_name.cache_clear()

    def set_flags(flags: str) -> None:
        one = f"model name\t: ACME 9000\t2.5 GHz\nbugs\t\t: none\nflags\t\t: {flags}\n\n"
        machine.CPUINFO.write_text(f"processor\t: 0\n{one}processor\t: 1\n{one}", encoding="utf-8")
        forget()

    forget()
    yield set_flags
    forget()


def test_flags_and_name_are_those_of_the_first_processor(set_flags: SetFlags) -> None:
    set_flags(AVX2)
    assert machine.flags() == {"fpu", "sse2", "sse4_1", "avx", "avx2", "fma"}
    assert machine.model_name() == "ACME 9000\t2.5 GHz"


@pytest.mark.parametrize(
    ("line", "features", "known"),
    [
        ("flags", f"{AVX2} avx512_fp16 amx_tile avx10.1", "amx_tile avx avx2 avx512_fp16 fma"),
        ("flags", "sme sev ssbd md_clear hypervisor bf16 misalignsse avx2", "avx2"),
        ("flags", "f16c fma4 ssse3 sse4a fsrm", "f16c fma4 sse4a ssse3"),
        ("Features", "fp asimd evtstrm asimdhp fphp sve2 sme bf16 i8mm", None),
        ("Features", "half thumb neon vfpv4 crc32 paca sve", "neon sve vfpv4"),
    ],
)
def test_only_features_that_kernels_are_chosen_by_are_kernel_features(
    line: str, features: str, known: str | None, set_flags: SetFlags
) -> None:
    set_flags("")
    machine.CPUINFO.write_text(f"{line}\t: {features}\n", encoding="utf-8")
    expected = (known or "asimd asimdhp bf16 fphp i8mm sme sve2").split()
    assert [one for one in machine.kernel_features() if one not in ("sse2", "sse4_1")] == expected


@pytest.mark.parametrize("content", [None, b"Features\t: asimd\n", b"flags\xff: avx\n"])
def test_without_flags_nothing_is_refused(
    content: bytes | None, set_flags: SetFlags, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    if content is not None:
        machine.CPUINFO.write_bytes(content)
    assert (machine.flags(), machine.model_name()) == (frozenset(), "arm")
    for instruction_set in (None, *machine.INSTRUCTION_SETS):
        machine.require(instruction_set)


def test_the_instruction_sets_are_those_that_the_parameters_allow() -> None:
    literal, _none = get_args(Compute.model_fields["instruction_set"].annotation)
    assert get_args(literal) == tuple(machine.INSTRUCTION_SETS)


@pytest.mark.parametrize(
    ("flags", "requested", "available", "missing"),
    [
        (AVX512, "AVX512_CORE_AMX", "AVX2, AVX512_CORE, AVX512_CORE_VNNI", "amx_tile, amx_bf16"),
        (AVX2, "AVX512_CORE_BF16", "SSE41, AVX, AVX2", "avx512_bf16"),
        (f"{AVX512} amx_tile avx_vnni", "AVX512_CORE_AMX", "AVX2_VNNI", "amx_bf16, amx_int8"),
        ("sse4_1 avx avx2", "AVX2", "SSE41, AVX", "fma"),
    ],
)
def test_a_missing_instruction_set_is_refused_with_the_available_ones(
    flags: str, requested: str, available: str, missing: str, set_flags: SetFlags
) -> None:
    set_flags(flags)
    for granted in (None, "SSE41", "AVX"):
        machine.require(granted)
    with pytest.raises(UserError, match=f"got {requested!r}, which needs {missing}") as refused:
        machine.require(requested)
    assert available in str(refused.value)
    assert str(refused.value).endswith("; lower it (results then differ in their last digits)")


KERNELS = """
import stages, numpy, scipy.linalg, threadpoolctl
print({one.get("architecture") for one in threadpoolctl.threadpool_info()})
"""


def test_numpy_uses_the_kernels_of_avx2_whatever_the_environment_says() -> None:
    if "AVX2" not in machine.instruction_sets():
        pytest.skip("this processor has no AVX2")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_CORETYPE": "SkylakeX"}
    printed = subprocess.check_output([sys.executable, "-c", KERNELS], env=environment, text=True)
    assert printed == "{'Haswell'}\n"


def test_the_last_machine_of_each_stage_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert machine.recorded("split") == {}
    machine.record("split")
    monkeypatch.setattr(machine, "model_name", lambda: "Another One")
    machine.record("extract@convnet")
    assert machine.recorded("split")["processor"] != "Another One"
    assert machine.recorded("extract@convnet") == machine.this()
    machine.record("split")
    assert machine.recorded("split") == machine.this()


def test_differences_are_listed_by_name() -> None:
    then = {"processor": "A", "versions": {"numpy": "1", "zarr": "3"}, "instruction_sets": ["AVX"]}
    now = {"processor": "B", "versions": {"numpy": "2", "zarr": "3"}, "instruction_sets": []}
    assert machine.differences(then, now) == [
        "instruction_sets: AVX, now none",
        "processor: A, now B",
        "numpy: 1, now 2",
    ]
    assert machine.differences(then, then) == []
