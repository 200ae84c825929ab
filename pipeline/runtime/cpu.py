"""What the processor can do: its instruction sets by oneDNN's names.

oneDNN's `ONEDNN_MAX_CPU_ISA` only caps: a set that the processor lacks is silently replaced by a
lesser one, with other last bits. So what is asked for is compared with what is there.
"""

import functools
import platform
from pathlib import Path

from pipeline.runtime.errors import UserError

CPUINFO = Path("/proc/cpuinfo")
NVIDIA = Path("/proc/driver/nvidia")

# oneDNN's names, each with the Linux flags that it needs beyond those before it
# (oneDNN's documentation, "CPU Dispatcher Control"; flags as in /proc/cpuinfo).
INSTRUCTION_SETS = {
    "SSE41": ("sse4_1",),
    "AVX": ("avx",),
    "AVX2": ("avx2", "fma"),
    "AVX2_VNNI": ("avx_vnni",),
    "AVX512_CORE": ("avx512f", "avx512bw", "avx512vl", "avx512dq"),
    "AVX512_CORE_VNNI": ("avx512_vnni",),
    "AVX512_CORE_BF16": ("avx512_bf16",),
    "AVX512_CORE_AMX": ("amx_tile", "amx_bf16", "amx_int8"),
}


@functools.cache
def flags() -> frozenset[str]:
    """The processor's feature flags by Linux' names; empty where the system does not tell."""
    return frozenset(_field("flags").split())


@functools.cache
def model_name() -> str:
    """The processor's name, such as "AMD EPYC"; as much as the system tells."""
    return _field("model name") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Those that this processor has, the least first; empty where the system does not tell."""
    return [name for name, needed in INSTRUCTION_SETS.items() if flags().issuperset(needed)]


def accelerators() -> list[str]:
    """NVIDIA's driver and the models of its GPUs, as Linux tells them."""
    told = [NVIDIA / "version", *sorted(NVIDIA.glob("gpus/*/information"))]
    lines = [path.read_text(errors="replace").splitlines()[:1] for path in told if path.is_file()]
    return [line for first in lines for line in first]


def require(instruction_set: str | None) -> None:
    """Refuse an instruction set that this processor lacks.

    Raises:
        UserError: it lacks a flag of it; nothing is refused where the system tells no flags.
    """
    if instruction_set is None or not flags():
        return
    lacking = [flag for flag in INSTRUCTION_SETS[instruction_set] if flag not in flags()]
    if lacking:
        raise UserError(
            f"params.yaml: compute.instruction_set: expected one that this processor has "
            f"({', '.join(instruction_sets())}), got {instruction_set!r}, which needs "
            f"{', '.join(lacking)}; lower it (results then differ in their last digits)"
        )


def hint(precision: str) -> str | None:
    """What this processor could do faster, as a sentence; None if nothing is known."""
    if precision != "float32":
        return None
    for flag, name, times in (("amx_bf16", "AMX", 5), ("avx512_bf16", "AVX512_BF16", 2)):
        if flag in flags():
            return (
                f"this processor has {name}: extract.precision: bfloat16 with "
                f"compute.instruction_set: null is about {times} times faster"
            )
    return None


def _field(name: str) -> str:
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    found = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in found if key.strip() == name), "")
