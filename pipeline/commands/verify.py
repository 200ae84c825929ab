"""Does a commit reproduce its `dvc.lock` and its metrics?

Runs the stages again in a clone, with every cache off, and compares each output: the same bytes, or
the same numbers within the tolerance of `params.yaml`'s section `verify`.
    python -m pipeline.commands.verify [STAGE ...] [--revision REV] [--scratch FOLDER]
    python -m pipeline.commands.verify --quick

Without names all stages run, from the inputs on. `--quick` runs nothing: it tells whether params,
inputs and code are those of `dvc.lock`, and whether what is cached is unharmed. Status 0 if so, 1
if not. Nothing in this folder or in DVC's cache is changed.
"""

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline import config as parameters
from pipeline.reproducibility import clean_clone, dvc_lock, lock_status, output_diff
from pipeline.runtime import machine
from pipeline.runtime.entrypoint import script
from pipeline.runtime.errors import UserError

IDENTICAL, CLOSE, DIFFERENT = "same bytes", "within tolerance", "DIFFERENT"
NOT_COMPARED = "other bytes"


class Compared(NamedTuple):
    """An output of the run and what it should have been."""

    stage: str
    path: str
    verdict: str
    told: str


@script
def main() -> None:
    """Print what was compared; status 1 if anything is not as it should be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the clone goes, too
    asked = _asked()
    if asked.quick:
        lock_status.check()
        return
    started = time.perf_counter()
    tolerance = output_diff.Tolerance(**parameters.read().verify.model_dump())
    with _scratch(asked.scratch) as folder:
        clone = clean_clone.Clone(folder, asked.revision)
        expected = clone.locked()
        names = clone.chosen(expected, asked.stages)
        clone.run(names, whole=not asked.stages)
        got = {stage.name: stage for stage in clone.locked()}
        compared = [
            _compared(clone, stage.name, path, digest, got[stage.name].outs.get(path), tolerance)
            for stage in expected
            if stage.name in names
            for path, digest in stage.outs.items()
        ]
        _print_table(compared)
        wrong = [found for found in compared if found.verdict in (DIFFERENT, NOT_COMPARED)]
        counts = ", ".join(
            f"{count} {verdict}"
            for verdict in (IDENTICAL, CLOSE, DIFFERENT, NOT_COMPARED)
            if (count := sum(found.verdict == verdict for found in compared))
        )
        print(
            f"\nverify: {len(compared)} outputs of {len(names)} stages at {clone.commit}: {counts} "
            f"({time.perf_counter() - started:.0f} s)"
        )
        first = next((found for found in compared if found.verdict != IDENTICAL), None)
        if first is not None:
            stage = next(stage for stage in expected if stage.name == first.stage)
            for line in _explained(clone, stage, got[stage.name]):
                print(f"verify: {line}")
    if wrong:
        raise UserError(
            f"verify: expected the outputs that {clone.commit} records, got other ones of "
            f"{', '.join(dict.fromkeys(found.stage for found in wrong))}; see above, and raise "
            "`verify` in params.yaml only if you can say why they may differ"
        )


def _compared(
    clone: clean_clone.Clone,
    stage: str,
    path: str,
    expected: str,
    got: str | None,
    tolerance: output_diff.Tolerance,
) -> Compared:
    if not clone.is_recorded(path, expected):
        told = f"what is committed is not what {dvc_lock.PATH} says: `dvc repro`, and commit both"
        return Compared(stage, path, DIFFERENT, told)
    if got == expected:
        return Compared(stage, path, IDENTICAL, "")
    if (original := clone.original(path, expected)) is None:
        told = "the recorded one is not in DVC's cache here: `dvc fetch` it to compare numbers"
        return Compared(stage, path, NOT_COMPARED, told)
    found = output_diff.between(original, clone.folder / path, tolerance)
    told = "; ".join(filter(None, (found.told(), f"first: {found.beyond}" if found.beyond else "")))
    return Compared(stage, path, DIFFERENT if found.beyond else CLOSE, told)


def _explained(
    clone: clean_clone.Clone, expected: dvc_lock.Locked, got: dvc_lock.Locked
) -> Iterator[str]:
    """Why the first stage that differs may do so: its inputs, chance, or the machine."""
    yield f"the first stage that differs is {expected.name}"
    others = [path for path, digest in got.deps.items() if expected.deps.get(path) != digest]
    others += [key for key, value in got.params.items() if expected.params.get(key) != value]
    if others:
        yield f"it read something else than recorded: {', '.join(others)}"
        return
    yield f"it read what is recorded: {', '.join(path for path in got.deps if _is_data(path))}"
    clone.run([expected.name], whole=False)
    again = next(stage for stage in clone.locked() if stage.name == expected.name)
    if again.outs != got.outs:
        yield "it is not deterministic here: a third run wrote other bytes than the second"
        return
    yield "it is deterministic here: a third run wrote the bytes of the second"
    then = machine.of(expected.name, clone.committed / machine.PATH)
    if not then:
        yield f"what machine made the record is not known ({machine.PATH} does not tell)"
        return
    told = machine.differences(then, machine.this())
    if told:
        yield f"this machine differs: {'; '.join(told)}"
    else:
        yield f"this machine is of the same kind by all that {machine.PATH} tells"


def _is_data(path: str) -> bool:
    return not path.startswith("stages/") and path != "requirements.lock"


def _print_table(compared: Sequence[Compared]) -> None:
    print("\n| stage | output | result | |\n|---|---|---|---|")
    for found in compared:
        print(f"| {' | '.join(found)} |")


@contextlib.contextmanager
def _scratch(below: Path | None) -> Iterator[Path]:
    """A folder for the clone, gone at the end."""
    if below is not None and not below.is_dir():
        raise UserError(f"--scratch: expected a folder, got {str(below)!r}; make it first")
    with tempfile.TemporaryDirectory(
        prefix="verify-", dir=below, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.commands.verify",
        description="Run stages again in a clone and compare what they write with dvc.lock.",
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="only these; all if none")
    parser.add_argument("--revision", default="HEAD", help="branch, tag or commit (HEAD)")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="where the clone is made")
    parser.add_argument("--quick", action="store_true", help="run nothing")
    asked = parser.parse_args()
    if asked.quick and (asked.stages or asked.revision != "HEAD" or asked.scratch):
        parser.error("--quick looks at this folder as it is; give it nothing else")
    return asked


if __name__ == "__main__":
    sys.exit(main())
