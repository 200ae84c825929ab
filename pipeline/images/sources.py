"""Read images in place from a zip or a folder.

`open_source` unpacks nothing to disk, and no name in a zip ever becomes a path. A fault of the
archive is a `UserError` when it is opened, a fault of one member an `Unreadable` when it is read.
Names are POSIX paths in Unicode form NFC, the same for a zip and a folder with the same files.
Files that are no images by their names are passed over and counted. A member takes about 100 bytes
of memory.
"""

import contextlib
import errno
import os
import stat
import struct
import threading
import warnings
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.images import member_names
from pipeline.images.decode import Unreadable, archive_kind
from pipeline.images.labels import listed
from pipeline.runtime.errors import UserError, of_the_machine
from pipeline.runtime.links import leads_out
from pipeline.storage.texts import Ints, Texts, hashes, naturally_sorted, repeated

MAX_MEMBER_BYTES = 128 * 1024**2  # more than any photo; a thread holds one member at a time

_FAULTS_OF_ONE_FILE = {
    errno.ENOENT: "no file there any more, or a link to none",
    errno.EACCES: "no permission to read it",
    errno.ELOOP: "a link that leads to itself",
    errno.ENOTDIR: "no file there, as a part of its path is no folder",
    errno.ENAMETOOLONG: "a name that is too long for a file",
}
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
_ENCRYPTED = 0x1  # flag bit; PKWARE's APPNOTE, 4.4.4
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ"}
_AGAIN = "zip again with deflate"
_OTHER_ARCHIVES = {  # endings
    "a RAR archive": (".rar",),
    "a 7-Zip archive": (".7z",),
    "a tar.gz archive": (".tgz", ".gz"),
    "a tar.bz2 archive": (".tbz2", ".bz2"),
    "a tar.xz archive": (".txz", ".xz"),
    "a tar.zst archive": (".tzst", ".zst"),
    "a tar archive": (".tar",),
}
_LINK_OUT = "a link that leads out of the folder; put the file itself there"
_ZIP_REMEDY = "give it by itself, or unzip it"
_ZIP_INSIDE = f"another zip; {_ZIP_REMEDY}"

Entries = Iterable[tuple[str, str | None]]  # raw name; None: a folder; text: why it is no member


