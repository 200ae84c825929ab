"""What is wrong here, and the command that mends it.

    python -m pipeline.commands.doctor

Looks at the packages, the machine, the parameters and inputs, the disk, DVC's and git's files, the
outputs and DVC's cache, which it hashes. It changes nothing. Each line begins with `ok`, `note` or
`FAULT`; the status is 1 if there is a fault.
"""

import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
from packaging.requirements import InvalidRequirement, Requirement

from pipeline.commands import preflight
from pipeline.reproducibility import dvc_files, dvc_lock, lock_status
from pipeline.runtime import environment, machine
from pipeline.runtime.entrypoint import arguments, quiet_if_nobody_reads, script
from pipeline.runtime.errors import UserError

OK, NOTE, FAULT = "ok", "note", "FAULT"
REQUIREMENTS = Path("requirements.lock")
ROW_CACHE = Path("data/.rows")
FOLDERS = [Path("data"), Path("metrics"), Path("data/weights"), Path("data/features")]
NEEDED_BYTES = 2**30  # free, for outputs in work and packages' temporary files
LONGEST_NAME = 120  # bytes that our own names add at most to the project's path
LONGEST_PATH = 4096  # of Linux (limits.h)
CLOCK_SECONDS = 120  # by which two machines' clocks may differ


class Finding(NamedTuple):
    kind: str
    told: str


@script
def main() -> None:
    """Print all findings; status 1 if one is a fault."""
    arguments(__doc__, count=0)
    faults = 0
    with quiet_if_nobody_reads():
        for check in CHECKS:
            for kind, told in _findings(check):
                faults += kind == FAULT
                print(f"{kind:6}{told}", flush=True)
        print(f"doctor: {faults} fault{'s' * (faults != 1)}")
    if faults:
        sys.exit(1)


def _findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; one that cannot go on is a fault itself."""
    try:
        yield from check()
    except UserError as fault:
        yield from (Finding(FAULT, sentence) for sentence in str(fault).splitlines())
    except OSError as error:
        yield Finding(
            FAULT,
            f"{error.filename}: expected to be able to use it, got "
            f"{os.strerror(error.errno or 0)!r}; check permissions and owner",
        )


def _packages() -> Iterator[Finding]:
    """Whether what is installed is what is locked."""
    wrong = []
    names = 0
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        if not re.match(r"[A-Za-z0-9]", line):
            continue
        try:
            wanted = Requirement(line.rstrip("\\ "))
        except InvalidRequirement:
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        names += 1
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            version = "none"
        if version not in wanted.specifier:
            wrong.append(f"{wanted.name} {version} in place of {str(wanted.specifier)[2:]}")
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        yield Finding(
            FAULT,
            f"packages: expected those of {REQUIREMENTS}, got {shown}; `make clean-venv && make "
            "repro`",
        )
    else:
        yield Finding(OK, f"packages: the {names} of {REQUIREMENTS}")


def _this_machine() -> Iterator[Finding]:
    """What it is, and whether it is of the kind that made the outputs."""
    here = machine.this()
    best = (here["instruction_sets"] or ["instruction sets unknown"])[-1]
    free = psutil.virtual_memory().available / 2**30
    yield Finding(
        OK,
        f"machine: {here['system']}, {here['processor']} ({best}), {here['processors']} "
        f"processors, {free:.1f} GiB of memory free, Python {here['python']}",
    )
    recorded = {stage.name: machine.of(stage.name) for stage in _locked()}
    others = {name: machine.differences(then, here) for name, then in recorded.items() if then}
    different = {name: told for name, told in others.items() if told}
    if different:
        name, told = next(iter(different.items()))
        yield Finding(
            NOTE,
            f"machine: {', '.join(different)} ran on another kind ({name}: {'; '.join(told)}); "
            "`make verify` tells whether that matters",
        )


def _locked() -> list[dvc_lock.Locked]:
    """What the lock says, if it can be read; `_dvc` tells if not."""
    try:
        return dvc_lock.read(dvc_lock.PATH)
    except UserError:
        return []


def _user() -> Iterator[Finding]:
    """Home, temporary folder, this folder's own path, the clock."""
    home = os.environ.get("HOME")
    if not home or not os.access(home, os.W_OK):
        yield Finding(
            NOTE,
            f"HOME: {'not set' if not home else f'{home!r} cannot be written to'}; the pipeline "
            "works without, but for Keras' download of weights: set KERAS_HOME to a folder",
        )
    with tempfile.TemporaryFile():
        pass
    length = len(os.fsencode(Path.cwd()))
    if length + LONGEST_NAME > LONGEST_PATH:
        yield Finding(
            FAULT,
            f"path: expected this folder's to have at most {LONGEST_PATH - LONGEST_NAME:,} bytes, "
            f"got {length:,}; move it up",
        )
    if braces := sorted(set("{}") & set(str(Path.cwd()))):
        yield Finding(
            FAULT,
            f"path: expected this folder's without braces, got {' '.join(braces)} in it, at which "
            "DVC fails; move or rename it",
        )
    newest = max((path.stat().st_mtime for path in Path().glob("*")), default=0.0)
    if newest > time.time() + CLOCK_SECONDS:
        yield Finding(
            NOTE,
            f"clock: files here are {newest - time.time():,.0f} s newer than now; results do not "
            "depend on it, but set it right (`timedatectl`)",
        )
    yield Finding(OK, "folders: home, temporary files and clock looked at")


