"""Read images in place from a zip or a folder.

`open_source` unpacks nothing to disk, and no name in a zip ever becomes a path. A fault of the
archive is a `UserError` when it is opened, a fault of one member an `Unreadable` when it is read.
Names are POSIX paths in Unicode form NFC, the same for a zip and a folder with the same files.
"""

import contextlib
import errno
import os
import re
import stat
import struct
import threading
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.images.decode import Unreadable
from pipeline.images.labels import natural_key
from pipeline.runtime.errors import UserError, of_the_machine
from pipeline.storage.tables import unexpected

MAX_MEMBER_BYTES = 128 * 1024**2  # more than any photo; a thread holds one member at a time

_IGNORED_FILES = {"thumbs.db": "Thumbs.db", ".ds_store": ".DS_Store", "desktop.ini": "hidden"}
_FAULTS_OF_ONE_FILE = {
    errno.ENOENT: "no file there any more, or a link to none",
    errno.EACCES: "no permission to read it",
    errno.ELOOP: "a link that leads to itself",
    errno.ENOTDIR: "no file there, as a part of its path is no folder",
    errno.ENAMETOOLONG: "a name that is too long for a file",
}
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
_ENCRYPTED, _UTF8_NAME = 0x1, 0x800  # flag bits; PKWARE's APPNOTE, 4.3.7 and 4.4.4

Entries = Iterable[tuple[str, Any]]  # raw name and member; None: a folder


class Source(contextlib.AbstractContextManager["Source"]):
    """An open archive of images, by default a folder; a context manager."""

    def __init__(self, path: Path, entries: Entries) -> None:
        self.path, self._state = path, _state(path)
        self._members, self.ignored = _admit(path, entries)
        self.names = sorted(self._members, key=natural_key)  # without the ignored ones

    def read(self, name: str) -> bytes:
        """Return the bytes of a member, or raise `Unreadable`; thread safe."""
        return read_file(self._members[name])

    def require_unchanged(self) -> None:
        """Raise `UserError` if the archive has been replaced or written to since it was opened."""
        if _state(self.path) != self._state:
            raise UserError(
                f"{self.path}: expected images that do not change while they are read, got "
                "different ones at the end; run again once they are all there"
            )

    def close(self) -> None:
        """Close the archive."""

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(path: Path) -> Source:
    """Open a zip or a folder; raise `UserError` if the archive as a whole cannot be trusted."""
    if os.path.isdir(path):  # unlike Path.is_dir, does not raise for a name that is too long
        return Source(path, _walk(path))
    if os.path.isfile(path):
        return _Zip(path)
    raise UserError(
        f"{path}: expected a zip file or a folder of images, got nothing at that path; "
        "put the images there or correct the path"
    )


