"""Archives good and odd; `tests/robustness/inputs/bad_zips.py` has more faults of zips."""

import bz2
import gzip
import io
import os
import re
import struct
import unicodedata
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bad_zips import CENTRAL, declaring, patched, zipped
from dvc_cache import linked

from pipeline.images import sources
from pipeline.images.decode import Unreadable
from pipeline.images.sources import open_source
from pipeline.runtime.errors import UserError

ZIP, FOLDER = Path("train.zip"), Path("folder")


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_folder(members: list[tuple[str, bytes]]) -> None:
    for name, content in members:
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_bytes(content)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("prefix", [b"", b"#!/bin/sh\n"])
def test_a_folder_and_a_zip_in_any_order_give_the_same(compression: int, prefix: bytes) -> None:
    expected = [("cats/2.jpg", b"two" * 1000), ("cats/10.jpg", b""), ("dogs/caf\u00e9.jpg", b"x")]
    write_folder(expected)
    ZIP.write_bytes(prefix + zipped(expected[::-1], compression))
    for path in (ZIP, FOLDER):
        with open_source(path) as opened:
            assert (opened.path, opened.ignored) == (path, {})
            assert [(name, opened.read(name)) for name in opened.names] == expected


def test_threads_can_share_a_zip() -> None:
    members = [(f"{number}.jpg", bytes([number]) * 5000) for number in range(50)]
    ZIP.write_bytes(zipped(members))
    with open_source(ZIP) as opened, ThreadPoolExecutor(8) as threads:
        names = [*opened.names] * 20
        assert list(threads.map(opened.read, names)) == [content for _, content in members] * 20


@pytest.mark.parametrize("path", [ZIP, FOLDER])
def test_files_of_operating_systems_are_ignored_and_counted(path: Path) -> None:
    names = [
        *("cats/1.jpg", "cats/1.webp", "__MACOSX/cats/._1.jpg", "__MACOSX/.DS_Store"),
        *("cats/._2.jpg", "Thumbs.db", "cats/thumbs.db", ".DS_Store", ".git/config"),
        *(".hidden.jpg", "desktop.ini", "cats/@eaDir/1.jpg", "cats/Icon\r", ".AppleDouble/1.jpg"),
        *("$RECYCLE.BIN/1.jpg", "System Volume Information/a", "lost+found/1.jpg"),
        *("cats/.ipynb_checkpoints/1.jpg", "notes.txt", "cats/README.MD", "cats/x.db"),
    ]
    members = [(name, b"x") for name in names]
    write_folder(members)
    ZIP.write_bytes(zipped([("cats/", b""), *members]))
    counts = {".DS_Store": 1, "._*": 1, "Thumbs.db": 2, "__MACOSX": 2, "hidden": 5, "@eaDir": 1}
    counts |= {"Icon": 1, "$RECYCLE.BIN": 1, "System Volume Information": 1, "lost+found": 1}
    counts |= {".txt": 1, ".md": 1, ".db": 1}
    with open_source(path) as opened:
        assert ([*opened.names], opened.ignored) == (["cats/1.jpg", "cats/1.webp"], counts)
        assert (opened.notes, opened.empty) == ([], [])


@pytest.mark.parametrize("path", [ZIP, FOLDER])
def test_tables_and_folders_without_images_are_mentioned(path: Path) -> None:
    names = ["a/cats/1.jpg", "a/labels.csv", "a/dogs/1.txt", "train.tsv", "a/cats/data.json"]
    write_folder([(name, b"x") for name in names])
    Path("folder/a/birds/old/er").mkdir(parents=True)
    Path("folder/.git/objects").mkdir(parents=True)
    empty = [("a/birds/old/er/", b""), (".git/objects/", b"")]
    ZIP.write_bytes(zipped([*empty, *((name, b"x") for name in names)]))
    with open_source(path) as opened:
        assert opened.empty == ["a/birds", "a/dogs"]
        assert opened.notes == [
            f"'a/labels.csv', 'train.tsv' in {path}: not read, as names of files and folders give "
            "the labels"
        ]


