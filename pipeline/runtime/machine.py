"""This machine: processors, instruction sets by oneDNN's names, accelerators, package versions.

oneDNN's `ONEDNN_MAX_CPU_ISA` only caps: a set that the processor lacks is silently replaced by a
lesser one, with other last bits. So the requested set is compared with the processor's flags.

`data/.machines/` records, outside of git and DVC, the kind of machine on which each stage last ran
in this folder, as `STAGE.json`; `verify` uses it to explain why bytes differ.
"""

import functools
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError

CPUINFO = Path("/proc/cpuinfo")
NVIDIA = Path("/proc/driver/nvidia")
PACKAGES = (
    *("cykooz.resizer", "dvc", "h5py", "jax", "jaxlib", "keras", "matplotlib", "numpy", "openvino"),
    *("pillow", "scikit-learn", "scipy", "tensorflow", "zarr"),
    *("jax-cuda13-pjrt", "jax-cuda13-plugin", "nvidia-cublas", "nvidia-cublas-cu12"),  # for GPUs
    *("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
)

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

# What the kernels of oneDNN, OpenVINO, XLA, Eigen, numpy and resizers are chosen by, as in
# /proc/cpuinfo: `flags` of x86, `Features` of ARM. All others change no result.
KERNEL_FEATURES = {
    "flags": r"sse\w*|ssse3|avx\w*|amx_\w+|fma\w*|f16c",
    "Features": r"neon|vfp\w*|asimd\w*|fphp|sve\w*|sme\w*|bf16|i8mm",
}


def processors() -> int:
    """Return how many processors this process may use (in a container fewer than there are)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def flags() -> frozenset[str]:
    """Return the processor's feature flags by Linux' names; empty on other systems."""
    return frozenset(_cpuinfo("flags").split())


@functools.cache
def kernel_features() -> list[str]:
    """Return the processor's features by which kernels are chosen, sorted; empty if unknown."""
    return sorted(
        feature
        for line, pattern in KERNEL_FEATURES.items()
        for feature in set(_cpuinfo(line).split())
        if re.fullmatch(pattern, feature)
    )


@functools.cache
def model_name() -> str:
    """Return the processor's name, such as "AMD EPYC", as far as the system knows it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Return the sets that this processor has, the least first; empty if the flags are unknown."""
    return [name for name, needed in INSTRUCTION_SETS.items() if flags().issuperset(needed)]


def accelerators() -> list[str]:
    """Return the version of NVIDIA's driver and the models of its GPUs, on Linux."""
    files = [NVIDIA / "version", *sorted(NVIDIA.glob("gpus/*/information"))]
    lines = [path.read_text(errors="replace").splitlines()[:1] for path in files if path.is_file()]
    return [line for first in lines for line in first]


def driver() -> int | None:
    """Return the major version of NVIDIA's driver; None if it is unknown or there is none."""
    found = re.search(r"\b(\d{3,})\.\d+", " ".join(accelerators()[:1]))
    return int(found[1]) if found else None


def require(instruction_set: str | None) -> None:
    """Raise a `UserError` for an instruction set that this processor is known to lack."""
    if instruction_set is None or not flags():
        return
    missing = [flag for flag in INSTRUCTION_SETS[instruction_set] if flag not in flags()]
    if missing:
        raise UserError(
            f"params.yaml: compute.instruction_set: expected one that this processor has "
            f"({', '.join(instruction_sets())}), got {instruction_set!r}, which needs "
            f"{', '.join(missing)}; lower it (results then differ in their last digits)"
        )


def installed(distribution: str) -> str:
    """Return the installed version of a distribution; empty if there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return Python's minor version and the versions of the packages that are installed."""
    known = {name: version for name in packages if (version := installed(name))}
    return {"python": ".".join(platform.python_version_tuple()[:2])} | known


def this() -> dict[str, Any]:
    """Describe this machine: everything that the last bits of a result may depend on."""
    return {
        "accelerators": accelerators(),
        "instruction_sets": instruction_sets(),
        "libc": "-".join(platform.libc_ver()),
        "processor": model_name(),
        "processors": processors(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(PACKAGES),
    }


def record(stage: str) -> None:
    """Record that `stage` ran on this machine."""
    text = json.dumps(this(), indent=2)
    atomic_files.write_text(paths.MACHINES / f"{stage}.json", f"{text}\n")


def recorded(stage: str) -> dict[str, Any]:
    """Return the machine on which a stage last ran here; empty if unknown."""
    path = paths.MACHINES / f"{stage}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List what differs between two machines, each as `what: then, now`."""
    lines = []
    for key in sorted(then.keys() | now.keys()):
        a, b = then.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b)
        elif a != b:
            lines.append(f"{key}: {_as_text(a)}, now {_as_text(b)}")
    return lines


def _as_text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _cpuinfo(name: str) -> str:
    text = CPUINFO.read_text(errors="replace") if CPUINFO.is_file() else ""
    found = re.search(rf"^{name}\s*:(.*)", text, re.MULTILINE)
    return found[1].strip() if found else ""
