"""Binary files that end with a sha256 of their bytes, behind what HDF5 and npz readers look at.

A flipped bit in weights would otherwise be read as other weights. A file without a seal was written
by somebody else and is read as it is. Checkpoints have zip's own checksums.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.atomic_files import replacing, require, sha256
from pipeline.runtime.errors import UserError, of_the_machine

MARK = b"\nsha256 "
SEAL_BYTES = len(MARK) + 64


def seal(path: Path) -> None:
    """Append the seal to a file."""
    digest = sha256(path).encode()
    with path.open("ab") as file:
        file.write(MARK + digest)


def require_sealed(path: Path, stage: str) -> Path:
    """Return `path`, the output of `stage`; refuse it if its bytes do not match its seal."""
    content = memoryview(require(path, stage).read_bytes())
    end = bytes(content[-SEAL_BYTES:])
    digest = hashlib.sha256(content[:-SEAL_BYTES]).hexdigest().encode()
    if len(end) == SEAL_BYTES and end.startswith(MARK) and end != MARK + digest:
        raise UserError(
            f"{path}: expected the bytes that `{stage}` wrote, got others, by the sha256 behind "
            f"them; remove {path} and run `dvc repro` again"
        )
    return path


def write_arrays(path: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as an npz, atomically; `name` says which run may use them."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **{"name": np.array(name), **arrays})


def read_arrays(path: Path, name: str) -> dict[str, NDArray[Any]] | None:
    """Read what `write_arrays` wrote under that name; None if absent, damaged or of another run."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {key: file[key] for key in file.files} if str(file["name"]) == name else None
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds on damage
        if of_the_machine(error, path):
            raise
        return None
