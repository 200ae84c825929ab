"""Zip archives that are damaged, hostile or odd."""

import gzip
import io
import struct
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterable

from bad_inputs import table

INTRO = "In place of `train.zip`, the labelled images."
CENTRAL = b"PK\1\2"  # signature of an entry of the zip directory
LOCAL = b"PK\3\4"  # signature of a member's own header
END = b"PK\5\6"  # signature of the end of the directory

Members = dict[str, bytes]
Make = Callable[[Members], bytes]


def zipped(members: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two members of one name
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def patched(archive: bytes, signature: bytes, offset: int, form: str, *values: int) -> bytes:
    """Change values in the first header with this signature."""
    changed = bytearray(archive)
    struct.pack_into(form, changed, archive.index(signature) + offset, *values)
    return bytes(changed)


def declaring(archive: bytes, size: int, checksum: int | None = None) -> bytes:
    """Change the declared size, and checksum, of the first member, in both headers."""
    for signature, offset in ((LOCAL, 14), (CENTRAL, 16)):
        archive = patched(archive, signature, offset + 8, "<I", size)
        if checksum is not None:
            archive = patched(archive, signature, offset, "<I", checksum)
    return archive


def with_first(name: str, members: Members, content: bytes | None = None) -> bytes:
    """Put one more member first: a copy of an image, or that content."""
    first = next(iter(members.values())) if content is None else content
    return zipped([(name, first), *members.items()])


def first(name: str, content: bytes | None = None) -> Make:
    return lambda good: with_first(name, good, content)


def first_patched(signature: bytes, offset: int, form: str, value: int) -> Make:
    return lambda good: patched(with_first(FIRST, good), signature, offset, form, value)


def first_renamed(old: str, new: bytes) -> Make:
    """Change the first name in both headers to another one of the same length."""
    return lambda good: with_first(old, good).replace(old.encode(), new)


def plus(*others: tuple[str, bytes]) -> Make:
    return lambda good: zipped([*good.items(), *others])


def whole(change: Callable[[bytes], bytes]) -> Make:
    return lambda good: change(zipped(good.items()))


def linked(members: Members) -> bytes:
    """Append a symbolic link, as `zip --symlinks` stores it: its target as content."""
    buffer = io.BytesIO(zipped(members.items()))
    with zipfile.ZipFile(buffer, "a") as archive:
        link = zipfile.ZipInfo("cat.2000.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


ACUTE = "caf\u00e9.1.jpg"
ZEROS = bytes(2 * 1024**2)  # deflate packs them a thousandfold
FIRST = "cat.2000.jpg"
LEFT_BEHIND = [("__MACOSX/._a.jpg", b""), (".DS_Store", b""), ("a/Thumbs.db", b"")]

# Most are made from the good members; the directory of most begins with one more.
INPUTS = table(
    {
        "refused: train.zip: expected a zip file, got a file without a readable zip directory; "
        "download it again": {
            "an empty file": b"",
            "a text": b"not a zip",
            "a zip without its last 30 bytes": whole(lambda archive: archive[:-30]),
            "half a download": whole(lambda archive: archive[: len(archive) // 2]),
        },
        "refused: train.zip: ... got 20; download it again": {
            "a directory that declares one member": whole(
                lambda archive: patched(archive, END, 8, "<HH", 1, 1)
            )
        },
        "refused: train.zip: expected images, got nothing inside; give an archive of images": {
            "no member": zipped([])
        },
        "refused: train.zip: expected images, got 1 of '.DS_Store', 1 of 'Thumbs.db', 1 of "
        "'__MACOSX' inside; give an archive of images": {
            "only files that operating systems leave behind": zipped(LEFT_BEHIND)
        },
        "refused: train.zip: expected images, got another zip inside, 'train.zip'; give it by "
        "itself, or unzip it": {
            "a zip in a zip": lambda good: zipped([("train.zip", zipped(good.items()))])
        },
        "refused: train.zip: expected images, got 1 of '.txt' inside; give an archive of images": {
            "only a text": zipped([("readme.txt", b"hello")])
        },
        "refused: train.zip: expected a zip file or a folder, got ... archive; unpack it and give "
        "the folder": {
            "a tar archive named .zip": bytes(257) + b"ustar\x0000",
            "a tar archive compressed by gzip": gzip.compress(b"a tar archive", mtime=0),
            "a 7-Zip archive": b"7z\xbc\xaf\x27\x1c\0\4",
            "a RAR archive": b"Rar!\x1a\7\1\0",
        },
        "refused: train.zip: expected members compressed by deflate, got method 14 (LZMA); zip "
        "again with deflate": {
            "all members compressed by LZMA": lambda good: zipped(good.items(), zipfile.ZIP_LZMA)
        },
        "refused: train.zip: expected class names with letters or digits, got '??', ... rename "
        "that folder": {
            "a class in letters that the zip could not store": lambda good: zipped(
                (f"{'??' if name[:3] == 'cat' else 'dogs'}/{name}", content)
                for name, content in good.items()
            )
        },
        "refused: train.zip: expected two classes or more, got only 'cat'; add the images of "
        "another class": {
            "one class": lambda good: zipped((n, c) for n, c in good.items() if n[:3] == "cat")
        },
        "refused: train.zip: expected members inside the archive, got ... which leads out of it; "
        "do not trust this archive, get it from its source again": {
            "a member in a folder above": first("../cat.1.jpg"),
            "a member in a folder above, with backslashes": first("a\\..\\..\\cat.1.jpg"),
            "a member with an absolute path": first("/etc/cat.1.jpg"),
            "a member on a drive": first("C:\\cat.1.jpg"),
        },
        "refused: train.zip: expected names of readable characters, got ... rename that member": {
            "a line break in a name": first("cat\n.1.jpg"),
            "a NUL byte in a name": first_renamed("cat.200X.jpg", b"cat.200\0.jpg"),
        },
        "refused: train.zip: expected one member of each name, got ... which are the same file on "
        "some machines; rename or remove one": {
            "two members of one name": lambda good: zipped([*good.items(), *good.items()]),
            "names that differ only in case": plus(("CAT.0.jpg", b"")),
            "names that differ only in the encoding of an accent": plus(
                (ACUTE, b""), (unicodedata.normalize("NFD", ACUTE), b"")
            ),
        },
        f"refused: train.zip: expected members without a password, got {FIRST!r} encrypted; make "
        "the zip again without a password": {
            "an encrypted member": first_patched(CENTRAL, 8, "<H", 1)
        },
        "refused: train.zip: expected members of 128 MiB at most, got ... leave it out of the "
        "zip": {
            "a member that declares 128 MiB and a byte": lambda good: declaring(
                with_first(FIRST, good), 128 * 1024**2 + 1
            )
        },
        "rejected: expands beyond its declared size": {
            "a bomb that declares a small size": lambda good: declaring(
                with_first(FIRST, good, ZEROS), 1000
            )
        },
        "rejected: bad CRC": {"another checksum": first_patched(CENTRAL, 16, "<I", 0)},
        "rejected: damaged compressed data": {
            "other bytes at the start of a member": first_patched(
                LOCAL, 30 + len(FIRST), "<I", 0xFFFFFFFF
            )
        },
        "rejected: damaged member header": {
            "a member header without its signature": first_patched(LOCAL, 0, "<I", 0)
        },
        "rejected: two names for one member": {
            "another name in the member header": first_patched(LOCAL, 30, "<I", 0x41414141),
        },
        "rejected: ends before its declared size": {
            "a member that is shorter than declared": lambda good: declaring(
                with_first(FIRST, good, b"one"), 9
            )
        },
        "rejected: unsupported compression method 12 (bzip2); zip again with deflate": {
            "a member packed by bzip2": first_patched(CENTRAL, 10, "<H", 12)
        },
        "rejected: not an image of a known format ... ": {
            "2 MiB of zeros, packed a thousandfold": first(FIRST, ZEROS),
            "a symbolic link to a file outside; it is not followed": linked,
        },
        "accepted: 20 of 20 files, 1 of '.csv', 1 of '.txt' ignored": {
            "a text and a table beside the images": plus(("readme.txt", b"hello"), ("a.csv", b"1"))
        },
        "accepted: 20 of 20 files": {
            "100 bytes behind the end": whole(lambda archive: archive + bytes(100)),
            "a script before the zip": whole(lambda archive: b"#!/bin/sh\n" + archive),
        },
        "accepted: 20 of 20 files, 1 of '__MACOSX', 1 of 'hidden' ignored": {
            "hidden files beside the images": plus(
                ("__MACOSX/._cat.1.jpg", b"x"), (".cat.jpg", b"x")
            )
        },
        "accepted: 21 of 21 files": {
            "a name that is not UTF-8, which is read as cp437, with a warning": first_renamed(
                "cat.2000.XXg", b"cat.2000.\xe4\xffg"
            )
        },
    }
)
