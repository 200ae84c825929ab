"""Find what is wrong here, and the command that fixes it.

    pipeline doctor
    pipeline doctor --quick
    pipeline doctor --remote

Checks packages, parameters and inputs, disk, the files of DVC and git, outputs and DVC's cache,
which it hashes. Each line begins with `ok`, `note` or `FAULT`; a fault makes the status 1. --quick
prints only faults of parameters and inputs; `make repro` calls it before DVC, which reports an
absent input after it has removed the stage's outputs. --remote only tries DVC's default remote, for
`make pull`: DVC takes one that does not answer for an empty one.
"""

import argparse
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline import config, paths
from pipeline.reproducibility import code_changes, git
from pipeline.runtime import environment, fingerprint, machine
from pipeline.runtime.entrypoint import quiet_if_nobody_reads
from pipeline.runtime.errors import UserError

OK, NOTE, FAULT = "ok", "note", "FAULT"
LOCK, RWLOCK = Path("dvc.lock"), Path(".dvc/tmp/rwlock")
SITE_REPOS = f"{paths.SITE_CACHE}/repo"
ATTRIBUTES = "* text=auto eol=lf"
NEEDED_GIB = 1  # free, for temporary files and outputs
DRIVERS = {"jax": 580, "tensorflow": 525}  # least for CUDA 13 and 12: NVIDIA's compatibility tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="only parameters, inputs, processor")
    parser.add_argument("--remote", action="store_true", help="only whether DVC's remote answers")


def run(arguments: argparse.Namespace) -> None:
    """Print all findings; exit with status 1 if one is a fault."""
    if arguments.quick:
        if faults := _faults(_parameters):
            raise UserError("\n".join(faults))
        return
    if arguments.remote:
        from pipeline.reproducibility import dvc_project

        with dvc_project.opened() as project:
            if fault := project.remote_fault():
                raise UserError(fault)
        return
    count = 0
    with quiet_if_nobody_reads():
        for kind, text in _findings():
            count += kind == FAULT
            print(f"{kind:6}{text}", flush=True)
        print(f"doctor: {count} fault{'s' * (count != 1)}")
    if count:
        sys.exit(1)


def _findings() -> Iterator[tuple[str, str]]:
    """Yield a kind and a sentence for each fault, or for a check without one."""
    broken = False
    for sound, check in CHECKS.items():
        faults = _faults(check)
        yield from ((FAULT, fault) for fault in faults)
        if not faults:
            yield OK, sound
        broken |= check is _dvc and bool(faults)
    yield from _moved()
    yield from _gpu()
    if broken:  # DVC cannot be asked
        return
    try:
        yield from _outputs()
    except UserError as error:
        yield from ((FAULT, fault) for fault in str(error).splitlines())


def _faults(check: Callable[[], Iterator[str]]) -> list[str]:
    """Return the faults that a check yields, and those of an error that ends it."""
    faults: list[str] = []
    try:
        faults.extend(check())
    except UserError as error:
        faults += str(error).splitlines()
    return faults


def _parameters() -> Iterator[str]:
    """Find parameters, named files or a processor that no stage can run with."""
    environment.check()
    params = config.read()
    yield from config.missing_files(params)
    threads, available = params.compute.threads, machine.processors()
    if threads is not None and threads > available:
        yield (
            f"{paths.PARAMS}: compute.threads: expected at most the {available} processors of "
            f"this machine, got {threads}; lower it (results then differ in their last digits)"
        )
    machine.require(params.compute.instruction_set)


def _packages() -> Iterator[str]:
    backend = _gpu_backend()
    lock = paths.GPU_LOCKS[backend] if backend else paths.RUN_LOCK
    wrong = [
        f"{name} {present or 'none'} instead of {version}"
        for name, version in fingerprint.locked(lock.resolve()).items()
        if (present := machine.installed(name)) != version
    ]
    if wrong:
        yield (
            f"packages: expected those of {lock}, got {code_changes.listed(wrong)}; run "
            "`touch requirements*.lock && make repro`"
        )


def _moved() -> Iterator[tuple[str, str]]:
    """Notice scripts of a virtual environment that was moved or copied with its folder."""
    script, folder = Path(sys.prefix, "bin", "dvc"), Path(sys.prefix, "bin")
    head = script.read_bytes()[:1000] if script.is_file() else b""
    found = re.search(rb"(/.*)/python", head.partition(b"\nimport ")[0])
    if found and (place := Path(os.fsdecode(found[1]))).resolve() != folder.resolve():
        yield (
            NOTE,
            f"packages: the scripts in {folder} call {place}, where they were installed: `make` "
            "and `python -m dvc` work; `make clean-venv repro` makes `dvc` and `pipeline` work",
        )


def _gpu_backend() -> str | None:
    """Return the `compute.backend` whose packages for GPUs are installed; None without any."""
    installed = (one for one, of in fingerprint.ON_GPU.items() if machine.installed(of[0]))
    return next(installed, None)


