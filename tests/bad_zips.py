"""Zips that lie, hide, overlap, escape or break off: bytes of whole archives."""

import io
import struct
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Iterable

from bad_inputs import Bad

TOLD = (
    "In place of the zip of labelled images, `train.zip`. What is accepted is told by how many of "
    "the files found are used."
)
CENTRAL = b"PK\1\2"  # signature of an entry of the zip directory
LOCAL = b"PK\3\4"  # signature of a member's own header
END = b"PK\5\6"  # signature of what stands behind the directory

Members = dict[str, bytes]


def zipped(members: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of two members of one name
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def patched(archive: bytes, signature: bytes, offset: int, form: str, *values: int) -> bytes:
    """The archive with other values in the first header that has this signature."""
    changed = bytearray(archive)
    struct.pack_into(form, changed, archive.index(signature) + offset, *values)
    return bytes(changed)


def declaring(archive: bytes, size: int, crc: int | None = None) -> bytes:
    """The first member declared to expand to `size` bytes, in both headers."""
    for signature, offset in ((LOCAL, 14), (CENTRAL, 16)):
        if crc is not None:
            archive = patched(archive, signature, offset, "<I", crc)
        archive = patched(archive, signature, offset + 8, "<I", size)
    return archive


def with_first(name: str, members: Members, content: bytes | None = None) -> bytes:
    """The good archive behind one member more: a copy of a picture, or that content."""
    first = next(iter(members.values())) if content is None else content
    return zipped([(name, first), *members.items()])


def renamed(archive: bytes, old: bytes, new: bytes) -> bytes:
    """With another name of the same length in both headers."""
    assert archive.count(old) == 2
    return archive.replace(old, new)


def shared(members: Members) -> bytes:
    """The second member's entry in the directory points to the bytes of the first."""
    archive = zipped(members.items())
    second = archive.index(CENTRAL, archive.index(CENTRAL) + 1)
    return archive[:second] + patched(archive[second:], CENTRAL, 42, "<I", 0)


def linked(members: Members) -> bytes:
    """A symbolic link to a file outside, as `zip --symlinks` stores it: its target as content."""
    buffer = io.BytesIO(zipped(members.items()))
    with zipfile.ZipFile(buffer, "a") as archive:
        link = zipfile.ZipInfo("cat.2000.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def zip64(members: Members, size: int) -> bytes:
    """The first member's size stands in an extra field, as of files above 4 GiB (4.5.3)."""
    buffer = io.BytesIO()
    (name, content), *others = members.items()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        first = zipfile.ZipInfo(name)
        first.extra = struct.pack("<HHQ", 1, 8, size)
        archive.writestr(first, content, zipfile.ZIP_DEFLATED)
        for other, more in others:
            archive.writestr(zipfile.ZipInfo(other), more)
    return patched(buffer.getvalue(), CENTRAL, 24, "<I", 0xFFFFFFFF)


NO_ZIP = (
    "refused: train.zip: expected a zip file, got a file without a readable zip directory; "
    "download it again"
)
OUT = (
    "refused: train.zip: expected members inside the archive, got {!r}, which leads out of it; "
    "do not trust this archive, get it from its source again"
)
TWINS = (
    "refused: train.zip: expected one member of each name, got {!r} and {!r}, which are the same "
    "file on some machines; rename or remove one"
)
OVERLAP = (
    "refused: train.zip: expected members side by side, got {!r} and {!r} in the same bytes; "
    "do not trust this archive, get it from its source again"
)
ACUTE = "caf\u00e9.1.jpg"
ZEROS = bytes(2 * 1024**2)  # deflate packs them a thousandfold
FIRST = "cat.2000.jpg"

# Each is made from the good members; the directory of most begins with one more.
INPUTS = [
    Bad("no byte", "an empty file", lambda good: b"", NO_ZIP),
    Bad("no zip", "a text", lambda good: b"not a zip", NO_ZIP),
    Bad(
        "cut off",
        "a zip without its last 30 bytes",
        lambda good: zipped(good.items())[:-30],
        NO_ZIP,
    ),
    Bad("half", "half a download", lambda good: (z := zipped(good.items()))[: len(z) // 2], NO_ZIP),
    Bad(
        "directory cut",
        "a zip whose directory lacks its first 20 bytes",
        lambda good: (z := zipped(good.items()))[: (at := z.index(CENTRAL))] + z[at + 20 :],
        (
            "refused: train.zip: expected a zip file, got a file without a readable zip "
            "directory; download it again"
        ),
    ),
    Bad(
        "directory of other bytes",
        "a zip whose directory is overwritten",
        lambda good: zipped(good.items()).replace(CENTRAL, b"XXXX"),
        NO_ZIP,
    ),
    Bad(
        "several disks",
        "a zip that says it is one of several",
        lambda good: patched(zipped(good.items()), END, 4, "<HH", 1, 1),
        "accepted: 20 of 20 files",
    ),
    Bad(
        "fewer than there are",
        "a zip that says it holds one member",
        lambda good: patched(zipped(good.items()), END, 8, "<HH", 1, 1),
        "refused: train.zip: expected 1 members, as its directory declares, got "
        "20; download it again",
    ),
    Bad(
        "no member",
        "a zip of nothing",
        lambda good: zipped([]),
        "refused: train.zip: expected images, got nothing inside; give an archive of images",
    ),
    Bad(
        "no image",
        "a zip of one text",
        lambda good: zipped([("readme.txt", b"hello")]),
        (
            "refused: train.zip: expected labels in file names ('cat.0.jpg') or one folder per "
            "class ('cats/1.jpg'), got 'readme.txt'; rename or rearrange the images"
        ),
    ),
    Bad(
        "one class",
        "a zip of cats alone",
        lambda good: zipped((n, c) for n, c in good.items() if n.startswith("cat")),
        "refused: train.zip: expected two classes or more, got only 'cat'; add the images of "
        "another class",
    ),
    Bad(
        "hidden files alone",
        "a zip of what systems leave behind",
        lambda good: zipped([("__MACOSX/._a.jpg", b""), (".DS_Store", b""), ("a/Thumbs.db", b"")]),
        "refused: train.zip: expected images, got 1 of '.DS_Store', 1 of 'Thumbs.db', 1 of "
        "'__MACOSX' inside; give an archive of images",
    ),
    Bad(
        "hidden files",
        "a zip with hidden files beside the images",
        lambda good: zipped([*good.items(), ("__MACOSX/._cat.1.jpg", b"x"), (".cat.jpg", b"x")]),
        "accepted: 20 of 20 files, 1 of '__MACOSX' passed over, 1 of 'hidden' passed over",
    ),
    Bad(
        "comment",
        "a zip with a comment of 60,000 bytes",
        lambda good: patched(zipped(good.items()), END, 20, "<H", 60_000) + bytes(60_000),
        "accepted: 20 of 20 files",
    ),
    Bad(
        "bytes behind",
        "a zip with 100 bytes behind its end, as of a bad download",
        lambda good: zipped(good.items()) + bytes(100),
        "accepted: 20 of 20 files",
    ),
    Bad(
        "bytes before",
        "a zip behind a script, as of self-extracting ones",
        lambda good: b"#!/bin/sh\n" + zipped(good.items()),
        "accepted: 20 of 20 files",
    ),
    Bad(
        "parent folder",
        "a member of the folder above",
        lambda good: with_first("../cat.1.jpg", good),
        OUT.format("../cat.1.jpg"),
    ),
    Bad(
        "parent folder inside",
        "a member whose way leads up further than down",
        lambda good: with_first("a/../../cat.1.jpg", good),
        OUT.format("a/../../cat.1.jpg"),
    ),
    Bad(
        "backslashes",
        "a member of a folder above, as Windows writes it",
        lambda good: with_first("a\\..\\..\\cat.1.jpg", good),
        OUT.format("a\\..\\..\\cat.1.jpg"),
    ),
    Bad(
        "absolute path",
        "a member with an absolute path",
        lambda good: with_first("/etc/cat.1.jpg", good),
        OUT.format("/etc/cat.1.jpg"),
    ),
    Bad(
        "drive",
        "a member on a drive",
        lambda good: with_first("C:\\cat.1.jpg", good),
        OUT.format("C:\\cat.1.jpg"),
    ),
    Bad(
        "line break",
        "a member with a line break in its name",
        lambda good: with_first("cat\n.1.jpg", good),
        "refused: train.zip: expected names of readable characters, got 'cat\\n.1.jpg'; rename "
        "that member",
    ),
    Bad(
        "NUL",
        "a member with a NUL byte in its name",
        lambda good: renamed(with_first("cat.200X.jpg", good), b"cat.200X.jpg", b"cat.200\0.jpg"),
        "refused: train.zip: expected names of readable characters, got 'cat.200\\x00.jpg'; "
        "rename that member",
    ),
    Bad(
        "name that is no UTF-8",
        "a member whose name says it is UTF-8 and is not",
        lambda good: renamed(with_first("cat.\u00e9.1.jpg", good), "\u00e9".encode(), b"\xff\xfe"),
        (
            "refused: train.zip: expected a zip file, got a file without a readable zip "
            "directory; download it again"
        ),
    ),
    Bad(
        "name of bytes",
        "a member whose name is in an unknown encoding",
        lambda good: renamed(
            with_first("cat.2000.XXg", good), b"cat.2000.XXg", b"cat.2000.\xe4\xffg"
        ),
        "accepted: 21 of 21 files",
    ),
    Bad(
        "long name",
        "a member with a name of 60,000 letters",
        lambda good: with_first("a" * 60_000 + ".jpg", good),
        "accepted: 20 of 21 files",
    ),
    Bad(
        "no name",
        "a member with an empty name",
        lambda good: with_first("", good),
        (
            "refused: train.zip: expected members inside the archive, got '', which leads "
            "out of it; do not trust this archive, get it from its source again"
        ),
    ),
    Bad(
        "twins",
        "two members of one name",
        lambda good: zipped([*good.items(), *good.items()]),
        TWINS.format("cat.0.jpg", "cat.0.jpg"),
    ),
    Bad(
        "twins but for case",
        "two members whose names differ in case alone",
        lambda good: zipped([*good.items(), ("CAT.0.jpg", b"")]),
        TWINS.format("cat.0.jpg", "CAT.0.jpg"),
    ),
    Bad(
        "twins in Unicode",
        "two members whose names differ in how an accent is written",
        lambda good: zipped(
            [*good.items(), (ACUTE, b""), (unicodedata.normalize("NFD", ACUTE), b"")]
        ),
        TWINS.format(ACUTE, ACUTE),
    ),
    Bad(
        "zip in a zip",
        "a zip that holds another one",
        lambda good: zipped([("train.zip", zipped(good.items()))]),
        "refused: train.zip: expected images, got another zip inside, 'train.zip'; unzip the outer "
        "one first and give the inner zip itself",
    ),
    Bad(
        "encrypted",
        "a member with a password",
        lambda good: patched(with_first(FIRST, good), CENTRAL, 8, "<H", 1),
        f"refused: train.zip: expected members without a password, got {FIRST!r} encrypted; make "
        "the zip again without a password",
    ),
    Bad(
        "bomb",
        "a member of zeros, packed a thousandfold",
        lambda good: with_first(FIRST, good, ZEROS),
        f"refused: train.zip: expected images, which a zip packs 200-fold at most, got {FIRST!r} "
        f"with 2097152 bytes in {len(zlib.compress(ZEROS)) - 6}; leave it out of the zip",
    ),
    Bad(
        "bomb that says it is none",
        "a member that expands beyond its declared size",
        lambda good: declaring(with_first(FIRST, good, ZEROS), 1000),
        "rejected: expands beyond its declared size",
        FIRST,
    ),
    Bad(
        "large member",
        "a member that declares 128 MiB and a byte",
        lambda good: declaring(with_first(FIRST, good), 128 * 1024**2 + 1),
        f"refused: train.zip: expected members of 128 MiB at most, got {FIRST!r} of 134217729 "
        "bytes; leave it out of the zip",
    ),
    Bad(
        "Zip64 that lies",
        "a member whose extra field declares 2 ** 62 bytes",
        lambda good: zip64(good, 2**62),
        (
            "refused: train.zip: expected members of 128 MiB at most, got 'cat.0.jpg' of "
            "4611686018427387904 bytes; leave it out of the zip"
        ),
    ),
    Bad(
        "Zip64 cut",
        "a member whose extra field ends too early",
        lambda good: zip64(good, 5).replace(struct.pack("<HH", 1, 8), struct.pack("<HH", 1, 4)),
        (
            "refused: train.zip: expected a zip file, got a file without a readable zip "
            "directory; download it again"
        ),
    ),
    Bad(
        "overlap",
        "two members in the same bytes",
        lambda good: patched(with_first(FIRST, good), CENTRAL, 20, "<I", 50_000),
        (
            "refused: train.zip: expected members side by side, got 'cat.2000.jpg' and "
            "'cat.0.jpg' in the same bytes; do not trust this archive, get it from its "
            "source again"
        ),
    ),
    Bad(
        "one member twice",
        "two names for the same bytes",
        shared,
        (
            "refused: train.zip: expected members side by side, got 'cat.0.jpg' and "
            "'cat.1.jpg' in the same bytes; do not trust this archive, get it from its "
            "source again"
        ),
    ),
    Bad(
        "wrong CRC",
        "a member with another checksum",
        lambda good: patched(with_first(FIRST, good), CENTRAL, 16, "<I", 0),
        "rejected: bad CRC",
        FIRST,
    ),
    Bad(
        "damaged data",
        "a member with other bytes at its start",
        lambda good: patched(with_first(FIRST, good), LOCAL, 30 + len(FIRST), "<I", 0xFFFFFFFF),
        "rejected: damaged compressed data",
        FIRST,
    ),
    Bad(
        "damaged header",
        "a member without the sign of its header",
        lambda good: patched(with_first(FIRST, good), LOCAL, 0, "<I", 0),
        "rejected: damaged member header",
        FIRST,
    ),
    Bad(
        "two names",
        "a member with another name in its own header",
        lambda good: patched(with_first(FIRST, good), LOCAL, 30, "<I", 0x41414141),
        "rejected: two names for one member",
        FIRST,
    ),
    Bad(
        "short member",
        "a member that ends before its declared size",
        lambda good: declaring(with_first(FIRST, good, b"one"), 9),
        "rejected: ends before its declared size",
        FIRST,
    ),
    Bad(
        "bzip2",
        "a member packed by bzip2",
        lambda good: patched(with_first(FIRST, good), CENTRAL, 10, "<H", 12),
        "rejected: unsupported compression method 12",
        FIRST,
    ),
    Bad(
        "unknown compression",
        "a member packed by a method that there is not",
        lambda good: patched(with_first(FIRST, good), CENTRAL, 10, "<H", 77),
        "rejected: unsupported compression method 77",
        FIRST,
    ),
    Bad(
        "symbolic link",
        "a member that is a link to a file outside; it is not followed",
        linked,
        "rejected: not an image of a known format (JPEG, PNG, WEBP, BMP, GIF, TIFF)",
        FIRST,
    ),
    Bad(
        "folder with content",
        "a member that is named like a folder and holds a picture",
        lambda good: with_first("more/", good),
        "rejected: no label: it lies outside the folders of the classes",
        "more",
    ),
    Bad(
        "text among images",
        "a text beside the images",
        lambda good: zipped([*good.items(), ("readme.txt", b"hello")]),
        "rejected: no label: it lies outside the folders of the classes",
        "readme.txt",
    ),
]
