"""Archives good and odd; `tests/robustness/inputs/bad_zips.py` has more faults of zips."""

import os
import re
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bad_zips import CENTRAL, declaring, patched, zipped

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
    names = ["cats\\", "cats\\1.jpg", "./cats//cafe\u0301.jpg"]
    ZIP.write_bytes(zipped([(name, b"") for name in names]))
    with open_source(ZIP) as opened:
        assert opened.names == ["cats/1.jpg", "cats/caf\u00e9.jpg"]


ONE = zipped([("a.jpg", b"one")])
TWO = zipped([("a.jpg", b"1"), ("b.jpg", b"2")])


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (None, "nothing at that path; put the images there or correct the path"),
        (zipped([("../../", b"")]), "'../../', which leads out of it; do not trust this archive"),
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
    "LZMA": (zipped([("a.jpg", b"1")], zipfile.ZIP_LZMA), "unsupported compression method 14"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_member_is_a_reason(fault: str) -> None:
    content, reason = FAULTS[fault]
    ZIP.write_bytes(content)
    with open_source(ZIP) as opened, pytest.raises(Unreadable, match=f"^{reason}$"):
        opened.read("a.jpg")


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
    with pytest.raises(UserError, match=r"got another zip inside, 'test.zip'; give the inner zip"):
        open_source(FOLDER)


@pytest.mark.parametrize("path", [ZIP, FOLDER])
def test_an_archive_that_changes_while_it_is_read_is_refused(path: Path) -> None:
    write_folder([("1.jpg", b"one")])
    ZIP.write_bytes(ONE)
    with open_source(path) as opened:
        opened.require_unchanged()
        ZIP.write_bytes(TWO)
        write_folder([("1.jpg", b"other")])
        with pytest.raises(UserError, match=r"expected images that do not change .* run again"):
            opened.require_unchanged()