def _gpu() -> Iterator[tuple[str, str]]:
    """Compare the GPU, its driver, the packages for it and the parameters."""
    found, backend, driver = machine.accelerators(), _gpu_backend(), machine.driver()
    if not found:
        if backend:
            yield (
                NOTE,
                f"gpu: packages of {paths.GPU_LOCKS[backend]} are installed, but no GPU is here",
            )
        return
    card = ", ".join(line.removeprefix("Model:").strip() for line in found[1:]) or "a GPU"
    if backend is None:
        yield (
            NOTE,
            f"gpu: {card} is here and this environment cannot use it, as it has packages for the "
            "CPU only; `make ACCELERATOR=jax-cuda repro` with compute.backend: jax and "
            "extract.engine: keras (docs/gpu.md)",
        )
        return
    if driver is not None and driver < DRIVERS[backend]:
        yield (
            FAULT,
            f"gpu: expected NVIDIA's driver {DRIVERS[backend]} or later, as the packages for "
            f"{backend} need it, got {driver}; update the driver",
        )
    try:
        params = config.read()
    except UserError:
        return  # reported above
    if params.compute.backend != backend:
        yield (
            NOTE,
            f"gpu: {card} is here and the parameters do not use it: {paths.GPU_LOCKS[backend]} is "
            f"for compute.backend: {backend}, got {params.compute.backend!r} (docs/gpu.md)",
        )
    elif params.extract.engine == "openvino":
        yield (
            NOTE,
            f"gpu: {card} is here and `extract` does not use it: extract.engine: openvino runs on "
            "the processor, keras on the GPU (docs/gpu.md)",
        )


def _disk() -> Iterator[str]:
    free = shutil.disk_usage(".").free / 2**30
    if free < NEEDED_GIB:
        yield (
            f"disk: expected {NEEDED_GIB} GiB free, got {free:.1f}; `dvc gc --all-commits` removes "
            f"outputs that no commit has, `rm -r {paths.ROW_CACHE}` the row cache"
        )


def _dvc() -> Iterator[str]:
    if LOCK.exists() and "<<<<<<< " in LOCK.read_text(encoding="utf-8", errors="replace"):
        yield (
            f"{LOCK}: expected one version, got a merge conflict; `git checkout --ours {LOCK}`, "
            "then `dvc repro`"
        )
    try:
        json.loads(RWLOCK.read_text(encoding="utf-8") if RWLOCK.exists() else "{}")
    except ValueError:
        yield (
            f"{RWLOCK}: expected JSON, got a file that a full disk or a kill cut off; "
            f"`rm {RWLOCK}` while no dvc is running"
        )


def _site_cache() -> Iterator[str]:
    for folder in (*Path().glob(SITE_REPOS), *Path().glob(f"*/{SITE_REPOS}")):
        if folder.stat().st_mode & stat.S_IWOTH:
            yield (
                f"{folder}: expected DVC's site cache to be closed to other users, got one that "
                f"all may write, as DVC makes it in a new folder; `chmod -R go-w {folder.parent}`"
            )


def _line_ends() -> Iterator[str]:
    """Find text files that are not here as git has them, since DVC hashes their bytes."""
    here, there, free = [], [], False
    for line in (git.run("ls-files", "--eol", "-z") or "").split("\0"):
        ends, _, path = line.partition("\t")  # such as `i/lf w/crlf attr/text=auto eol=lf`
        index, tree, *attributes = ends.split() or ("", "")
        if index in ("i/crlf", "i/mixed") and tree == "w/lf":
            there.append(path)
        elif index == "i/lf" and tree in ("w/crlf", "w/mixed"):
            here.append(path)
            free |= "eol=lf" not in attributes
    if here:
        first = f"add the line {ATTRIBUTES!r} to .gitattributes, " if free else ""
        yield (
            f"line ends: expected LF, as in git, got CRLF in {code_changes.listed(here)}; {first}"
            "commit your changes, then `git rm -r --quiet --cached . && git reset --quiet --hard`"
        )
    if there:
        yield (
            f"line ends: expected LF in git, as here, got CRLF in {code_changes.listed(there)}; "
            "`git add --renormalize .` and commit"
        )


def _outputs() -> Iterator[tuple[str, str]]:
    """Compare outputs, cache, code, inputs and parameters with `dvc.lock`."""
    from pipeline.reproducibility import lock_status

    if not LOCK.exists():
        yield NOTE, f"outputs: no {LOCK}; `make repro` computes all"
        return
    state = lock_status.compare()
    yield from ((FAULT, sentence) for sentence in state.faults)
    yield OK if state.complete else NOTE, state.counts()
    yield from ((NOTE, sentence) for sentence in state.notes)
    if state.stale:
        yield (
            NOTE,
            f"outputs: made from other inputs, parameters or code: {', '.join(state.stale)}; "
            "`make verify-quick` shows which, `dvc repro` updates them",
        )


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    f"packages: those of {paths.RUN_LOCK}": _packages,
    f"parameters: {paths.PARAMS} is valid, and the files it names are here": _parameters,
    f"disk: {NEEDED_GIB} GiB or more free": _disk,
    "dvc: its files are valid": _dvc,
    "dvc: its site cache is closed to other users": _site_cache,
    "line ends: those of git": _line_ends,
}
