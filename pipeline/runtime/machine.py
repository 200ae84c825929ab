"""The kind of machine that a stage ran on, as far as last bits may depend on it.

`metrics/environment.json` keeps it for each stage, beside the metrics. No stage reads it, and it is
no metric of DVC's, so nothing reruns and no diff is larger for it; `verify` tells by it whether
another machine, or chance, made other bytes. A stage that DVC restores from its cache keeps the
record of the run that was last made here or committed.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.runtime import atomic_files, cpu, versions
from pipeline.runtime.threads import processors

PATH = Path("metrics/environment.json")
PACKAGES = (
    "cykooz.resizer",
    "dvc",
    "h5py",
    "jax",
    "keras",
    "matplotlib",
    "numpy",
    "openvino",
    "pillow",
    "scikit-learn",
    "scipy",
    "tensorflow",
    "torch",
    "zarr",
)
UNKNOWN: dict[str, Any] = {}


def this() -> dict[str, Any]:
    """This machine: system, processor, instruction sets, threads, accelerators, versions."""
    return {
        "accelerators": cpu.accelerators(),
        "instruction_sets": cpu.instruction_sets(),
        "libc": "-".join(platform.libc_ver()),
        "processor": cpu.model_name(),
        "processors": processors(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions.of(PACKAGES),
    }


def record(stage: str, path: Path = PATH) -> None:
    """Keep that `stage` ran on this machine; nothing is written if that is known."""
    here = this()
    name = hashlib.sha256(json.dumps(here, sort_keys=True).encode()).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_files.only_writer(path.with_name("environment"), wait=True):
        known = _read(path)
        stages = {**known["stages"], stage: name}
        machines = {**known["machines"], name: here}
        used = {one: machines[one] for one in sorted(set(stages.values())) if one in machines}
        content = {"machines": used, "stages": stages}
        if content != known:
            atomic_files.write_json(path, content)


def of(stage: str, path: Path = PATH) -> dict[str, Any]:
    """The machine on which a stage ran; empty if that is not known."""
    known = _read(path)
    machine = known["machines"].get(str(known["stages"].get(stage)), UNKNOWN)
    return machine if isinstance(machine, dict) else UNKNOWN


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of two machines is different, each as `what: then, now`."""
    told = []
    for key in sorted(then.keys() | now.keys()):
        a, b = then.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            told += differences(a, b)
        elif a != b:
            told.append(f"{key}: {_shown(a)}, now {_shown(b)}")
    return told


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """A record that is damaged, as by a merge, is as none: it is only ever told."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    sections = known if isinstance(known, dict) else {}
    return {
        name: section if isinstance(section := sections.get(name), dict) else {}
        for name in ("machines", "stages")
    }