def read_file(path: Path) -> bytes:
    """Return the bytes of a file, at most `MAX_MEMBER_BYTES`; raise `Unreadable`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would never end
            raise Unreadable("not a regular file")
        with path.open("rb") as file:
            content = file.read(MAX_MEMBER_BYTES + 1)
    except OSError as error:
        if error.errno not in _FAULTS_OF_ONE_FILE:  # a failing disk is no fault of the image
            raise
        raise Unreadable(_FAULTS_OF_ONE_FILE[error.errno]) from error
    if len(content) > MAX_MEMBER_BYTES:
        raise Unreadable(f"larger than {MAX_MEMBER_BYTES // 1024**2} MiB")
    return content


class _Zip(Source):
    def __init__(self, path: Path) -> None:
        super().__init__(path, _directory(path))
        for name, info in self._members.items():
            largest = max(info.file_size, info.compress_size)
            if info.flag_bits & _ENCRYPTED:
                raise UserError(
                    f"{path}: expected members without a password, got {name!r} encrypted; "
                    "make the zip again without a password"
                )
            if largest > MAX_MEMBER_BYTES:
                raise UserError(
                    f"{path}: expected members of {MAX_MEMBER_BYTES // 1024**2} MiB at most, got "
                    f"{name!r} of {largest} bytes; leave it out of the zip"
                )
        self._lock, self._file = threading.Lock(), path.open("rb")

    def close(self) -> None:
        self._file.close()

    def read(self, name: str) -> bytes:
        info = self._members[name]
        content = packed = self._packed(info)
        # Only these two methods can stop at a size; ZipFile.read would inflate up to 2 GiB.
        if info.compress_type == zipfile.ZIP_DEFLATED:
            try:  # one byte more than declared shows whether there is more
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, info.file_size + 1)
            except zlib.error as error:
                raise Unreadable("damaged compressed data") from error
        elif info.compress_type != zipfile.ZIP_STORED:
            raise Unreadable(f"unsupported compression method {info.compress_type}")
        if len(content) > info.file_size:
            raise Unreadable("expands beyond its declared size")
        if len(content) < info.file_size:
            raise Unreadable("ends before its declared size")
        if zlib.crc32(content) != info.CRC:
            raise Unreadable("bad CRC")
        return content

    def _packed(self, info: zipfile.ZipInfo) -> bytes:
        encoding = "utf-8" if info.flag_bits & _UTF8_NAME else "cp437"
        try:
            with self._lock:
                self._file.seek(max(0, info.header_offset))  # negative: its start was cut off
                header = self._file.read(_LOCAL_HEADER.size)
                if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
                    raise Unreadable("damaged member header")
                _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
                if self._file.read(name_length) != info.orig_filename.encode(encoding):
                    raise Unreadable("two names for one member")
                self._file.seek(extra_length, os.SEEK_CUR)
                return self._file.read(info.compress_size)
        except OSError as error:
            of_the_machine(error, self.path)  # adds the path to the error
            raise


def _directory(path: Path) -> Entries:
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
            # Private, as of Python 3.11 to 3.13; the fifth value is the number of entries.
            declared = zipfile._EndRecData(file)[4]  # type: ignore[attr-defined]
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            if of_the_machine(error, path):
                raise
            raise UserError(
                f"{path}: expected a zip file, got a file without a readable zip directory; "
                "download it again"
            ) from error
    if (declared - len(infos)) % 2**16:  # old writers count modulo 2**16
        raise UserError(
            f"{path}: expected {declared} members, as its directory declares, got {len(infos)}; "
            "download it again"
        )
    for info in infos:
        is_folder = info.orig_filename.endswith(("/", "\\")) and not info.file_size
        yield info.orig_filename, None if is_folder else info


def _state(path: Path) -> dict[Path, object]:
    """Return inode, size and modification time of each file that can be read."""
    state: dict[Path, object] = {}
    for file in [file for _, file in _walk(path)] if os.path.isdir(path) else [path]:
        with contextlib.suppress(OSError):
            status = file.stat()
            state[file] = status.st_ino, status.st_size, status.st_mtime_ns
    return state


def _walk(root: Path, below: str = "") -> Iterator[tuple[str, Path]]:
    """Yield name and path of each file below `root`; do not follow links to folders inside it."""
    with os.scandir(root / below) as entries:
        for entry in entries:
            name, is_link = below + entry.name, entry.is_symlink()
            if is_link and not Path(os.path.realpath(entry)).is_relative_to(os.path.realpath(root)):
                raise UserError(
                    f"{root}: expected files inside the folder, got the link {name!r} that leads "
                    "out of it; replace it with the files themselves"
                )
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, f"{name}/")
            elif not (is_link and os.path.isdir(entry)):
                yield name, root / name


def _admit(path: Path, entries: Entries) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the members that may be images, by safe name, and the number ignored, by kind."""
    members: dict[str, Any] = {}
    ignored: Counter[str] = Counter()
    twins: dict[str, str] = {}  # by case-folded name
    for raw, member in entries:
        name = _safe_name(path, raw)
        if member is None:
            continue
        if kind := _ignored_kind(name):
            ignored[kind] += 1
            continue
        if name.lower().endswith(".zip"):
            remedy = "" if path.is_dir() else "unzip the outer one first and "
            raise UserError(
                f"{path}: expected images, got another zip inside, {name!r}; "
                f"{remedy}give the inner zip itself"
            )
        if (twin := twins.get(name.casefold())) is not None:
            raise UserError(
                f"{path}: expected one member of each name, got {twin!r} and {name!r}, "
                "which are the same file on some machines; rename or remove one"
            )
        members[name], twins[name.casefold()] = member, name
    counts = dict(sorted(ignored.items()))
    if not members:
        inside = ", ".join(f"{count} of {kind!r}" for kind, count in counts.items()) or "nothing"
        raise UserError(f"{path}: expected images, got {inside} inside; give an archive of images")
    return members, counts


def _safe_name(path: Path, raw: str) -> str:
    """Return the name with '/' only and in NFC, as every machine would read it."""
    name = unicodedata.normalize("NFC", raw.replace("\\", "/"))
    parts = name.split("/")
    if ".." in parts or not parts[0] or re.match("[A-Za-z]:", name):
        raise UserError(
            f"{path}: expected members inside the archive, got {raw!r}, which leads out of it; "
            "do not trust this archive, get it from its source again"
        )
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise unexpected(path, "names of readable characters", raw, "rename that member")
    return "/".join(part for part in parts if part not in ("", "."))


def _ignored_kind(name: str) -> str | None:
    parts = name.split("/")
    if "__MACOSX" in parts:
        return "__MACOSX"
    if parts[-1].startswith("._"):
        return "._*"
    hidden = any(part.startswith(".") for part in parts)
    return _IGNORED_FILES.get(parts[-1].lower(), "hidden" if hidden else None)
