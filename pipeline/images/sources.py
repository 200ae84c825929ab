"""Read images in place from a zip or a folder.

`open_source` unpacks nothing to disk, and no name in a zip ever becomes a path. A fault of the
archive is a `UserError` when it is opened; a fault of one member is an `Unreadable` when it is
read.

Names are POSIX paths in Unicode form NFC, in natural order (2 before 10), the same for a zip and
for a folder with the same files.
"""

import errno
import os
import re
import stat
import struct
import threading
import unicodedata
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self, TypeVar

from pipeline.images.decode import Unreadable
from pipeline.images.labels import natural_key
from pipeline.runtime.errors import UserError, of_the_machine

MAX_MEMBER_BYTES = 128 * 1024**2  # more than any photo; a thread holds one member at a time
MAX_RATIO = 200  # JPEG, PNG and WebP are compressed already: zip gains a few per cent on them
RATIO_FROM_BYTES = 1024**2  # below this a high ratio harms nobody

_IGNORED_FILES = {"thumbs.db": "Thumbs.db", ".ds_store": ".DS_Store", "desktop.ini": "hidden"}
_FAULTS_OF_ONE_FILE = {
    errno.ENOENT: "no file there any more, or a link to none",
    errno.EACCES: "no permission to read it",
    errno.ELOOP: "a link that leads to itself",
    errno.ENOTDIR: "no file there, as a part of its path is no folder",
    errno.ENAMETOOLONG: "a name that is too long for a file",
}
# From PKWARE's APPNOTE: 4.3.7 (signature, lengths of name and extra field) and 4.4.4 (flag bits).
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_UTF8_NAME = 0x800
_ENCRYPTED = 0x1

Member = TypeVar("Member")


class Source(ABC):
    """An open archive of images; a context manager."""

    path: Path
    names: list[str]  # in natural order, of all members but the ignored ones
    ignored: dict[str, int]  # number of files that operating systems leave behind, by kind

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the bytes of a member, or raise `Unreadable`; thread safe."""

    @abstractmethod
    def state(self) -> object:
        """Return a value that differs once the archive has been replaced or written to."""

    def require_unchanged(self, since: object) -> None:
        """Raise `UserError` if `state` is no longer `since`."""
        if self.state() != since:
            raise UserError(
                f"{self.path}: expected images that do not change while they are read, got "
                "different ones at the end; run again once they are all there"
            )

    def close(self) -> None:  # noqa: B027  a folder has nothing to close
        """Close the archive."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(path: Path) -> Source:
    """Open a zip or a folder; raise `UserError` if the archive as a whole cannot be trusted."""
    if os.path.isdir(path):  # unlike Path.is_dir, does not raise for a name that is too long
        return _Folder(path)
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
        self.path = path
        self._lock = threading.Lock()
        self._file = path.open("rb")
        try:
            infos, directory = self._directory()
            _refuse_overlaps(path, infos, directory)
            entries = ((info.orig_filename, info, _is_folder(info)) for info in infos)
            self._members, self.ignored = _admit(path, entries)
            for name, info in self._members.items():
                _refuse_traps(path, name, info)
        except BaseException:
            self._file.close()
            raise
        self.names = sorted(self._members, key=natural_key)

    def state(self) -> object:
        return _stamp(self.path)

    def close(self) -> None:
        self._file.close()

    def read(self, name: str) -> bytes:
        info = self._members[name]
        try:
            packed = self._packed(info)
        except OSError as error:
            of_the_machine(error, self.path)  # adds the path to the error
            raise
        content = packed
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
        with self._lock:
            self._file.seek(info.header_offset)
            header = self._file.read(_LOCAL_HEADER.size)
            if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
                raise Unreadable("damaged member header")
            _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
            if self._file.read(name_length) != info.orig_filename.encode(encoding):
                raise Unreadable("two names for one member")
            self._file.seek(extra_length, os.SEEK_CUR)
            return self._file.read(info.compress_size)

    def _directory(self) -> tuple[list[zipfile.ZipInfo], int]:
        """Return all entries, and the offset of the directory that lists them."""
        try:
            with zipfile.ZipFile(self._file) as archive:
                infos, start = archive.infolist(), archive.start_dir
            # Private, as of Python 3.11 to 3.13: `zipfile` has no public way to ask for the number
            # of entries that the end of the directory declares.
            record = zipfile._EndRecData(self._file)  # type: ignore[attr-defined]
            declared = record[zipfile._ECD_ENTRIES_TOTAL]  # type: ignore[attr-defined]
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            if of_the_machine(error, self.path):
                raise
            raise UserError(
                f"{self.path}: expected a zip file, got a file without a readable zip directory; "
                "download it again"
            ) from error
        if (declared - len(infos)) % 2**16:  # old writers count modulo 2**16
            raise UserError(
                f"{self.path}: expected {declared} members, as its directory declares, got "
                f"{len(infos)}; download it again"
            )
        return infos, start


