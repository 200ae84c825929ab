"""What a cached row depends on beside its image, as one short name.

A row cache keeps the rows of one such name together. Code is part of it by its bytes, packages by
their versions, so nobody has to remember to count up a version.
"""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.runtime.cpu import accelerators, flags, model_name
from pipeline.runtime.errors import UserError

HERE = Path(__file__).parent


def of(
    what: str,
    settings: Mapping[str, object],
    modules: Iterable[str],
    packages: Iterable[str],
) -> str:
    """Give `what` and a hash of all that is given, such as `extract-0123456789abcdef`.

    Args:
        what: the stage.
        settings: plain values: numbers, text, lists and mappings of them.
        modules: files below `stages/` whose code makes the row.
        packages: distributions whose versions matter; one that is not installed counts as none.
    """
    known = json.dumps(
        {
            "settings": settings,
            "code": {name: _sha256(HERE / name) for name in sorted(modules)},
            "packages": {name: _version(name) for name in sorted(packages)},
            "machine": [platform.machine(), model_name(), sorted(flags()), accelerators()],
            "python": platform.python_version(),
        },
        sort_keys=True,
    )
    return f"{what}-{hashlib.sha256(known.encode()).hexdigest()[:24]}"


def require_same(expected: str | list[str], found: str | list[str]) -> None:
    """Refuse to work under another identity than the process that handed out the work.

    Raises:
        UserError: they differ.
    """
    if found != expected:
        raise UserError(
            "cluster: expected workers with the same code, packages and kind of processor as here, "
            "got others; bring them into line and restart them"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
