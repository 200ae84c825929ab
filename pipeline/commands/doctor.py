"""Find what is wrong here, and the command that fixes it.

    pipeline doctor
    pipeline doctor --quick

Checks packages, machine, parameters and inputs, disk, the files of DVC and git, outputs and DVC's
cache, which it hashes. Changes nothing. Each line begins with `ok`, `note` or `FAULT`; the status
is 1 if there is a fault. --quick checks only what must hold before any stage runs, and prints
faults only; `make repro` calls it before DVC, which reports an absent input after it has removed
the stage's outputs.
"""

import argparse
import contextlib
import fcntl
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline import config, paths
from pipeline.reproducibility import code_changes, git
from pipeline.runtime import environment, fingerprint, machine
from pipeline.runtime.entrypoint import quiet_if_nobody_reads
from pipeline.runtime.errors import UserError

OK, NOTE, FAULT = "ok", "note", "FAULT"
FOLDERS = [paths.DATA, paths.METRICS, paths.WEIGHTS, paths.FEATURES]
LOCK, RWLOCK = Path("dvc.lock"), Path(".dvc/tmp/rwlock")
NEEDED_BYTES = 2**30  # free, for temporary files and outputs


class Finding(NamedTuple):
    kind: str
    text: str


ok, note, fault = (functools.partial(Finding, kind) for kind in (OK, NOTE, FAULT))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="only parameters, inputs, processor")


def run(arguments: argparse.Namespace) -> None:
    """Print all findings; exit with status 1 if one is a fault."""
    if arguments.quick:
        if faults := parameter_faults():
            raise UserError("\n".join(faults))
        return
    count = 0
    with quiet_if_nobody_reads():
        for check in CHECKS:
            for kind, text in _findings(check):
                count += kind == FAULT
                print(f"{kind:6}{text}", flush=True)
        print(f"doctor: {count} fault{'s' * (count != 1)}")
    if count:
        sys.exit(1)


def parameter_faults() -> list[str]:
    """Return a sentence for each parameter, named file or processor that no stage can run with."""
    environment.check()
    params = config.read()
    faults = config.missing_files(params)
    threads, available = params.compute.threads, machine.processors()
    if threads is not None and threads > available:
        faults.append(
            f"{paths.PARAMS}: compute.threads: expected at most the {available} processors of "
            f"this machine, got {threads}; lower it (results then differ in their last digits)"
        )
    try:
        machine.require(params.compute.instruction_set)
    except UserError as error:
        faults.append(str(error))
    return faults


def _findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check; an error that ends it is a fault."""
    try:
        yield from check()
    except UserError as error:
        yield from map(fault, str(error).splitlines())
    except OSError as error:
        yield fault(
            f"{error.filename}: expected to be able to use it, got "
            f"{os.strerror(error.errno or 0)!r}; check permissions and owner",
        )


def _packages() -> Iterator[Finding]:
    """Compare the installed packages with the locked ones."""
    versions = fingerprint.locked(paths.RUN_LOCK.resolve())
    wrong = [
        f"{name} {present or 'none'} instead of {version}"
        for name, version in versions.items()
        if (present := machine.installed(name)) != version
    ]
    if wrong:
        yield fault(
            f"packages: expected those of {paths.RUN_LOCK}, got {code_changes.listed(wrong)}; "
            "run `make clean-venv repro`",
        )
    else:
        yield ok(f"packages: the {len(versions)} of {paths.RUN_LOCK}")


def _machine() -> Iterator[Finding]:
    """Describe the machine, and compare it with the one that made the outputs here."""
    import psutil

    from pipeline.reproducibility import dvc_lock

    here = machine.this()
    best = (here["instruction_sets"] or ["instruction sets unknown"])[-1]
    free = psutil.virtual_memory().available / 2**30
    yield ok(
        f"machine: {here['system']}, {here['processor']} ({best}), {here['processors']} "
        f"processors, {free:.1f} GiB of memory free, Python {here['python']}",
    )
    different = {}
    with contextlib.suppress(UserError):  # a damaged lock, which `_dvc` reports
        for stage in dvc_lock.read():
            recorded = machine.recorded(stage.name)
            if recorded and (differences := machine.differences(recorded, here)):
                different[stage.name] = differences
    if different:
        name, differences = next(iter(different.items()))
        yield note(
            f"machine: {', '.join(different)} ran on another kind ({name}: "
            f"{'; '.join(differences)}); `make verify` shows whether that matters",
        )


def _user() -> Iterator[Finding]:
    """Check home, temporary folder and this folder's path."""
    home = os.environ.get("HOME")
    if not home or not os.access(home, os.W_OK):
        yield note(
            f"HOME: {'not set' if not home else f'{home!r} is not writable'}; only Keras' "
            "download of weights needs it: set KERAS_HOME to a folder",
        )
    with tempfile.TemporaryFile():
        pass
    if braces := sorted(set("{}") & set(str(Path.cwd()))):
        yield fault(
            f"path: expected this folder's without braces, which DVC cannot handle, got "
            f"{' '.join(braces)} in it; move or rename it",
        )
    yield ok("folders: home and temporary files checked")


