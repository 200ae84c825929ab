"""Benchmark 11: where the bytes of the sample are the same, and where they are not.

The sample's recipe pins threads and instruction set. It runs once as it is, then on other kinds of
processor, emulated by QEMU (`qemu-x86_64`, user mode) or by what numpy's libraries let one choose;
then under other threads and instruction sets. Each run is a `dvc repro` of its own, with every
cache off; its outputs are held against those of the first.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import Failed, python, run
from benchmarks.project import Project
from benchmarks.settings import Settings
from benchmarks.tables import table
from pipeline.reproducibility import dvc_project, output_diff

TITLE = "The same bytes on other processors"

NO_AVX512 = "X86_V4 AVX512_ICL AVX512_SPR"  # numpy's names of what lies above AVX2
ANY = output_diff.Tolerance(absolute=0, relative=0, pixels=0)
PREDICTIONS = "data/model/predictions.zarr"


class Kind(NamedTuple):
    """What a run is told to be.

    Attributes:
        name: as it stands in the table.
        changes: to params.yaml.
        environment: set for the run.
        emulated: QEMU's name of a processor; "" to run on this one.
    """

    name: str
    changes: Mapping[str, Any] = {}
    environment: Mapping[str, str] = {}
    emulated: str = ""


PINNED = [
    Kind("this one, again"),
    Kind(
        "numpy as on AVX2, OpenBLAS as on Haswell",
        environment={"OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": NO_AVX512},
    ),
    Kind("OpenBLAS as on Zen", environment={"OPENBLAS_CORETYPE": "Zen"}),
    Kind("OpenBLAS as on SkylakeX", environment={"OPENBLAS_CORETYPE": "SkylakeX"}),
    Kind("OpenBLAS as on Nehalem, which has no AVX", environment={"OPENBLAS_CORETYPE": "Nehalem"}),
    Kind("Intel Haswell (QEMU)", emulated="Haswell"),
    Kind("Intel Skylake, desktop (QEMU)", emulated="Skylake-Client"),
    Kind("AMD EPYC Rome (QEMU)", emulated="EPYC-Rome"),
]
LEVELS = ("SSE41", "AVX", "AVX2", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16", None)
OTHERS = [
    Kind(
        f"{level or 'null'}, {threads} thread{'s' * (threads > 1)}",
        changes={"compute.instruction_set": level, "compute.threads": threads},
    )
    for level in LEVELS
    for threads in (1, 2)
]


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's tables."""
    first = folder / "first"
    _repro(Project.copy_of_this(first), Kind("as it is"), folder)
    figures = _figures(first)
    say(f"as it is: {figures}")
    parts = []
    for title, kinds in (
        ("Pinned (`compute.threads: 2`, `compute.instruction_set: AVX2`), on", PINNED),
        ("`compute.instruction_set`, `compute.threads`", OTHERS),
    ):
        lines = []
        for kind in kinds[: 1 if settings.rounds == 1 else None]:
            told = _compared(folder, first, kind)
            say(f"{kind.name}: {', '.join(told)}")
            lines.append([kind.name, *told])
        header = [title, "same outputs", "first other", "largest difference", "accuracy, log loss"]
        parts.append(table(header, lines))
    return (
        f"The sample; as it is: {figures}. The largest difference is that of a log-probability of "
        f"the fine-tuned network.\n\n{parts[0]}\n{parts[1]}"
    )


def _compared(folder: Path, first: Path, kind: Kind) -> list[str]:
    project = Project.copy_of_this(folder / "other")
    project.change(kind.changes)
    try:
        _repro(project, kind, folder)
    except Failed as fault:
        return ["", "", f"did not run: {fault}", ""]
    finally:
        shutil.rmtree(folder / "bin", ignore_errors=True)
    with dvc_project.opened(first) as before, dvc_project.opened(project.folder) as after:
        recorded = {stage.name: stage for stage in before.stages()}
        stages = after.stages()
    others, same = [], 0
    for stage in stages:
        changed = [path for path, of in recorded[stage.name].outs.items() if stage.outs[path] != of]
        same += len(stage.outs) - len(changed)
        others += changed
    figures = _figures(project.folder)
    gap = output_diff.between(first / PREDICTIONS, project.folder / PREDICTIONS, ANY).absolute
    outputs = same + len(others)
    shutil.rmtree(project.folder)
    return [f"{same} of {outputs}", others[0] if others else "", f"{gap:.2g}", figures]


def _repro(project: Project, kind: Kind, folder: Path) -> None:
    """Run all stages, only theirs emulated: DVC finds another `python` before this one."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    executable = tools / "python"
    emulator = f"qemu-x86_64 -cpu {kind.emulated} -0 {sys.executable} " if kind.emulated else ""
    executable.write_text(f'#!/bin/sh\nexec {emulator}{sys.executable} "$@" 2>/dev/null\n')
    executable.chmod(0o755)
    path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    words = python("dvc", "repro", "--force", "--no-run-cache", "--no-commit")
    run(words, project.folder, {**kind.environment, **path})


def _figures(folder: Path) -> str:
    """Of the final model on `test`."""
    final = json.loads((folder / "metrics/evaluate.json").read_text(encoding="utf-8"))["final"]
    scored = final["test"]
    return f"{scored['accuracy']:.2%}, {scored['log_loss']:.4f}"
