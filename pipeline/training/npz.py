"""Arrays of an npz file, whose declarations are all checked before an array is read.

`np.load` takes a header's word for how much memory an array needs, and unpacks members whatever
comes out. What `np.savez` writes is not packed, so each member says the truth or is refused.
"""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


def read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of numbers that `np.savez` has written there, by name.

    Raises:
        OSError, ValueError: not such a file, or not whole, by a reason that fits after "got".
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                _require_plain(archive, member)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error)) from None
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(str(error)) from None


def _require_plain(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """The shape in the header is that of the bytes which follow, and they are numbers."""
    if member.compress_type != zipfile.ZIP_STORED or not member.filename.endswith(".npy"):
        raise ValueError(f"a packed array or another file inside, {member.filename!r}")
    with archive.open(member) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"an array of version {version}, {member.filename!r}")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(file)
        declared = math.prod(shape) * dtype.itemsize
        there = member.file_size - file.tell()
    if dtype.kind not in "fiub" or min(shape, default=0) < 0 or declared != there:
        raise ValueError(
            f"{member.filename!r} of {dtype} {shape} in {there:,} bytes, not {declared:,}"
        )