def _parameters() -> Iterator[Finding]:
    faults = parameter_faults()
    yield from map(fault, faults)
    if not faults:
        yield ok("parameters: params.yaml is valid, and the files it names are here")


def _disk() -> Iterator[Finding]:
    """Check free space and write permissions."""
    free = shutil.disk_usage(".").free
    text = f"disk: {free / 2**30:.1f} GiB free"
    if paths.ROW_CACHE.is_dir():
        used = sum(path.stat().st_size for path in paths.ROW_CACHE.rglob("*") if path.is_file())
        most = environment.row_cache_bytes() / 2**30
        text += f", {used / 2**30:.2f} of at most {most:.0f} GiB in the row cache {paths.ROW_CACHE}"
    if free < NEEDED_BYTES:
        yield fault(
            f"{text}; expected {NEEDED_BYTES / 2**30:.0f} GiB: `dvc gc --workspace` removes the "
            f"outputs of other commits, `rm -r {paths.ROW_CACHE}` the row cache",
        )
    else:
        yield ok(text)
    for folder in (Path(), Path(".dvc"), *FOLDERS):
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            yield fault(
                f"{folder}/: expected a writable folder, got a read-only one; work in a clone of "
                "your own, or correct its owner (`ls -ld`)",
            )


def _dvc() -> Iterator[Finding]:
    """Check the files of DVC and git, running stages, and leftovers of killed ones."""
    faults = list(_dvc_faults())
    yield from map(fault, faults)
    if git.run("rev-parse", "--is-shallow-repository") == "true":
        yield note(
            "git: older commits are not here, so nothing compares with them; `git fetch "
            "--unshallow`",
        )
    running = list(_running())
    if running:
        yield note(f"running in this folder: {', '.join(map(str, running))}")
    leftovers = [path for folder in FOLDERS for path in folder.glob(".partial-*")]
    if leftovers and not running:
        yield note(
            f"left by a killed run: {', '.join(map(str, leftovers))}; nothing reads it, and the "
            "next run of that stage removes it",
        )
    if not faults:
        yield ok("dvc and git: their files are valid")


def _dvc_faults() -> Iterator[str]:
    """Yield a sentence for each file that DVC or git cannot work with."""
    from pipeline.reproducibility import dvc_lock

    if not Path(".dvc").is_dir():
        yield ".dvc: expected the project's folder, got another; run this beside dvc.yaml"
        return
    if not git.run("rev-parse", "--is-inside-work-tree"):
        yield (
            ".git: expected a git checkout, got none that git can read; `git clone` the project "
            "(an archive has no history), or see `git status`"
        )
    if LOCK.exists() and "<<<<<<< " in LOCK.read_text(encoding="utf-8", errors="replace"):
        yield (
            f"{LOCK}: expected one version, got a merge conflict; `git checkout --ours {LOCK}`, "
            "then `dvc repro`"
        )
    elif LOCK.exists():
        try:
            dvc_lock.read()
        except UserError as error:
            yield str(error)
    try:
        json.loads(RWLOCK.read_text(encoding="utf-8") if RWLOCK.exists() else "{}")
    except ValueError:
        yield (
            f"{RWLOCK}: expected JSON, got a file that a full disk or a kill cut off; "
            f"`rm {RWLOCK}` while no dvc is running"
        )


def _running() -> Iterator[Path]:
    """Yield what another process has locked, such as `data/extract` while that stage runs."""
    for path in sorted(path for folder in FOLDERS for path in folder.glob(".*.lock")):
        try:
            handle = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield path.with_name(path.name.removeprefix(".").removesuffix(".lock"))
        finally:
            os.close(handle)


def _outputs() -> Iterator[Finding]:
    """Compare outputs, cache, code, inputs and parameters with `dvc.lock`."""
    from pipeline.reproducibility import lock_status

    if not LOCK.exists():
        yield note(f"outputs: no {LOCK}; `make repro` computes all")
        return
    state = lock_status.compare()
    yield from map(fault, state.faults)
    yield Finding(OK if state.complete else NOTE, state.counts())
    yield from map(note, state.notes)
    if state.stale:
        yield note(
            f"outputs: made from other inputs, parameters or code: {', '.join(state.stale)}; "
            "`make verify-quick` shows which, `dvc repro` updates them",
        )


CHECKS = (_packages, _machine, _user, _parameters, _disk, _dvc, _outputs)
