"""Run a commit again and compare its outputs with those that it records.

    pipeline verify
    pipeline verify extract evaluate --revision v1.0
    pipeline verify --quick

Runs all stages, or those named, in a clone with every cache off. Each output must have the recorded
bytes, or the recorded numbers within the tolerance of `verify` in params.yaml. With --quick nothing
runs: inputs, parameters and code must be those of dvc.lock, and DVC's cache unharmed. The status is
1 if not. Nothing in this folder or in DVC's cache is changed.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline import config, paths
from pipeline.reproducibility import code_changes, lock_status
from pipeline.reproducibility.clean_clone import Clone
from pipeline.reproducibility.dvc_project import LOCK, Stage
from pipeline.reproducibility.output_diff import Tolerance, between
from pipeline.runtime import machine
from pipeline.runtime.errors import UserError

IDENTICAL, CLOSE, DIFFERENT = "same bytes", "within tolerance", "DIFFERENT"
NOT_COMPARED = "other bytes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="run only these")
    parser.add_argument("--revision", default="HEAD", help="branch, tag or commit (default HEAD)")
    parser.add_argument("--quick", action="store_true", help="run nothing")


def run(arguments: argparse.Namespace) -> None:
    """Print how each output compares."""
    if arguments.quick:
        if arguments.stages or arguments.revision != "HEAD":
            raise UserError(
                "verify --quick: expected no other argument, as it checks this folder as it is, "
                "got some; remove them"
            )
        lock_status.check()
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the clone is removed
    started = time.perf_counter()
    tolerance = Tolerance(**config.read().verify.model_dump())
    with tempfile.TemporaryDirectory(prefix="verify-", ignore_cleanup_errors=True) as folder:
        clone = Clone(Path(folder), arguments.revision)
        names = clone.select(arguments.stages)
        clone.run(names, everything=not arguments.stages)
        rerun = clone.locked()
        print("\n| stage | output | result | |\n|---|---|---|---|")
        results: list[str] = []
        different: dict[str, set[str]] = {}
        for name in names:
            for path in clone.stages[name].outs:
                result, remark = _compared(clone, clone.stages[name], rerun[name], path, tolerance)
                print(f"| {name} | {path} | {result} | {remark} |")
                results.append(result)
                if result != IDENTICAL:
                    different.setdefault(name, set()).add(result)
        counts = ", ".join(
            f"{results.count(result)} {result}"
            for result in (IDENTICAL, CLOSE, DIFFERENT, NOT_COMPARED)
            if result in results
        )
        print(
            f"\nverify: {len(results)} outputs of {len(names)} stages at {clone.commit}: {counts} "
            f"({time.perf_counter() - started:.0f} s)"
        )
        if different:
            first = next(iter(different))
            for line in _explanation(clone, clone.stages[first], rerun[first]):
                print(f"verify: {line}")
    if wrong := [name for name, of in different.items() if of != {CLOSE}]:
        raise UserError(
            f"verify: expected the outputs that {clone.commit} records, got others of "
            f"{', '.join(wrong)}; see above, and raise `verify` in params.yaml only if you know "
            "why they may differ"
        )


def _compared(
    clone: Clone, recorded: Stage, rerun: Stage, path: str, tolerance: Tolerance
) -> tuple[str, str]:
    """Return the result for an output, and a remark."""
    if path in clone.forged:
        return DIFFERENT, f"git has other bytes than {LOCK}: `dvc repro`, and commit both"
    if rerun.outs[path] == recorded.outs[path]:
        return IDENTICAL, ""
    if isinstance(original := clone.fetch(path), str):
        reason = original or "not an output of that commit"
        return NOT_COMPARED, f"the recorded one, to compare numbers, is {reason}"
    difference = between(original, clone.folder / path, tolerance)
    first = f"first: {difference.beyond}" if difference.beyond else ""
    remark = "; ".join(filter(None, (difference.largest(), first)))
    return DIFFERENT if difference.beyond else CLOSE, remark


def _explanation(clone: Clone, recorded: Stage, rerun: Stage) -> Iterator[str]:
    """Yield why the first differing stage may differ: its inputs, randomness, or the machine."""
    name = recorded.name
    yield f"the first stage that differs is {name}"
    inputs = [path for path, digest in rerun.deps.items() if recorded.deps.get(path) != digest]
    if inputs := inputs + code_changes.differences(recorded.params, rerun.params):
        yield f"it read other inputs than recorded: {', '.join(inputs)}"
        return
    if name == lock_status.CODE_STAGE and isinstance(old := clone.fetch(str(paths.CODE)), Path):
        new = clone.folder / paths.CODE
        stages, changes = code_changes.code_differences(*map(code_changes.read, (old, new)))
        yield f"code of {', '.join(stages)}: {code_changes.listed(changes)}"
        return
    yield f"it read the recorded inputs: {', '.join(rerun.deps)}"
    clone.run([name], everything=False)
    if clone.locked()[name].outs != rerun.outs:
        yield "it is not deterministic here: a third run wrote other bytes than the second"
        return
    yield "it is deterministic here: a third run wrote the bytes of the second"
    before = machine.recorded(name)
    if not before:
        yield f"the machine of the recorded run is unknown ({paths.MACHINES} has none)"
    elif differences := machine.differences(before, machine.this()):
        yield f"this machine differs: {'; '.join(differences)}"
    else:
        yield f"this machine equals the one in {paths.MACHINES}"
