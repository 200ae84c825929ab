"""Archives good, odd and hostile, built here byte by byte."""

import os
import re
import stat
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bad_zips import CENTRAL, LOCAL, declaring, patched, zipped

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


def unreadable(path: Path, name: str) -> str:
    with open_source(path) as opened, pytest.raises(Unreadable) as refused:
        opened.read(name)
    return str(refused.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("prefix", [b"", b"#!/bin/sh\n"])
def test_a_zip_gives_the_bytes_of_its_members(compression: int, prefix: bytes) -> None:
    members = [("a/1.jpg", b"one" * 1000), ("a/2.jpg", b"")]
    ZIP.write_bytes(prefix + zipped(members, compression))
    with open_source(ZIP) as opened:
        assert (opened.path, opened.ignored) == (ZIP, {})
        assert [(name, opened.read(name)) for name in opened.names] == members


def test_a_folder_and_a_zip_in_any_order_give_the_same() -> None:
    members = [("cats/10.jpg", b"ten"), ("cats/2.jpg", b"two"), ("dogs/caf\u00e9.jpg", b"cafe")]
    write_folder(members)
    for order in (members, members[::-1]):
        ZIP.write_bytes(zipped(order))
        with open_source(ZIP) as packed, open_source(FOLDER) as loose:
            names = ["cats/2.jpg", "cats/10.jpg", "dogs/caf\u00e9.jpg"]
            assert packed.names == loose.names == names
            contents = [b"two", b"ten", b"cafe"]
            assert [*map(packed.read, names)] == [*map(loose.read, names)] == contents


def test_threads_can_share_a_zip() -> None:
    members = [(f"{number}.jpg", bytes([number]) * 5000) for number in range(50)]
    ZIP.write_bytes(zipped(members))
    with open_source(ZIP) as opened, ThreadPoolExecutor(8) as threads:
        names = opened.names * 20
        assert list(threads.map(opened.read, names)) == [content for _, content in members] * 20


@pytest.mark.parametrize("path", [ZIP, FOLDER])
def test_files_of_operating_systems_are_ignored_and_counted(path: Path) -> None:
    names = [
        *("cats/1.jpg", "cats/notes.txt", "__MACOSX/cats/._1.jpg", "__MACOSX/.DS_Store"),
        *("cats/._2.jpg", "Thumbs.db", "cats/thumbs.db", ".DS_Store", ".git/config"),
        *(".hidden.jpg", "desktop.ini"),
    ]
    members = [(name, b"x") for name in names]
    write_folder(members)
    ZIP.write_bytes(zipped([("cats/", b""), *members]))
    counts = {".DS_Store": 1, "._*": 1, "Thumbs.db": 2, "__MACOSX": 2, "hidden": 3}
    with open_source(path) as opened:
        assert (opened.names, opened.ignored) == (["cats/1.jpg", "cats/notes.txt"], counts)


def test_names_written_on_windows_or_a_mac_become_the_same_names() -> None:
    ZIP.write_bytes(
        zipped([("cats\\", b""), ("cats\\1.jpg", b""), ("./cats//cafe\u0301.jpg", b"")])
    )
    with open_source(ZIP) as opened:
        assert opened.names == ["cats/1.jpg", "cats/caf\u00e9.jpg"]


ONE = zipped([("a.jpg", b"one")])
TWO = zipped([("a.jpg", b"1"), ("b.jpg", b"2")])
ZEROS = bytes(2 * 1024**2)  # deflate packs them a thousandfold
SECOND = TWO.rindex(CENTRAL)
UNTRUSTED = "do not trust this archive, get it from its source again"
FAULTS = {  # content, got, remedy
    "missing": (None, "nothing at that path", "correct the path"),
    "no zip": (b"not a zip", "a file without a readable zip directory", "download it again"),
    "cut off": (ONE[:-30], "a file without a readable zip directory", "download it again"),
    "empty": (zipped([]), "nothing inside", "give an archive of images"),
    "only ignored files": (
        zipped([("__MACOSX/._a.jpg", b""), (".DS_Store", b""), ("a/.DS_Store", b"")]),
        "2 of '.DS_Store', 1 of '__MACOSX' inside",
        "give an archive of images",
    ),
    **{
        f"the name {name!r}": (
            zipped([(name, b""), ("a.jpg", b"")]),
            f"{name!r}, which leads out of it",
            UNTRUSTED,
        )
        for name in ("../a.jpg", "cats\\..\\..\\a.jpg", "/etc/a.jpg", "C:\\a.jpg", "../../")
    },
    "a line break": (zipped([("a\nb.jpg", b"")]), "'a\\nb.jpg'", "rename that member"),
    "twins": (TWO.replace(b"b.jpg", b"a.jpg"), "'a.jpg' and 'a.jpg'", "rename or remove one"),
    "twins but for case": (
        zipped([("a.jpg", b"1"), ("A.JPG", b"2")]),
        "'a.jpg' and 'A.JPG'",
        "rename or remove one",
    ),
    "twins in NFC": (
        zipped([("caf\u00e9.jpg", b"1"), ("cafe\u0301.jpg", b"2")]),
        "'caf\u00e9.jpg' and 'caf\u00e9.jpg'",
        "rename or remove one",
    ),
    "a zip in a zip": (
        zipped([("train.zip", ONE), ("test.zip", ONE)]),
        "another zip inside, 'train.zip'",
        "unzip the outer one first and give the inner zip itself",
    ),
    "encrypted": (
        patched(ONE, CENTRAL, 8, "<H", 1),
        "'a.jpg' encrypted",
        "make the zip again without a password",
    ),
    "too large": (
        declaring(ONE, 128 * 1024**2 + 1),
        "'a.jpg' of 134217729 bytes",
        "leave it out of the zip",
    ),
    "a bomb": (
        zipped([("a.jpg", ZEROS)]),
        f"'a.jpg' with 2097152 bytes in {len(zlib.compress(ZEROS)) - 6}",
        "leave it out of the zip",
    ),
    "an overlap": (
        patched(TWO, CENTRAL, 20, "<I", 40),
        "'a.jpg' and 'b.jpg' in the same bytes",
        UNTRUSTED,
    ),
    "an overlap with the directory": (
        patched(ONE, CENTRAL, 20, "<I", 40),
        "'a.jpg' and 'the directory' in the same bytes",
        UNTRUSTED,
    ),
    "one header for two members": (
        TWO[:SECOND] + patched(TWO[SECOND:], CENTRAL, 42, "<I", 0),
        "'a.jpg' and 'b.jpg' in the same bytes",
        UNTRUSTED,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_archive_is_an_error_at_opening(fault: str) -> None:
    content, got, remedy = FAULTS[fault]
    if content is not None:
        ZIP.write_bytes(content)
    sentence = rf"^train\.zip: expected .*, got {re.escape(got)}[,;] .*{re.escape(remedy)}$"
    with pytest.raises(UserError, match=sentence):
        open_source(ZIP)


def test_a_small_member_may_shrink_a_lot() -> None:
    ZIP.write_bytes(zipped([("a.bmp", bytes(1024**2))]))
    with open_source(ZIP) as opened:
        assert opened.names == ["a.bmp"]


LONG = zipped([("a.jpg", bytes(100_000))])
NOISE = bytes(range(256)) * 4
FLIPPED = bytearray(zipped([("a.jpg", NOISE)], zipfile.ZIP_STORED))
FLIPPED[500] ^= 1
SHORT = patched(declaring(LONG, 1000), CENTRAL, 16, "<I", zlib.crc32(bytes(1000)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (patched(ONE, CENTRAL, 16, "<I", 0), "bad CRC"),
        (bytes(FLIPPED), "bad CRC"),
        (declaring(LONG, 1000), "expands beyond its declared size"),
        (
            patched(declaring(LONG, 1000), CENTRAL, 16, "<I", zlib.crc32(bytes(1000))),
            "expands beyond its declared size",
        ),
        (declaring(LONG, 0), "expands beyond its declared size"),
        (declaring(LONG, 100_001), "ends before its declared size"),
        (declaring(zipped([("a.jpg", NOISE)], 0), 9), "expands beyond its declared size"),
        (patched(ONE, LOCAL, 35, "<I", 0xFFFFFFFF), "damaged compressed data"),
        (patched(ONE, LOCAL, 0, "<I", 0), "damaged member header"),
        (patched(ONE, LOCAL, 30, "<I", 0), "two names for one member"),
        (patched(ONE, CENTRAL, 10, "<H", 12), "unsupported compression method 12"),
        (zipped([("a.jpg", b"one")], zipfile.ZIP_LZMA), "unsupported compression method 14"),
    ],
    ids=[
        *("crc", "flipped bit", "bomb", "bomb with the crc of its start", "bomb of no size"),
        *("short", "stored bomb", "data", "header", "other name", "bzip2", "lzma"),
    ],
)
def test_a_fault_of_one_member_is_a_reason(content: bytes, reason: str) -> None:
    ZIP.write_bytes(content)
    assert unreadable(ZIP, "a.jpg") == reason


def test_one_bad_member_leaves_the_others_readable() -> None:
    ZIP.write_bytes(patched(TWO, CENTRAL, 16, "<I", 0))
    assert unreadable(ZIP, "a.jpg") == "bad CRC"
    with open_source(ZIP) as opened:
        assert opened.read("b.jpg") == b"2"


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


def test_a_link_in_a_zip_is_not_followed() -> None:
    Path("secret").write_bytes(b"not to be read")
    link = zipfile.ZipInfo("a.jpg")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16  # as Unix zips them
    with zipfile.ZipFile(ZIP, "w") as archive:
        archive.writestr(link, "secret")
    with open_source(ZIP) as opened:
        assert opened.read("a.jpg") == b"secret"


def test_links_inside_a_folder_are_read_and_a_cycle_is_not_followed() -> None:
    write_folder([("cats/1.jpg", b"one")])
    Path("folder/cats/2.jpg").symlink_to("1.jpg")
    Path("folder/cats/up").symlink_to("..")
    with open_source(FOLDER) as opened:
        contents = {name: opened.read(name) for name in opened.names}
        assert contents == dict.fromkeys(["cats/1.jpg", "cats/2.jpg"], b"one")


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["test.zip"], "folder: .*, got another zip inside, 'test.zip'; give the inner zip itself"),
        ([], "folder: expected images, got nothing inside; give an archive of images"),
    ],
)
def test_a_folder_without_images_is_refused(names: list[str], sentence: str) -> None:
    Path("folder/cats").mkdir(parents=True)
    write_folder([(name, ONE) for name in names])
    with pytest.raises(UserError, match=f"^{sentence}$"):
        open_source(FOLDER)


@pytest.mark.parametrize("path", [ZIP, FOLDER])
def test_an_archive_that_changes_while_it_is_read_is_refused(path: Path) -> None:
    write_folder([("1.jpg", b"one")])
    ZIP.write_bytes(ONE)
    with open_source(path) as opened:
        state = opened.state()
        opened.require_unchanged(state)
        ZIP.write_bytes(TWO)
        write_folder([("1.jpg", b"other")])
        with pytest.raises(UserError, match=r"expected images that do not change .* run again"):
            opened.require_unchanged(state)
