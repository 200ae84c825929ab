"""What the processor can do, as far as the system tells, and what is refused for it."""

import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest

from pipeline.config import Compute
from pipeline.runtime import machine
from pipeline.runtime.errors import UserError

AVX2 = "fpu sse2 sse4_1 avx avx2 fma"
AVX512 = f"{AVX2} avx512f avx512bw avx512vl avx512dq avx512_vnni"

Told = Callable[[str], None]


@pytest.fixture(autouse=True)
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """Let the system tell these flags of a processor; before that it tells nothing."""
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")

    def forget() -> None:
        machine.flags.cache_clear()
        machine.model_name.cache_clear()

    def tell(flags: str) -> None:
        one = f"model name\t: ACME 9000\t2.5 GHz\nbugs\t\t: none\nflags\t\t: {flags}\n\n"
        machine.CPUINFO.write_text(f"processor\t: 0\n{one}processor\t: 1\n{one}", encoding="utf-8")
        forget()

    forget()
    yield tell
    forget()


def test_flags_and_name_are_those_of_the_first_processor(told: Told) -> None:
    told(AVX2)
    assert machine.flags() == {"fpu", "sse2", "sse4_1", "avx", "avx2", "fma"}
    assert machine.model_name() == "ACME 9000\t2.5 GHz"


@pytest.mark.parametrize("content", [None, b"", b"Features\t: asimd\n", b"flags\xff: avx\n"])
def test_where_the_system_does_not_tell_there_are_no_flags_and_nothing_is_refused(
    content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    if content is not None:
        machine.CPUINFO.write_bytes(content)
    assert machine.flags() == frozenset()
    assert machine.model_name() == "riscv64"
    for name in (None, *machine.INSTRUCTION_SETS):
        machine.require(name)
    assert machine.hint("float32") is None


def test_pythons_own_name_of_the_processor_comes_before_that_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert machine.model_name() == "arm"


def test_the_instruction_sets_are_those_that_the_parameters_allow() -> None:
    literal, _none = get_args(Compute.model_fields["instruction_set"].annotation)
    assert get_args(literal) == tuple(machine.INSTRUCTION_SETS)


def test_what_the_processor_has_is_granted(told: Told) -> None:
    told(AVX512)
    for name in (None, "SSE41", "AVX", "AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"):
        machine.require(name)


@pytest.mark.parametrize(
    ("flags", "asked", "have", "lacking"),
    [
        (
            AVX512,
            "AVX512_CORE_AMX",
            "SSE41, AVX, AVX2, AVX512_CORE, AVX512_CORE_VNNI",
            "amx_tile, amx_bf16, amx_int8",
        ),
        (AVX2, "AVX512_CORE_BF16", "SSE41, AVX, AVX2", "avx512_bf16"),
        (f"{AVX512} amx_tile avx_vnni", "AVX512_CORE_AMX", None, "amx_bf16, amx_int8"),
        ("sse4_1 avx avx2", "AVX2", "SSE41, AVX", "fma"),
    ],
)
def test_what_it_lacks_is_refused_with_what_it_has(
    flags: str, asked: str, have: str | None, lacking: str, told: Told
) -> None:
    told(flags)
    have = have or "SSE41, AVX, AVX2, AVX2_VNNI, AVX512_CORE, AVX512_CORE_VNNI"
    with pytest.raises(UserError) as refused:
        machine.require(asked)
    assert str(refused.value) == (
        "params.yaml: compute.instruction_set: expected one that this processor has "
        f"({have}), got {asked!r}, which needs {lacking}; "
        "lower it (results then differ in their last digits)"
    )


@pytest.mark.parametrize(
    ("flags", "precision", "sentence"),
    [
        (
            f"{AVX512} avx512_bf16 amx_tile amx_bf16",
            "float32",
            "this processor has AMX: extract.precision: bfloat16 with "
            "compute.instruction_set: null is about 5 times faster",
        ),
        (
            f"{AVX512} avx512_bf16",
            "float32",
            "this processor has AVX512_BF16: extract.precision: bfloat16 with "
            "compute.instruction_set: null is about 2 times faster",
        ),
        (AVX512, "float32", None),
        (f"{AVX512} avx512_bf16 amx_tile amx_bf16", "bfloat16", None),
    ],
    ids=["AMX", "AVX512_BF16", "neither", "in use already"],
)
def test_bfloat16_is_hinted_at_where_it_is_faster(
    flags: str, precision: str, sentence: str | None, told: Told
) -> None:
    told(flags)
    assert machine.hint(precision) == sentence
