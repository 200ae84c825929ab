"""Run git in a folder."""

import os
import re
import subprocess
from pathlib import Path, PurePosixPath

from pipeline.runtime.errors import UserError

# Variables that name one repository or its files; hooks set them.
OF_A_REPOSITORY = re.compile(r"GIT_(?!CONFIG|SSH|TEST|EXEC|CEILING)")


def run(*words: str, folder: Path = Path()) -> str | None:
    """Return what git prints, without the last line end; None if it fails or is not installed."""
    try:
        done = _run(*words, folder=folder)
    except OSError:
        return None
    return None if done.returncode else done.stdout.strip()


def place(folder: Path = Path()) -> tuple[Path, PurePosixPath]:
    """Return the root of git's working tree around a folder, and the folder's path in it."""
    done = _run("rev-parse", "--show-toplevel", "--show-prefix", folder=folder)
    if owned := re.search(r"safe\.directory (.+)", done.stderr):
        raise UserError(
            f"{folder.resolve()}: expected a repository of this user, got another owner's, which "
            f"git does not read; `git config --global --add safe.directory {owned[1]}` if you "
            "trust it"
        )
    if done.returncode:
        raise UserError(
            f"{folder.resolve()}: expected a git clone of the project, got no .git in it; go to "
            "the project's folder"
        )
    root, prefix = done.stdout.split("\n")[:2]
    return Path(root), PurePosixPath(prefix)


def environment() -> dict[str, str]:
    """Return the environment without what git hooks and DVC set for this folder."""
    return {
        name: value
        for name, value in os.environ.items()
        if not OF_A_REPOSITORY.match(name) and name != "DVC_STAGE"
    }


def _run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        ["git", *words],  # noqa: S607
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        errors="surrogateescape",  # names of files are bytes
        check=False,
    )
