"""How a stage runs: alone, under DVC's eyes, with the recorded code, packages and parameters."""

import argparse
import ctypes
import functools
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline import config, paths
from pipeline.runtime import atomic_files, environment, fingerprint, machine
from pipeline.runtime.entrypoint import command, peak_memory
from pipeline.runtime.errors import UserError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
M_ARENA_MAX = -8  # glibc's malloc.h


def stage(main: Callable[..., None]) -> Callable[[], int]:
    """Wrap the `main` of `stages/NAME.py`; it takes nothing, or the name of a backbone.

    A second process that runs the stage in this folder is refused. Started by DVC, it ends when
    DVC is killed, and refuses code, packages or parameters that are not those of `code.yaml` and
    `settings.yaml`, before it starts and again before DVC records its outputs.
    """
    name = Path(inspect.getfile(main)).stem

    def run(backbone: str | None) -> None:
        started = time.perf_counter()
        _set_up_process()
        environment.check()
        by_dvc = "DVC_STAGE" in os.environ and name != "code"
        paths.DATA.mkdir(exist_ok=True)
        with atomic_files.only_writer(paths.DATA / name):
            if by_dvc:
                _require_recorded(name)
            main(*filter(None, [backbone]))
            if by_dvc:
                fingerprint.forget()
                _require_recorded(name, "; it was edited while the stage ran")
                machine.record(os.environ["DVC_STAGE"])
        seconds, mebibytes = time.perf_counter() - started, peak_memory() / 2**20
        print(f"{name}: done in {seconds:.1f} s, at most {mebibytes:,.0f} MiB")

    @functools.wraps(main)
    def parse_and_run() -> int:
        parser = argparse.ArgumentParser(
            prog=f"python -m stages.{name}",
            description=inspect.getmodule(main).__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if inspect.signature(main).parameters:
            parser.add_argument("backbone", help="a name in `backbones`, or DVC's stage@name")
        given = getattr(parser.parse_args(), "backbone", None)
        return command(run)(given and given.rpartition("@")[2])

    return parse_and_run


def _require_recorded(name: str, why: str = "") -> None:
    """Refuse code, packages or parameters that are not those that DVC is about to record."""
    entry, recorded = fingerprint.of(name), _recorded(paths.CODE, name)
    if recorded != entry:
        known = recorded if isinstance(recorded, dict) else {}
        changed = sorted({key for key, _ in known.items() ^ entry.items()})
        raise UserError(
            f"{paths.CODE}: expected the code that stands there for `{name}`, got another "
            f"{', '.join(changed[:3])}{why}; run `dvc repro` again"
        )
    params = config.read()
    libraries = fingerprint.chosen(params.compute.backend, params.extract.engine)
    fingerprint.require_installed(entry | libraries)
    if _recorded(paths.SETTINGS, name) != config.settings(params).get(name):
        raise UserError(
            f"{paths.SETTINGS}: expected the parameters that stand there for `{name}`, got others "
            f"in {paths.PARAMS}, edited meanwhile; run `dvc repro` again"
        )


def _recorded(path: Path, name: str) -> Any:
    """Return the entry of a stage in a file that `code` has written."""
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if it is there
        return yaml.load(path.read_text(encoding="utf-8"), loader).get(name)  # noqa: S506
    except (FileNotFoundError, yaml.YAMLError, AttributeError):
        raise UserError(
            f"{path}: expected what stage `code` writes, got none; run `dvc repro code`"
        ) from None


def _set_up_process() -> None:
    """Let the kernel end this process when `dvc`, its parent, is gone; limit glibc's heaps.

    With two heaps in place of one per thread, `extract` takes 200 MiB less, and no longer.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if "DVC_STAGE" in os.environ:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if hasattr(libc, "mallopt"):  # other C libraries have none
            libc.mallopt(M_ARENA_MAX, 2)
