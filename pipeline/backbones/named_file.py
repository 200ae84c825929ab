"""The file that `backbones.NAME.path` names."""

from pathlib import Path

from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError


def require(name: str, path: Path, sha256: str) -> Path:
    """Return `path`; a `UserError` unless it is a file with that sha256."""
    if not path.is_file():
        raise UserError(
            f"params.yaml: backbones.{name}.path: expected a weights file, got nothing at "
            f"{str(path)!r}; put it there or correct the path"
        )
    actual = atomic_files.sha256(path)
    if actual != sha256:
        raise UserError(
            f"{path}: expected sha256 {sha256} (backbones.{name}.sha256), got {actual}; "
            "get the right file, or correct the hash if you trust this one"
        )
    return path