def test_names_written_on_windows_or_a_mac_become_the_same_names() -> None:
    names = ["cats\\", "cats\\1.jpg", "./cats//cafe\u0301.jpg"]
    ZIP.write_bytes(zipped([(name, b"") for name in names]))
    with open_source(ZIP) as opened:
        assert opened.names == ["cats/1.jpg", "cats/caf\u00e9.jpg"]


def named(*names: bytes, extra: bytes = b"") -> bytes:
    """Return a zip of files with these raw names, without the flag for UTF-8."""
    infos = [zipfile.ZipInfo(f"{at}".rjust(len(name), "=")) for at, name in enumerate(names)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for info in infos:
            info.extra = extra
            archive.writestr(info, b"one")
    content = buffer.getvalue()
    for info, name in zip(infos, names, strict=True):
        content = content.replace(info.filename.encode(), name)
    return content


def unicode_path(name: str, raw: bytes, version: int = 1) -> bytes:
    field = struct.pack("<BL", version, zlib.crc32(raw)) + name.encode("utf-8", "surrogateescape")
    return struct.pack("<HHB", 0x5455, 1, 0) + struct.pack("<HH", 0x7075, len(field)) + field


CAT, NAME = (
    "\u732b/\u8868.jpg",
    "caf\u00e9/1.jpg",
)  # the second byte of \u8868 in cp932 is a backslash
GBK, SJIS, OEM = CAT.encode("gbk"), CAT.encode("cp932"), NAME.encode("cp437")
GUESSED = "warning: train.zip: 1 of 1 names are not in UTF-8, read as cp437: {!r}; if they look"
ENCODED: dict[str, tuple[bytes, str | None, list[str], str | None]] = {
    "flagged as UTF-8": (zipped([(CAT, b"one")]), "cp1251", [CAT], None),
    "a Unicode path": (named(OEM, extra=unicode_path(CAT, OEM)), "cp1251", [CAT], None),
    "the Unicode path of another name": (
        *(named(OEM, extra=unicode_path(CAT, b"another")), "cp437", [NAME], None),
    ),
    "a Unicode path of version 2": (
        *(named(OEM, extra=unicode_path(CAT, OEM, version=2)), "cp437", [NAME], None),
    ),
    "an empty Unicode path": (named(OEM, extra=unicode_path("", OEM)), "cp437", [NAME], None),
    "UTF-8 without the flag, in NFD, as on a Mac": (
        *(named(unicodedata.normalize("NFD", NAME).encode()), "cp1251", [NAME], None),
    ),
    "gbk": (named(GBK, b"dogs/1.jpg"), "gbk", ["dogs/1.jpg", CAT], None),
    "cp932, a backslash in a letter": (named(SJIS), "cp932", [CAT], None),
    "cp1251": (
        named("\u043a\u043e\u0442.1.jpg".encode("cp1251")),
        "cp1251",
        ["\u043a\u043e\u0442.1.jpg"],
        None,
    ),
    "UTF-8 and other names": (
        *(
            named(NAME.encode("cp1252"), NAME.encode()),
            "cp1252",
            [NAME, "caf\u00c3\u00a9/1.jpg"],
            None,
        ),
    ),
    "cp437, a guess": (named(OEM), None, [NAME], NAME),
    "gbk taken for cp437": (named(GBK), None, [GBK.decode("cp437")], GBK.decode("cp437")),
}


@pytest.mark.parametrize("case", ENCODED)
def test_names_in_a_zip_are_decoded_as_unzip_does(case: str) -> None:
    content, encoding, names, guessed = ENCODED[case]
    ZIP.write_bytes(content)
    with open_source(ZIP, encoding) as opened:
        assert sorted(opened.names) == sorted(names)
        assert [opened.read(name) for name in opened.names] == [b"one"] * len(names)
        start = [] if guessed is None else [GUESSED.format(guessed)]
        assert [note[: len(GUESSED.format(guessed))] for note in opened.notes] == start


@pytest.mark.parametrize(
    ("content", "encoding", "got"),
    [
        (named(GBK), "cp932", "b'\\xc3\\xa8/\\xb1\\xed.jpg'; give the encoding in which this zip"),
        (
            named(b"\x81\xca/1.jpg", b"\xee\xf9/1.jpg"),
            "cp932",
            "b'\\x81\\xca' and b'\\xee\\xf9', both",
        ),
        (named(b"cats/../\xff", extra=unicode_path("../a", b"x")), None, r"'cats/../\xa0', which"),
        (
            named(OEM, extra=unicode_path("../a.jpg", OEM)),
            None,
            "'../a.jpg', which leads out of it",
        ),
    ],
)
def test_names_that_an_encoding_cannot_tell_are_refused(
    content: bytes, encoding: str | None, got: str
) -> None:
    ZIP.write_bytes(content)
    with pytest.raises(UserError, match=rf"^train\.zip: expected .*, got {re.escape(got)}"):
        open_source(ZIP, encoding)


ONE = zipped([("a.jpg", b"one")])
TWO = zipped([("a.jpg", b"1"), ("b.jpg", b"2")])


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (None, "nothing at that path; put the images there or correct the path"),
        (zipped([("../../", b"")]), "'../../', which leads out of it; do not trust this archive"),
        (b"Rar!\x1a\7", "a RAR archive; unpack it and give the folder"),
        (b"7z\xbc\xaf\x27\x1c\0", "a 7-Zip archive; unpack it"),
        (gzip.compress(b"tar", mtime=0), "a tar.gz archive; unpack it"),
        (bz2.compress(b"tar"), "a tar.bz2 archive; unpack it"),
        (bytes(257) + b"ustar" + zipped([("a.jpg", b"1")]), "a tar archive; unpack it"),
        (
            zipped([("a.jpg", b"1"), ("b.jpg", b"2")], 14),
            "method 14 (LZMA); zip again with deflate",
        ),
    ],
)
def test_a_fault_of_the_archive_is_an_error_at_opening(content: bytes | None, got: str) -> None:
    if content is not None:
        ZIP.write_bytes(content)
    with pytest.raises(UserError, match=rf"^train\.zip: expected .*, got {re.escape(got)}"):
        open_source(ZIP)


