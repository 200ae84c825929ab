"""Cache key: everything but the image that determines a row, as one short name.

Code and package versions enter as the stage's fingerprint, the entry of `code.yaml`: a row is
computed again exactly when DVC would run the stage again for its code.
"""

import hashlib
import json
import platform
from collections.abc import Mapping

from pipeline.runtime import fingerprint, machine
from pipeline.runtime.errors import UserError


def of(stage: str, settings: Mapping[str, object], what: str | None = None) -> str:
    """Return `what` and a hash, such as `extract-0123456789abcdef`.

    Args:
        stage: its fingerprint enters.
        settings: plain values: numbers, text, lists and mappings of them.
        what: the beginning of the name, if not the stage's.
    """
    known = json.dumps(
        {
            "settings": settings,
            "code": fingerprint.of(stage),
            "libraries": fingerprint.libraries(),
            "machine": [
                platform.machine(),
                machine.model_name(),
                sorted(machine.flags()),
                machine.accelerators(),
            ],
            "python": platform.python_version(),
        },
        sort_keys=True,
    )
    return f"{what or stage}-{hashlib.sha256(known.encode()).hexdigest()[:24]}"


def require_same(expected: str | list[str], actual: str | list[str]) -> None:
    """Refuse to work under another key than the process that handed out the work.

    Raises:
        UserError: they differ.
    """
    if actual != expected:
        raise UserError(
            "extract: expected the code, packages and kind of processor with which the run began, "
            "got others; run `dvc repro` again, on a cluster with the same ones on every worker"
        )
