"""Run git in a folder."""

import os
import subprocess
from pathlib import Path


def run(*words: str, folder: Path = Path()) -> str | None:
    """Return what git prints, without the last line end; None if it fails or is not installed."""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", *words],  # noqa: S607
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def environment() -> dict[str, str]:
    """Return the environment without what git hooks and DVC set for this folder."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") and name != "DVC_STAGE"
    }
