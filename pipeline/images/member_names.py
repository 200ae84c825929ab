"""Names of files in an archive: in Unicode form NFC, with '/', and which are no image.

Pure. The names of a zip are decoded as `unzip` does.
"""

import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.images.labels import listed
from pipeline.runtime.errors import UserError
from pipeline.storage.tables import unexpected
from pipeline.storage.texts import Collected

TABLES = (".csv", ".tsv")
_UTF8_NAME = 0x800  # flag bit; PKWARE's APPNOTE, 4.4.4
_UNICODE_PATH = 0x7075  # id of an extra field; APPNOTE, 4.6.9
_FOLDERS = {
    "__macosx": "__MACOSX",
    "@eadir": "@eaDir",  # Synology's
    "$recycle.bin": "$RECYCLE.BIN",
    "system volume information": "System Volume Information",
    "lost+found": "lost+found",
}
_FILES = {
    "thumbs.db": "Thumbs.db",
    ".ds_store": ".DS_Store",
    "desktop.ini": "hidden",
    "icon\r": "Icon",  # Finder's
}
_TEXTS = frozenset(
    f"{' '.join(TABLES)} .txt .md .rst .rtf .tex .log .json .jsonl .ndjson .geojson .xml .xsd "
    ".html .htm .css .js .yaml .yml .toml .ini .cfg .conf .pdf .doc .docx .odt .xls .xlsx .ods "
    ".ppt .pptx .db .sqlite .sqlite3 .parquet .feather .arrow .npy .npz .mat .h5 .hdf5 .pkl "
    ".pickle .lst .names .py .ipynb .sh .bat .m .r .url .webloc .lnk .md5 .sha1 .sha256".split()
)


class InZip:
    """The names of a zip's members, collected before they are decoded.

    A name is UTF-8 by its flag, or stands in the extra field "Unicode path". All others are UTF-8
    if all of them can be, as on a Mac; else they are in an encoding that is given, or in cp437.
    """

    def __init__(self) -> None:
        self._declared = Collected()
        self._unclear: dict[int, bytes] = {}  # raw names, by number

    def append(self, info: zipfile.ZipInfo) -> None:
        """Add the name of the next member."""
        raw = raw_name(info)
        name = _declared(info, raw)
        if name is None:
            self._unclear[len(self._declared)] = raw
        self._declared.append(name or "")

    def decoded(self, path: Path, encoding: str | None) -> tuple[Iterator[str], list[str]]:
        """Return the names, and a warning if some are a guess."""
        used = "utf-8" if all(map(_is_utf8, self._unclear.values())) else encoding or "cp437"
        unclear: dict[int, str] = {}
        pieces: dict[str, bytes] = {}
        for number, raw in self._unclear.items():
            try:
                unclear[number] = name = raw.decode(used)
            except UnicodeDecodeError:
                raise UserError(
                    f"{path}: expected names in {used} (data.zip_encoding), got {raw!r}; give the "
                    "encoding in which this zip was made"
                ) from None
            for text, piece in zip(name.split("/"), raw.split(b"/"), strict=False):
                if pieces.setdefault(text, piece) != piece:  # cp932 has some characters twice
                    raise UserError(
                        f"{path}: expected names that differ in {used}, got {pieces[text]!r} and "
                        f"{piece!r}, both {text!r}; correct data.zip_encoding or rename one"
                    )
        names = (unclear.get(at, name) for at, name in enumerate(self._declared.texts()))
        warnings = [
            f"warning: {path}: {len(unclear):,} of {len(self._declared):,} names are not in UTF-8, "
            f"read as cp437: {listed(unclear.values(), 3)}; if they look wrong, set "
            "data.zip_encoding, such as gbk, cp932 or cp1251"
        ]
        return names, warnings if used == "cp437" != encoding else []


def raw_name(info: zipfile.ZipInfo) -> bytes:
    """Return the bytes of a name in the directory of a zip, as `zipfile` decoded them."""
    return info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_NAME else "cp437")


def _declared(info: zipfile.ZipInfo, raw: bytes) -> str | None:
    """Return the name if the zip says how it is encoded."""
    if info.flag_bits & _UTF8_NAME or raw.isascii():
        return info.orig_filename
    extra, known = info.extra, struct.pack("<BL", 1, zlib.crc32(raw))  # version, and this name
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field.startswith(known) and _is_utf8(field[5:]):
            return field[5:].decode("utf-8") or None
    return None


def _is_utf8(raw: bytes) -> bool:
    try:
        return raw.decode("utf-8") is not None
    except UnicodeDecodeError:
        return False


def inside(path: Path, raw: str) -> str:
    """Return the name with '/' only and in NFC; refuse one that leads out of the archive."""
    name = unicodedata.normalize("NFC", raw.replace("\\", "/"))
    parts = name.split("/")
    if ".." in parts or not parts[0] or re.match("[A-Za-z]:", name):
        raise UserError(
            f"{path}: expected members inside the archive, got {raw!r}, which leads out of it; "
            "do not trust this archive, get it from its source again"
        )
    return "/".join(part for part in parts if part not in ("", "."))


def require_readable(path: Path, name: str, raw: str) -> None:
    """Raise `UserError` for control characters, and bytes that are no text."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise unexpected(path, "names of readable characters", raw, "rename that member")


def passed_over(name: str) -> str | None:
    """Return the kind of a file that is no image by its name; None: it may be one."""
    *folders, file = name.split("/")
    lower = file.lower()
    for folder in (*folders, file):
        if kind := _FOLDERS.get(folder.lower()):
            return kind
    if file.startswith("._"):
        return "._*"
    if kind := _FILES.get(lower):
        return kind
    if any(part.startswith(".") for part in (*folders, file)):
        return "hidden"
    ending = lower[lower.rfind(".") :]
    return ending if ending in _TEXTS else None


def without_members(folders: Iterable[str], members: Iterable[str]) -> list[str]:
    """Return the folders without a member below, without those inside another one."""
    held = {""}
    for name in members:
        while (name := name.rpartition("/")[0]) not in held:
            held.add(name)
    empty = set()
    for folder in folders:
        while folder not in held and (above := folder.rpartition("/")[0]) not in held:
            folder = above
        empty |= {folder} - held
    return sorted(empty)
