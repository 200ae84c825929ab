"""Cache key: everything but the image that determines a row, as one short name."""

import hashlib
import json
import platform
from collections.abc import Mapping

from pipeline.runtime import fingerprint, machine
from pipeline.runtime.errors import UserError


def of(
    stage: str,
    settings: Mapping[str, object],
    prefix: str | None = None,
    libraries: Mapping[str, str] | None = None,
) -> str:
    """Return `prefix`, by default the stage's name, and a hash: `extract-0123456789abcdef`.

    The stage's fingerprint, its entry of `code.yaml`, enters: a row is computed again exactly when
    DVC would run the stage again for its code. `settings` are numbers, text, lists and mappings;
    `libraries` are the versions of the backend and engine, which may use an accelerator.
    """
    content = {
        "settings": settings,
        "code": fingerprint.of(stage),
        "libraries": libraries,
        "accelerators": machine.accelerators() if libraries else [],
        "machine": [platform.machine(), machine.model_name(), machine.kernel_features()],
        "python": machine.versions([]),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{prefix or stage}-{digest[:24]}"


def require_same(stage: str, key: str) -> None:
    """Raise `UserError` unless `key` is `of(stage, {})` here, in a worker of a cluster."""
    if of(stage, {}) != key:
        raise UserError(
            f"{stage}: expected the code, packages and kind of processor with which the run began, "
            "got others; run again, on a cluster with the same ones on every worker"
        )
