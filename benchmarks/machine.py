"""The machine that a figure was measured on, in words."""

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path

from pipeline.runtime.machine import processors

INSTRUCTION_SETS = (  # those that change the speed of a network, by Linux's names
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
)
PACKAGES = (
    "tensorflow",
    "keras",
    "openvino",
    "numpy",
    "zarr",
    "pillow",
    "cykooz.resizer",
    "opencv-python-headless",
    "pyvips",
    "dvc",
)


def describe() -> str:
    """Processor, memory, versions, date, and how busy the machine was, as lines of markdown."""
    model, flags = _processor()
    sets = ", ".join(name for name in INSTRUCTION_SETS if name in flags) or "no known extensions"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return (
        f"Measured {today} on {model}, {processors()} cores ({sets}), {memory:.0f} GiB, "
        f"{platform.system()} {platform.machine()}, load {os.getloadavg()[0]:.1f} at the start.\n"
        f"Python {platform.python_version()}, {versions}.\n"
    )


def _processor() -> tuple[str, set[str]]:
    """Its name and its flags; flags only where Linux tells them."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine(), set()
    model = re.search(r"^model name\s*: (.+)$", told, re.M)
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", told, re.M)
    return model[1] if model else platform.machine(), set(flags[1].split() if flags else ())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
