"""What DVC and git keep beside the data, and how it breaks."""

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pipeline.reproducibility import dvc_lock
from pipeline.runtime.errors import UserError

RWLOCK = Path(".dvc/tmp/rwlock")
CONFLICT = "<<<<<<< "


def faults() -> Iterator[str]:
    """A sentence for each file that DVC or git cannot work with."""
    if not Path(".dvc").is_dir():
        yield (
            ".dvc: expected the folder of this project, got none; run it where dvc.yaml is, in a "
            "`git clone`"
        )
        return
    if not _git("rev-parse", "--is-inside-work-tree"):
        yield (
            ".git: expected a checkout of git that git can read, got none; `git clone` the project "
            "(an archive has no history), or see what `git status` says"
        )
    yield from _lock_file()
    if RWLOCK.exists() and not _is_json(RWLOCK):
        yield (
            f"{RWLOCK}: expected JSON, got a file that was cut off, as by a full disk or a kill; "
            f"`rm {RWLOCK}` while no dvc is running"
        )


def _lock_file() -> Iterator[str]:
    if not dvc_lock.PATH.exists():
        return  # a project that never ran
    try:
        text = dvc_lock.PATH.read_text(encoding="utf-8", errors="replace")
        if CONFLICT in text:
            yield (
                f"{dvc_lock.PATH}: expected one version, got a merge conflict; `git checkout "
                f"--ours {dvc_lock.PATH}`, then `dvc repro`"
            )
        else:
            dvc_lock.read(dvc_lock.PATH)
    except UserError as fault:
        yield str(fault)


def is_shallow() -> bool:
    """Whether older commits are absent here, so that nothing can be compared with them."""
    return _git("rev-parse", "--is-shallow-repository") == "true"


def at_work(folders: list[Path]) -> list[Path]:
    """What another process holds the lock of, such as `data/extract` while that stage runs."""
    held = []
    for path in sorted(path for folder in folders for path in folder.glob(".*.lock")):
        try:
            handle = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.append(path.with_name(path.name.removeprefix(".").removesuffix(".lock")))
        finally:
            os.close(handle)
    return held


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _git(*words: str) -> str:
    """What git prints; "" where it fails or is not installed."""
    try:
        ended = subprocess.run(  # noqa: S603
            ["git", *words],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""