LONG = zipped([("a.jpg", bytes(100_000))])
NOISE = bytes(range(256)) * 4
FLIPPED = bytearray(zipped([("a.jpg", NOISE)], zipfile.ZIP_STORED))
FLIPPED[500] ^= 1
FAULTS = {
    "flipped bit": (bytes(FLIPPED), "bad CRC"),
    "bomb with the CRC of its start": (
        patched(declaring(LONG, 1000), CENTRAL, 16, "<I", zlib.crc32(bytes(1000))),
        "expands beyond its declared size",
    ),
    "bomb of no size": (declaring(LONG, 0), "expands beyond its declared size"),
    "stored": (declaring(zipped([("a.jpg", NOISE)], 0), 9), "expands beyond its declared size"),
    **{
        name: (
            patched(zipped([("a.jpg", b"1"), ("b.jpg", b"1")]), CENTRAL, 10, "<H", number),
            rf"unsupported compression method {number} \({name}\); zip again with deflate",
        )
        for name, number in {"LZMA": 14, "bzip2": 12, "Deflate64": 9, "Zstandard": 93}.items()
    },
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_member_is_a_reason(fault: str) -> None:
    content, reason = FAULTS[fault]
    ZIP.write_bytes(content)
    with open_source(ZIP) as opened, pytest.raises(Unreadable, match=f"^{reason}$"):
        opened.read("a.jpg")


@pytest.mark.parametrize("name", ["a.tgz", "a.tar.gz", "a.tar", "a.7z", "A.RAR", "a.tar.xz"])
def test_an_archive_of_another_kind_is_named(name: str) -> None:
    Path(name).write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"got a (tar.*|7-Zip|RAR) archive; unpack it and give the"):
        open_source(Path(name))
    Path(name).write_bytes(ONE)
    with open_source(Path(name)) as opened:  # a zip, whatever its name says
        assert opened.names == ["a.jpg"]


def test_faults_of_single_files_in_a_folder_are_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder([(name, bytes(1024**2 + 1)) for name in ("gone.jpg", "large.jpg")])
    (FOLDER / "link.jpg").symlink_to("nowhere.jpg")
    (FOLDER / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(FOLDER / "pipe.jpg")
    monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 1024**2)
    reasons = {
        "gone.jpg": "no file there any more, or a link to none",
        "large.jpg": "larger than 1 MiB",
        "link.jpg": "no file there any more, or a link to none",
        "loop.jpg": "a link that leads to itself",
        "pipe.jpg": "not a regular file",
    }
    with open_source(FOLDER) as opened:
        (FOLDER / "gone.jpg").unlink()
        assert opened.names == [*reasons]
        for name, reason in reasons.items():
            with pytest.raises(Unreadable, match=f"^{reason}$"):
                opened.read(name)


