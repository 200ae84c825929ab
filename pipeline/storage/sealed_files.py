"""Binary files that end with a sha256 of their bytes, behind what HDF5 and npz readers look at.

A flipped bit in weights would otherwise be read as other weights. A file without a seal was written
by somebody else and is read as it is.
"""

import hashlib
import os
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
    """Return `path`, the output of `stage`, once its bytes match its seal.

    Raises:
        UserError: nothing is there, or the bytes do not match.
    """
    if not _matches_its_seal(require(path, stage)):
        raise UserError(
            f"{path}: expected the bytes that `{stage}` wrote, got others, by the sha256 behind "
            f"them; remove {path} and run `dvc repro` again"
        )
    return path


def write_arrays(path: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a sealed npz of arrays atomically; `name` says which run may use them."""
    with replacing(path) as partial:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **{"name": np.array(name), **arrays})
        seal(partial)


def read_arrays(path: Path, name: str) -> dict[str, NDArray[Any]] | None:
    """Read what `write_arrays` wrote under that name; None if absent, damaged or of another run."""
    try:
        if not _matches_its_seal(path):
            return None
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {key: file[key] for key in file.files} if str(file["name"]) == name else None
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds on damage
        if of_the_machine(error, path):
            raise
        return None


def _matches_its_seal(path: Path) -> bool:
    with path.open("rb") as file:
        left = file.seek(0, os.SEEK_END) - SEAL_BYTES
        file.seek(max(0, left))
        end = file.read()
        if left < 0 or not end.startswith(MARK):
            return True
        file.seek(0)
        digest = hashlib.sha256()
        while left > 0:
            block = file.read(min(left, 2**20))
            digest.update(block)
            left -= len(block)
    return digest.hexdigest().encode() == end[len(MARK) :]