class _Folder(Source):
    def __init__(self, path: Path) -> None:
        self.path = path
        self._members, self.ignored = _admit(path, ((name, f, False) for name, f in _walk(path)))
        self.names = sorted(self._members, key=natural_key)

    def state(self) -> object:
        return {name: _stamp(path) for name, path in _walk(self.path)}

    def read(self, name: str) -> bytes:
        return read_file(self._members[name])


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return inode, size and modification time of a file; None if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and path of each file below `root`; do not follow links to folders inside it."""

    def fail(error: OSError) -> None:
        raise error

    inside = os.path.realpath(root)
    for folder, subfolders, files in os.walk(root, onerror=fail):
        for path in (Path(folder, name) for name in (*subfolders, *files)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
                raise UserError(
                    f"{root}: expected files inside the folder, got the link "
                    f"{path.relative_to(root).as_posix()!r} that leads out of it; "
                    "replace it with the files themselves"
                )
        for path in (Path(folder, name) for name in files):
            yield path.relative_to(root).as_posix(), path


def _admit(
    path: Path,
    entries: Iterable[tuple[str, Member, bool]],  # raw name, member, whether it is a folder
) -> tuple[dict[str, Member], dict[str, int]]:
    """Return the members that may be images, by safe name, and the number ignored, by kind."""
    members: dict[str, Member] = {}
    ignored: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for raw, member, is_folder in entries:
        name = _safe_name(path, raw)
        if is_folder:
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
        twin = seen.setdefault(name.casefold(), name)
        if name in members or twin != name:
            raise UserError(
                f"{path}: expected one member of each name, got {twin!r} and {name!r}, "
                "which are the same file on some machines; rename or remove one"
            )
        members[name] = member
    counts = dict(sorted(ignored.items()))
    if not members:
        contents = ", ".join(f"{count} of {kind!r}" for kind, count in counts.items()) or "nothing"
        raise UserError(
            f"{path}: expected images, got {contents} inside; give an archive of images"
        )
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
        raise UserError(
            f"{path}: expected names of readable characters, got {raw!r}; rename that member"
        )
    return "/".join(part for part in parts if part not in ("", "."))


def _ignored_kind(name: str) -> str | None:
    parts = name.split("/")
    if "__MACOSX" in parts:
        return "__MACOSX"
    if parts[-1].startswith("._"):
        return "._*"
    if kind := _IGNORED_FILES.get(parts[-1].lower()):
        return kind
    return "hidden" if any(part.startswith(".") for part in parts) else None


def _is_folder(info: zipfile.ZipInfo) -> bool:
    """Return whether an entry is a folder; one with bytes is a file, whatever its name."""
    return info.orig_filename.endswith(("/", "\\")) and not info.file_size


def _refuse_overlaps(path: Path, infos: Iterable[zipfile.ZipInfo], directory: int) -> None:
    """Require members side by side: with overlapping ones a small zip can hold petabytes."""
    end, previous = 0, "the start of the file"
    members = [(info.header_offset, info.orig_filename, info.compress_size) for info in infos]
    for offset, name, packed_bytes in [*sorted(members), (directory, "the directory", 0)]:
        if offset < end:
            raise UserError(
                f"{path}: expected members side by side, got {previous!r} and {name!r} in the "
                "same bytes; do not trust this archive, get it from its source again"
            )
        # A lower bound: it omits the extra field of the local header.
        end, previous = offset + _LOCAL_HEADER.size + len(name) + packed_bytes, name


def _refuse_traps(path: Path, name: str, info: zipfile.ZipInfo) -> None:
    largest = max(info.file_size, info.compress_size)
    if info.flag_bits & _ENCRYPTED:
        raise UserError(
            f"{path}: expected members without a password, got {name!r} encrypted; "
            "make the zip again without a password"
        )
    if largest > MAX_MEMBER_BYTES:
        raise UserError(
            f"{path}: expected members of {MAX_MEMBER_BYTES // 1024**2} MiB at most, got {name!r} "
            f"of {largest} bytes; leave it out of the zip"
        )
    if info.file_size > RATIO_FROM_BYTES and info.file_size > MAX_RATIO * info.compress_size:
        raise UserError(
            f"{path}: expected images, which a zip packs {MAX_RATIO}-fold at most, got {name!r} "
            f"with {info.file_size} bytes in {info.compress_size}; leave it out of the zip"
        )