@pytest.mark.parametrize("target", ["../../outside", "../../outside/a.jpg", "/", "../../folder-b"])
def test_a_link_that_leads_out_of_the_folder_is_refused(target: str) -> None:
    Path("folder/cats").mkdir(parents=True)
    Path("outside").mkdir()
    Path("folder/cats/link").symlink_to(target)
    with pytest.raises(UserError, match=r"^folder: .* link 'cats/link' that leads out .* replace"):
        open_source(FOLDER)


def test_images_that_dvc_keeps_in_its_cache_are_read_beside_refused_links() -> None:
    write_folder([("cats/1.jpg", b"one"), ("cats/2.jpg", b"two"), ("cats/3.jpg", b"three")])
    linked(FOLDER)
    Path("folder/cats/3.jpg").unlink()
    Path("folder/cats/3.jpg").symlink_to(Path(".dvc/config").absolute())
    with open_source(FOLDER, lenient=True) as opened:
        assert [opened.read(name) for name in opened.names[:2]] == [b"one", b"two"]
        with pytest.raises(Unreadable, match=r"^a link that leads out of the folder; "):
            opened.read("cats/3.jpg")


def test_a_lenient_reader_gets_links_out_and_zips_inside_as_faults() -> None:
    write_folder([("1.jpg", b"one"), ("b/inner.zip", ONE)])
    Path("folder/link.jpg").symlink_to("/etc/passwd")
    with open_source(FOLDER, lenient=True) as opened:
        assert opened.names == ["1.jpg", "b/inner.zip", "link.jpg"]
        assert opened.read("1.jpg") == b"one"
        with pytest.raises(Unreadable, match=r"^another zip; give it by itself, or unzip it$"):
            opened.read("b/inner.zip")
        with pytest.raises(Unreadable, match=r"^a link that leads out of the folder; put the file"):
            opened.read("link.jpg")


def test_names_are_twins_only_where_a_file_system_would_merge_them() -> None:
    ZIP.write_bytes(zipped([("stra\u00dfe.jpg", b"1"), ("strasse.jpg", b"2")]))
    with open_source(ZIP) as opened:
        assert len(opened.names) == 2
    ZIP.write_bytes(zipped([("\u00c9.jpg", b"1"), ("e\u0301.jpg", b"2")]))
    with pytest.raises(UserError, match="which are the same file on some machines"):
        open_source(ZIP)


def test_links_inside_a_folder_are_read_and_a_cycle_is_not_followed() -> None:
    write_folder([("cats/1.jpg", b"one")])
    Path("folder/cats/2.jpg").symlink_to("1.jpg")
    Path("folder/cats/up").symlink_to("..")
    with open_source(FOLDER) as opened:
        contents = {name: opened.read(name) for name in opened.names}
        assert contents == dict.fromkeys(["cats/1.jpg", "cats/2.jpg"], b"one")


def test_a_folder_without_images_is_refused() -> None:
    Path("folder/cats").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^folder: expected images, got nothing inside; give an"):
        open_source(FOLDER)
    write_folder([("test.zip", ONE)])
    with pytest.raises(
        UserError, match=r"got another zip inside, 'test.zip'; give it by itself, or "
    ):
        open_source(FOLDER)


@pytest.mark.parametrize("path", [ZIP, FOLDER])
def test_an_archive_that_changes_while_it_is_read_is_refused(path: Path) -> None:
    write_folder([("1.jpg", b"one")])
    ZIP.write_bytes(ONE)
    with open_source(path) as opened:
        write_folder([(".DS_Store", b"Finder's")])
        opened.require_unchanged()
        ZIP.write_bytes(TWO)
        write_folder([("1.jpg", b"other")])
        with pytest.raises(UserError, match=r"expected images that do not change .* run again"):
            opened.require_unchanged()
