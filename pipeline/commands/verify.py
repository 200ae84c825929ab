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
from typing import NamedTuple

from pipeline import config, paths
from pipeline.reproducibility import clean_clone, code_changes, dvc_lock, lock_status, output_diff
from pipeline.runtime import machine
from pipeline.runtime.errors import UserError

IDENTICAL, CLOSE, DIFFERENT = "same bytes", "within tolerance", "DIFFERENT"
NOT_COMPARED = "other bytes"


class Compared(NamedTuple):
    """An output of the new run and how it compares with the recorded one."""

    stage: str
    path: str
    result: str
    remark: str


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
    tolerance = output_diff.Tolerance(**config.read().verify.model_dump())
    with tempfile.TemporaryDirectory(prefix="verify-", ignore_cleanup_errors=True) as folder:
        clone = clean_clone.Clone(Path(folder), arguments.revision)
        expected = clone.locked()
        names = clone.select(arguments.stages)
        clone.run(names, everything=not arguments.stages)
        rerun = {stage.name: stage for stage in clone.locked()}
        compared = [
            Compared(
                stage.name,
                path,
                *_compared(clone, path, digest, rerun[stage.name].outs.get(path), tolerance),
            )
            for stage in expected
            if stage.name in names
            for path, digest in stage.outs.items()
        ]
        print("\n| stage | output | result | |\n|---|---|---|---|")
        for one in compared:
            print(f"| {' | '.join(one)} |")
        counts = ", ".join(
            f"{count} {result}"
            for result in (IDENTICAL, CLOSE, DIFFERENT, NOT_COMPARED)
            if (count := sum(one.result == result for one in compared))
        )
        print(
            f"\nverify: {len(compared)} outputs of {len(names)} stages at {clone.commit}: {counts} "
            f"({time.perf_counter() - started:.0f} s)"
        )
        first = next((one for one in compared if one.result != IDENTICAL), None)
        if first is not None:
            stage = next(stage for stage in expected if stage.name == first.stage)
            for line in _explanation(clone, stage, rerun[stage.name]):
                print(f"verify: {line}")
    wrong = [one.stage for one in compared if one.result in (DIFFERENT, NOT_COMPARED)]
    if wrong:
        raise UserError(
            f"verify: expected the outputs that {clone.commit} records, got others of "
            f"{', '.join(dict.fromkeys(wrong))}; see above, and raise `verify` in params.yaml only "
            "if you know why they may differ"
        )


def _compared(
    clone: clean_clone.Clone,
    path: str,
    expected: str,
    actual: str | None,
    tolerance: output_diff.Tolerance,
) -> tuple[str, str]:
    """Return the result and a remark."""
    if not clone.is_recorded(path, expected):
        return DIFFERENT, f"git has other bytes than {dvc_lock.PATH}: `dvc repro`, and commit both"
    if actual == expected:
        return IDENTICAL, ""
    if (original := clone.original(path, expected)) is None:
        remark = "the recorded one is not in DVC's cache here: `dvc fetch` it to compare numbers"
        return NOT_COMPARED, remark
    difference = output_diff.between(original, clone.folder / path, tolerance)
    first = f"first: {difference.beyond}" if difference.beyond else ""
    remark = "; ".join(filter(None, (difference.largest(), first)))
    return DIFFERENT if difference.beyond else CLOSE, remark


def _explanation(
    clone: clean_clone.Clone, expected: dvc_lock.Locked, rerun: dvc_lock.Locked
) -> Iterator[str]:
    """Yield why the first differing stage may differ: its inputs, randomness, or the machine."""
    yield f"the first stage that differs is {expected.name}"
    inputs = [path for path, digest in rerun.deps.items() if expected.deps.get(path) != digest]
    inputs += code_changes.differences(expected.params, rerun.params)
    if inputs:
        yield f"it read other inputs than recorded: {', '.join(inputs)}"
        return
    if expected.name == lock_status.CODE_STAGE:
        old, new = (
            code_changes.parsed((folder / paths.CODE).read_text(encoding="utf-8"))
            for folder in (clone.committed, clone.folder)
        )
        stages, changes = code_changes.code_differences(old, new)
        yield f"code of {', '.join(stages)}: {code_changes.listed(changes)}"
        return
    yield f"it read the recorded inputs: {', '.join(rerun.deps)}"
    clone.run([expected.name], everything=False)
    again = next(stage for stage in clone.locked() if stage.name == expected.name)
    if again.outs != rerun.outs:
        yield "it is not deterministic here: a third run wrote other bytes than the second"
        return
    yield "it is deterministic here: a third run wrote the bytes of the second"
    recorded = machine.recorded(expected.name)
    if not recorded:
        yield f"the machine of the recorded run is unknown ({paths.MACHINES} has none)"
        return
    if differences := machine.differences(recorded, machine.this()):
        yield f"this machine differs: {'; '.join(differences)}"
    else:
        yield f"this machine equals the one in {paths.MACHINES}"
