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
        _end_with_dvc()
        _limit_arenas()
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
    """Refuse code, packages or parameters that are not those that DVC is about to record.

    Raises:
        UserError: names the first difference.
    """
    entry = fingerprint.of(name)
    recorded = _read_mapping(paths.CODE).get(name)
    if recorded != entry:
        changed = fingerprint.differing(recorded if isinstance(recorded, dict) else {}, entry)
        raise UserError(
            f"{paths.CODE}: expected the code that stands there for `{name}`, got another "
            f"{', '.join(changed[:3])}{why}; run `dvc repro` again"
        )
    params = config.read()
    fingerprint.require_installed(entry)
    libraries = fingerprint.libraries()
    fingerprint.require_installed(libraries["backend"][params.compute.backend])
    fingerprint.require_installed(libraries["engine"][params.extract.engine])
    if _read_mapping(paths.SETTINGS).get(name) != config.settings(params).get(name):
        raise UserError(
            f"{paths.SETTINGS}: expected the parameters that stand there for `{name}`, got others "
            f"in {paths.PARAMS}, edited meanwhile; run `dvc repro` again"
        )


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected what stage `code` writes, got none; run `dvc repro code`"
        )
    return content


def _end_with_dvc() -> None:
    """Let the kernel send SIGTERM to this process when `dvc`, its parent, is gone.

    Raises:
        UserError: it is gone already, and this process was adopted by the first process.
    """
    if sys.platform != "linux" or "DVC_STAGE" not in os.environ:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1 and b"dvc" not in Path("/proc/1/cmdline").read_bytes():
        raise UserError(
            "dvc: expected it to wait for this stage, got an end of it; run `dvc repro` again"
        )


def _limit_arenas() -> None:
    """Keep glibc from giving every thread a heap of its own, which holds on to freed memory.

    With two, `extract` takes 200 MiB less, and no longer. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 2)