class Source(contextlib.AbstractContextManager["Source"]):
    """An open archive of images, by default a folder; a context manager.

    `names` are its members in natural order, `ignored` the number of files passed over, by kind,
    `empty` the folders without members, `notes` sentences for the screen. With `lenient`, links
    out of a folder and zips inside are unreadable members; else they are refused.
    """

    def __init__(self, path: Path, entries: Entries, lenient: bool = False) -> None:
        self.path, self._state = path, _state(path)
        self.notes: list[str] = []
        self._faults: dict[str, str] = {}  # by safe name
        self._raw: dict[str, str] = {}  # raw name by safe name, where they differ
        self._numbers: Ints  # of the entries of the names, in the order of the names' hashes
        self.ignored = self._admit(entries, lenient)

    def read(self, name: str) -> bytes:
        """Return the bytes of a member, or raise `Unreadable`; thread safe."""
        if name in self._faults:
            raise Unreadable(self._faults[name])
        return self._read(name, self._number_of(name))

    def _number_of(self, name: str) -> int:
        at = int(np.searchsorted(self._hashes, hash(name)))
        if at == len(self._hashes) or self._hashes[at] != hash(name):
            raise KeyError(name)
        return int(self._numbers[at])

    def _read(self, name: str, number: int) -> bytes:
        return read_file(self.path / self._raw.get(name, name))

    def _admit(self, entries: Entries, lenient: bool) -> dict[str, int]:
        """Keep the members that may be images; return the number of the others, by kind."""
        path, ignored, tables = self.path, Counter[str](), list[str]()
        folders, numbers = set[str](), array("q")

        def admitted() -> Iterator[str]:
            for number, (raw, fault) in enumerate(entries):
                name = member_names.inside(path, raw)
                kind = member_names.passed_over(name)
                if kind is None:
                    member_names.require_readable(path, name, raw)
                folder = name if fault is None else name.rpartition("/")[0]
                if folder not in folders and member_names.passed_over(folder) is None:
                    folders.add(folder)
                if fault is None:
                    continue
                if kind is not None:
                    ignored[kind] += 1
                    tables.extend([name] if kind in member_names.TABLES else [])
                    continue
                if fault := _ZIP_INSIDE if name.lower().endswith(".zip") else fault:
                    self._faults[name] = fault
                if name != raw:
                    self._raw[name] = raw
                if fault and not lenient:
                    raise _inside(path, name, fault)
                numbers.append(number)
                yield name

        names = Texts(admitted())
        self._require_no_twins(names)
        hashed = hashes(names, len(names))
        order = np.argsort(hashed)
        self._hashes, self._numbers = hashed[order], np.frombuffer(numbers, np.int64)[order]
        self.names = naturally_sorted(names)
        counts = dict(sorted(ignored.items()))
        if not names:
            inside = ", ".join(f"{number} of {kind!r}" for kind, number in counts.items())
            raise UserError(
                f"{path}: expected images, got {inside or 'nothing'} inside; give an archive of "
                "images"
            )
        if tables:
            self.notes.append(
                f"{listed(tables, 3)} in {path}: not read, as names of files and folders give the "
                "labels"
            )
        self.empty = member_names.without_members(folders, names)
        return counts

    def _require_no_twins(self, names: Texts) -> None:
        lower = (name.lower() for name in names)
        twins = repeated(lower, (name.lower() for name in names), len(names))
        first: dict[str, str] = {}
        for name in names if twins else ():
            if name.lower() in first:
                raise UserError(
                    f"{self.path}: expected one member of each name, got {first[name.lower()]!r} "
                    f"and {name!r}, which are the same file on some machines; rename or remove one"
                )
            if name.lower() in twins:
                first[name.lower()] = name

    def require_unchanged(self) -> None:
        """Raise `UserError` if the archive has been replaced or written to since it was opened."""
        if not np.array_equal(_state(self.path), self._state):
            raise UserError(
                f"{self.path}: expected images that do not change while they are read, got "
                "different ones at the end; run again once they are all there"
            )

    def close(self) -> None:
        """Close the archive."""

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(path: Path, zip_encoding: str | None = None, lenient: bool = False) -> Source:
    """Open a zip or a folder; raise `UserError` if the archive as a whole cannot be trusted.

    `zip_encoding` is that of names in a zip which are not UTF-8.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, does not raise for a name that is too long
        return Source(path, _walk(path), lenient)
    if os.path.isfile(path):
        return _Zip(path, zip_encoding, lenient)
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


class _Infos:
    """What `zipfile` reads of the members, in columns; in place of its list and its mapping."""

    def __init__(self) -> None:
        self.header_offset, self.raw_hash = array("q"), array("q")
        self.compress_size, self.file_size, self.crc = array("Q"), array("Q"), array("I")
        self.flag_bits, self.compress_type = array("H"), array("H")
        self.names = member_names.InZip()

    def append(self, info: zipfile.ZipInfo) -> None:
        self.header_offset.append(info.header_offset)
        self.raw_hash.append(hash(member_names.raw_name(info)))
        self.compress_size.append(info.compress_size)
        self.file_size.append(info.file_size)
        self.crc.append(info.CRC)
        self.flag_bits.append(info.flag_bits)
        self.compress_type.append(info.compress_type)
        self.names.append(info)

    def __setitem__(self, name: str, info: zipfile.ZipInfo) -> None:
        """Ignore what `zipfile` would find by its name."""

    def __iter__(self) -> Iterator[zipfile.ZipInfo]:
        return iter(())

    def __len__(self) -> int:
        return len(self.crc)


class _Directory(zipfile.ZipFile):
    """Reads the directory of a zip; a kilobyte of memory a member less than its base."""

    filelist = NameToInfo = property(lambda self: self.infos, lambda self, value: None)

    def __init__(self, file: IO[bytes]) -> None:
        self.infos = _Infos()
        super().__init__(file)


class _Zip(Source):
    def __init__(self, path: Path, encoding: str | None, lenient: bool) -> None:
        infos = self._infos = _directory(path)
        names, notes = infos.names.decoded(path, encoding)
        super().__init__(path, _entries(names, infos), lenient)
        del infos.names
        self.notes += notes
        members = np.sort(self._numbers)
        if self._faults:
            faulty = [self._number_of(name) for name in self._faults]
            members = members[~np.isin(members, faulty)]
        encrypted = np.frombuffer(infos.flag_bits, np.uint16)[members] & _ENCRYPTED
        sizes = (np.frombuffer(one, np.uint64) for one in (infos.file_size, infos.compress_size))
        largest = np.maximum(*sizes)[members]
        for at in np.flatnonzero(encrypted | (largest > MAX_MEMBER_BYTES))[:1]:
            name = next(one for one in self.names if self._number_of(one) == members[at])
            if encrypted[at]:
                raise UserError(
                    f"{path}: expected members without a password, got {name!r} encrypted; "
                    "make the zip again without a password"
                )
            raise UserError(
                f"{path}: expected members of {MAX_MEMBER_BYTES // 1024**2} MiB at most, got "
                f"{name!r} of {largest[at]} bytes; leave it out of the zip"
            )
        packed = {*np.unique(np.frombuffer(infos.compress_type, np.uint16)[members]).tolist()}
        if packed and not packed & {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            methods = ", ".join(map(_method, sorted(packed)))
            raise UserError(
                f"{path}: expected members compressed by deflate, got {methods}; {_AGAIN}"
            )
        self._lock, self._file = threading.Lock(), path.open("rb")

    def close(self) -> None:
        self._file.close()

    def _read(self, name: str, number: int) -> bytes:
        infos, content = self._infos, self._packed(number)
        method, size = infos.compress_type[number], infos.file_size[number]
        # Only these two methods can stop at a size; ZipFile.read would inflate up to 2 GiB.
        if method == zipfile.ZIP_DEFLATED:
            try:  # one byte more than declared shows whether there is more
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
            except zlib.error as error:
                raise Unreadable("damaged compressed data") from error
        elif method != zipfile.ZIP_STORED:
            raise Unreadable(f"unsupported compression {_method(method)}; {_AGAIN}")
        if len(content) > size:
            raise Unreadable("expands beyond its declared size")
        if len(content) < size:
            raise Unreadable("ends before its declared size")
        if zlib.crc32(content) != infos.crc[number]:
            raise Unreadable("bad CRC")
        return content

    def _packed(self, number: int) -> bytes:
        try:
            with self._lock:
                self._file.seek(
                    max(0, self._infos.header_offset[number])
                )  # negative: its start was cut off
                header = self._file.read(_LOCAL_HEADER.size)
                if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
                    raise Unreadable("damaged member header")
                _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
                if hash(self._file.read(name_length)) != self._infos.raw_hash[number]:
                    raise Unreadable("two names for one member")
                self._file.seek(extra_length, os.SEEK_CUR)
                return self._file.read(self._infos.compress_size[number])
        except OSError as error:
            of_the_machine(error, self.path)  # adds the path to the error
            raise


def _method(number: int) -> str:
    return f"method {number} ({_METHODS.get(number, 'unknown')})"


def _inside(path: Path, name: str, fault: str) -> UserError:
    """Return the error for a fault of a member that stops all but a prediction."""
    if fault == _LINK_OUT:
        return UserError(
            f"{path}: expected files inside the folder, got the link {name!r} that leads "
            "out of it; replace it with the files themselves"
        )
    return UserError(f"{path}: expected images, got another zip inside, {name!r}; {_ZIP_REMEDY}")


def _directory(path: Path) -> _Infos:
    with path.open("rb") as file:
        try:
            if other := _other_archive(path, file.read(512)):
                raise UserError(
                    f"{path}: expected a zip file or a folder, got {other}; unpack it and give the "
                    "folder"
                )
            # Python 3.12 and later warn of an empty field "Unicode path".
            with warnings.catch_warnings(action="ignore"), _Directory(file) as archive:
                infos = archive.infos
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
    return infos


def _other_archive(path: Path, head: bytes) -> str | None:
    """Return which archive a file is by its first bytes, or by its name."""
    if head.startswith(b"PK"):
        return None
    by_name = (kind for kind, ends in _OTHER_ARCHIVES.items() if path.name.lower().endswith(ends))
    return archive_kind(head) or next(by_name, None)


def _entries(names: Iterable[str], infos: _Infos) -> Entries:
    for name, size in zip(names, infos.file_size, strict=True):
        yield name, None if name.endswith(("/", "\\")) and not size else ""


def _state(path: Path) -> Ints:
    """Return a hash of inode, size and modification time of each file that can be read."""
    state = array("q")
    # without what the system may write at any time
    files = _walk(path) if os.path.isdir(path) else [("", "")]
    for name, fault in files:
        if fault == "" and not member_names.passed_over(name):
            with contextlib.suppress(OSError):
                status = (path / name).stat()
                state.append(hash((name, status.st_ino, status.st_size, status.st_mtime_ns)))
    return np.sort(np.frombuffer(state, np.int64))


def _walk(root: Path, below: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield the files and folders below `root`; do not follow links to folders inside it."""
    with os.scandir(root / below) as entries:
        for entry in entries:
            name, is_link = below + entry.name, entry.is_symlink()
            if is_link and leads_out(entry.path, root):
                yield name, _LINK_OUT
            elif entry.is_dir(follow_symlinks=False):
                yield f"{name}/", None
                yield from _walk(root, f"{name}/")
            elif not (is_link and os.path.isdir(entry)):
                yield name, ""