def _parameters() -> Iterator[Finding]:
    if found := preflight.faults():
        raise UserError("\n".join(found))
    yield Finding(OK, "parameters: params.yaml is sound, and the files it names are here")


def _disk() -> Iterator[Finding]:
    """Room, and the right to write."""
    free = shutil.disk_usage(".").free
    told = f"disk: {free / 2**30:.1f} GiB free"
    if ROW_CACHE.is_dir():
        held = sum(path.stat().st_size for path in ROW_CACHE.rglob("*") if path.is_file())
        most = environment.row_cache_bytes() / 2**30
        told += f", {held / 2**30:.2f} of at most {most:.0f} GiB in the row cache {ROW_CACHE}"
    if free < NEEDED_BYTES:
        yield Finding(
            FAULT,
            f"{told}; expected {NEEDED_BYTES / 2**30:.0f} GiB: `dvc gc --workspace` removes what "
            f"other commits computed, `rm -r {ROW_CACHE}` the row cache",
        )
    else:
        yield Finding(OK, told)
    for folder in (Path(), Path(".dvc"), *FOLDERS):
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            yield Finding(
                FAULT,
                f"{folder}/: expected a folder that can be written to, got a read-only one; work "
                "in a clone of your own, or correct its owner (`ls -ld`)",
            )


def _dvc() -> Iterator[Finding]:
    """Files of DVC and git, stages at work, what killed ones have left."""
    found = list(dvc_files.faults())
    yield from (Finding(FAULT, sentence) for sentence in found)
    if dvc_files.is_shallow():
        yield Finding(
            NOTE,
            "git: older commits are not here, so nothing compares with them; `git fetch "
            "--unshallow`",
        )
    held = dvc_files.at_work(FOLDERS)
    if held:
        yield Finding(NOTE, f"at work in this folder: {', '.join(map(str, held))}")
    strays = [path for folder in FOLDERS for path in folder.glob(".partial-*")]
    if strays and not held:
        yield Finding(
            NOTE,
            f"left by a killed run: {', '.join(map(str, strays))}; the next run of that stage "
            "removes it, nothing reads it",
        )
    if not found:
        yield Finding(OK, "dvc and git: their files are sound")


def _outputs() -> Iterator[Finding]:
    """Whether outputs, cache, code, inputs and parameters are those of the lock."""
    if not dvc_lock.PATH.exists():
        yield Finding(NOTE, f"outputs: no {dvc_lock.PATH}; `make repro` computes all")
        return
    state = lock_status.look()
    yield from (Finding(FAULT, sentence) for sentence in state.faults)
    yield Finding(OK if state.whole else NOTE, state.told())
    if state.stale:
        yield Finding(
            NOTE,
            f"outputs: of other parameters, inputs or code than here are {', '.join(state.stale)}; "
            "`make verify-quick` tells which, `dvc repro` brings them up to date",
        )


CHECKS = (_packages, _this_machine, _user, _parameters, _disk, _dvc, _outputs)


if __name__ == "__main__":
    sys.exit(main())
