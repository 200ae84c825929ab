"""Archives good, odd and hostile, built here byte by byte, and the labels their names tell."""

import os
import stat
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bad_zips import CENTRAL, LOCAL, declaring, patched, zipped

from pipeline.images import sources
from pipeline.images.decode import Unreadable
from pipeline.images.labels import Arrangement, Found, arrange, arrange_unlabelled, natural_key
from pipeline.images.sources import open_source
from pipeline.runtime.errors import UserError


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the archive of a test lies; relative, so that sentences can be compared whole."""
    monkeypatch.chdir(tmp_path)
    return Path("train.zip")


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as told:
        open_source(path)
    return str(told.value)


def names_of(path: Path) -> list[str]:
    with open_source(path) as opened:
        return opened.names


def unreadable(path: Path, name: str) -> str:
    with open_source(path) as opened, pytest.raises(Unreadable) as told:
        opened.read(name)
    return str(told.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_the_bytes_of_its_members(train: Path, compression: int) -> None:
    train.write_bytes(zipped([("a/1.jpg", b"one" * 1000), ("a/2.jpg", b"")], compression))
    with open_source(train) as opened:
        assert (opened.path, opened.passed_over) == (train, {})
        assert [opened.read(name) for name in opened.names] == [b"one" * 1000, b""]


def test_a_folder_gives_what_a_zip_of_it_gives(train: Path) -> None:
    members = [("cats/10.jpg", b"ten"), ("cats/2.jpg", b"two"), ("dogs/caf\u00e9.jpg", b"cafe")]
    train.write_bytes(zipped(members))
    for name, content in members:
        Path("folder", name).parent.mkdir(parents=True, exist_ok=True)
        Path("folder", name).write_bytes(content)
    with open_source(train) as packed, open_source(Path("folder")) as loose:
        assert packed.names == loose.names == ["cats/2.jpg", "cats/10.jpg", "dogs/caf\u00e9.jpg"]
        assert [packed.read(n) for n in packed.names] == [loose.read(n) for n in loose.names]


def test_the_order_of_members_in_a_zip_does_not_matter(train: Path) -> None:
    names = ["cat.2.jpg", "cat.10.jpg", "dog.1.jpg"]
    for order in (names, names[::-1]):
        train.write_bytes(zipped([(name, b"x") for name in order]))
        assert names_of(train) == names


def test_a_zip_behind_other_bytes_is_read(train: Path) -> None:
    train.write_bytes(b"#!/bin/sh\n" + zipped([("a.jpg", b"one")]))
    with open_source(train) as opened:
        assert opened.read("a.jpg") == b"one"


def test_threads_read_one_zip_together(train: Path) -> None:
    members = [(f"{number}.jpg", bytes([number]) * 5000) for number in range(50)]
    train.write_bytes(zipped(members))
    with open_source(train) as opened, ThreadPoolExecutor(8) as threads:
        names = opened.names * 20
        assert list(threads.map(opened.read, names)) == [content for _, content in members] * 20


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_what_systems_leave_behind_is_passed_over_and_counted(train: Path, form: str) -> None:
    names = [
        *("cats/1.jpg", "cats/notes.txt"),
        *(
            "__MACOSX/cats/._1.jpg",
            "__MACOSX/.DS_Store",
            "cats/._2.jpg",
            "Thumbs.db",
            "cats/thumbs.db",
        ),
        *(".DS_Store", ".git/config", ".hidden.jpg", "desktop.ini"),
    ]
    path = train if form == "zip" else Path("folder")
    if form == "zip":
        path.write_bytes(zipped([("cats/", b""), *((name, b"x") for name in names)]))
    else:
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(b"x")
    with open_source(path) as opened:
        assert opened.names == ["cats/1.jpg", "cats/notes.txt"]
        assert opened.passed_over == {
            ".DS_Store": 1, "._*": 1, "Thumbs.db": 2, "__MACOSX": 2, "hidden": 3
        }  # fmt: skip


def test_names_written_on_windows_or_a_mac_become_the_same_names(train: Path) -> None:
    members = [("cats\\", b""), ("cats\\1.jpg", b""), ("./cats//cafe\u0301.jpg", b"")]
    train.write_bytes(zipped(members))
    assert names_of(train) == ["cats/1.jpg", "cats/caf\u00e9.jpg"]


ONE = zipped([("a.jpg", b"one")])
ZEROS = bytes(2 * 1024**2)  # deflate packs them a thousandfold


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            None,
            "train.zip: expected a zip file or a folder of images, got nothing at that path; "
            "put the images there or correct the path",
        ),
        (
            b"not a zip",
            "train.zip: expected a zip file, got a file without a readable zip directory; "
            "download it again",
        ),
        (
            ONE[:-30],
            "train.zip: expected a zip file, got a file without a readable zip directory; "
            "download it again",
        ),
        (
            zipped([]),
            "train.zip: expected images, got nothing inside; give an archive of images",
        ),
        (
            zipped([("__MACOSX/._a.jpg", b""), (".DS_Store", b""), ("a/.DS_Store", b"")]),
            "train.zip: expected images, got 2 of '.DS_Store', 1 of '__MACOSX' inside; "
            "give an archive of images",
        ),
        (
            zipped([("../a.jpg", b"")]),
            "train.zip: expected members inside the archive, got '../a.jpg', which leads out of "
            "it; do not trust this archive, get it from its source again",
        ),
        (
            zipped([("cats\\..\\..\\a.jpg", b"")]),
            "train.zip: expected members inside the archive, got 'cats\\\\..\\\\..\\\\a.jpg', "
            "which leads out of it; do not trust this archive, get it from its source again",
        ),
        (
            zipped([("/etc/a.jpg", b"")]),
            "train.zip: expected members inside the archive, got '/etc/a.jpg', which leads out of "
            "it; do not trust this archive, get it from its source again",
        ),
        (
            zipped([("C:\\a.jpg", b"")]),
            "train.zip: expected members inside the archive, got 'C:\\\\a.jpg', which leads out of "
            "it; do not trust this archive, get it from its source again",
        ),
        (
            zipped([("../../", b""), ("a.jpg", b"")]),
            "train.zip: expected members inside the archive, got '../../', which leads out of "
            "it; do not trust this archive, get it from its source again",
        ),
        (
            zipped([("a\nb.jpg", b"")]),
            "train.zip: expected names of readable characters, got 'a\\nb.jpg'; "
            "rename that member",
        ),
        (
            zipped([("a.jpg", b"1"), ("b.jpg", b"2")]).replace(b"b.jpg", b"a.jpg"),
            "train.zip: expected one member of each name, got 'a.jpg' and 'a.jpg', "
            "which are the same file on some machines; rename or remove one",
        ),
        (
            zipped([("a.jpg", b"1"), ("A.JPG", b"2")]),
            "train.zip: expected one member of each name, got 'a.jpg' and 'A.JPG', "
            "which are the same file on some machines; rename or remove one",
        ),
        (
            zipped([("caf\u00e9.jpg", b"1"), ("cafe\u0301.jpg", b"2")]),
            "train.zip: expected one member of each name, got 'caf\u00e9.jpg' and 'caf\u00e9.jpg', "
            "which are the same file on some machines; rename or remove one",
        ),
        (
            zipped([("train.zip", ONE), ("test.zip", ONE)]),
            "train.zip: expected images, got another zip inside, 'train.zip'; "
            "unzip the outer one first and give the inner zip itself",
        ),
        (
            patched(ONE, CENTRAL, 8, "<H", 1),
            "train.zip: expected members without a password, got 'a.jpg' encrypted; "
            "make the zip again without a password",
        ),
        (
            declaring(ONE, 128 * 1024**2 + 1),
            "train.zip: expected members of 128 MiB at most, got 'a.jpg' of 134217729 bytes; "
            "leave it out of the zip",
        ),
        (
            zipped([("a.jpg", ZEROS)]),
            "train.zip: expected images, which a zip packs 200-fold at most, got 'a.jpg' "
            f"with 2097152 bytes in {len(zlib.compress(ZEROS)) - 6}; leave it out of the zip",
        ),
        (
            patched(zipped([("a.jpg", b"1"), ("b.jpg", b"2")]), CENTRAL, 20, "<I", 40),
            "train.zip: expected members side by side, got 'a.jpg' and 'b.jpg' in the same bytes; "
            "do not trust this archive, get it from its source again",
        ),
        (
            patched(ONE, CENTRAL, 20, "<I", 40),
            "train.zip: expected members side by side, got 'a.jpg' and 'the directory' in the "
            "same bytes; do not trust this archive, get it from its source again",
        ),
    ],
    ids=[
        *("missing", "no zip", "cut off", "empty", "only passed over"),
        *("dots", "dots with backslashes", "absolute", "drive", "folder with dots", "line break"),
        *("twins", "twins but for case", "twins in NFC", "zip in a zip", "encrypted"),
        *("declared bomb", "ratio", "overlap", "overlap with the directory"),
    ],
)  # fmt: skip
def test_a_fault_of_the_archive_is_one_sentence(
    train: Path, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        train.write_bytes(content)
    assert refusal(train) == sentence


def test_members_that_share_one_header_overlap(train: Path) -> None:
    archive = zipped([("a.jpg", b"1"), ("b.jpg", b"2")])
    second = archive.rindex(CENTRAL)
    shared = archive[:second] + patched(archive[second:], CENTRAL, 42, "<I", 0)
    train.write_bytes(shared)
    assert "got 'a.jpg' and 'b.jpg' in the same bytes" in refusal(train)


def test_a_small_member_may_shrink_a_lot(train: Path) -> None:
    train.write_bytes(zipped([("a.bmp", bytes(1024**2))]))
    assert names_of(train) == ["a.bmp"]


LONG = zipped([("a.jpg", bytes(100_000))])
NOISE = bytes(range(256)) * 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (patched(ONE, CENTRAL, 16, "<I", 0), "bad CRC"),
        (declaring(LONG, 1000), "expands beyond its declared size"),
        (declaring(LONG, 1000, zlib.crc32(bytes(1000))), "expands beyond its declared size"),
        (declaring(LONG, 0, 0), "expands beyond its declared size"),
        (declaring(LONG, 100_001), "ends before its declared size"),
        (declaring(zipped([("a.jpg", NOISE)], 0), 9), "expands beyond its declared size"),
        (patched(ONE, LOCAL, 35, "<I", 0xFFFFFFFF), "damaged compressed data"),
        (patched(ONE, LOCAL, 0, "<I", 0), "damaged member header"),
        (patched(ONE, LOCAL, 30, "<I", 0), "two names for one member"),
        (patched(ONE, CENTRAL, 10, "<H", 12), "unsupported compression method 12"),
        (zipped([("a.jpg", b"one")], zipfile.ZIP_LZMA), "unsupported compression method 14"),
    ],
    ids=[
        *("crc", "bomb", "bomb with the crc of its start", "bomb of no size", "short"),
        *("stored bomb", "data", "header", "other name", "bzip2", "lzma"),
    ],
)
def test_a_fault_of_one_member_is_a_reason(train: Path, content: bytes, reason: str) -> None:
    train.write_bytes(content)
    assert unreadable(train, "a.jpg") == reason


def test_one_bad_member_leaves_the_others_readable(train: Path) -> None:
    archive = patched(zipped([("a.jpg", b"one"), ("b.jpg", b"two")]), CENTRAL, 16, "<I", 0)
    train.write_bytes(archive)
    assert unreadable(train, "a.jpg") == "bad CRC"
    with open_source(train) as opened:
        assert opened.read("b.jpg") == b"two"


def test_a_flipped_bit_of_a_stored_member_is_a_bad_crc(train: Path) -> None:
    archive = bytearray(zipped([("a.jpg", NOISE)], zipfile.ZIP_STORED))
    archive[500] ^= 1
    train.write_bytes(archive)
    assert unreadable(train, "a.jpg") == "bad CRC"


def test_faults_of_single_files_in_a_folder_are_reasons(
    train: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("folder")
    folder.mkdir()
    for name in ("gone.jpg", "large.jpg"):
        (folder / name).write_bytes(bytes(1024**2 + 1))
    (folder / "link.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    with open_source(folder) as opened:
        (folder / "gone.jpg").unlink()
        monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 1024**2)
        reasons = {}
        for name in opened.names:
            with pytest.raises(Unreadable) as told:
                opened.read(name)
            reasons[name] = str(told.value)
    assert reasons == {
        "gone.jpg": "no file there any more, or a link to none",
        "large.jpg": "larger than 1 MiB",
        "link.jpg": "no file there any more, or a link to none",
        "loop.jpg": "a link that leads to itself",
        "pipe.jpg": "not a regular file",
    }


@pytest.mark.parametrize("target", ["../outside", "../outside/a.jpg", "/", "../folder-b"])
def test_a_link_that_leads_out_of_the_folder_is_refused(train: Path, target: str) -> None:
    Path("folder/cats").mkdir(parents=True)
    Path("outside").mkdir()
    Path("folder/cats/link").symlink_to(Path("..", target) if target != "/" else target)
    assert refusal(Path("folder")) == (
        "folder: expected files inside the folder, got the link 'cats/link' that leads out of it; "
        "put the files themselves in its place"
    )


def test_a_link_in_a_zip_is_the_text_that_it_holds_and_is_not_followed(train: Path) -> None:
    Path("secret").write_bytes(b"not to be read")
    link = zipfile.ZipInfo("a.jpg")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16  # as Unix zips them
    with zipfile.ZipFile(train, "w") as archive:
        archive.writestr(link, "secret")
    with open_source(train) as opened:
        assert opened.read("a.jpg") == b"secret"


def test_links_inside_a_folder_are_read_and_a_cycle_is_not_followed(train: Path) -> None:
    Path("folder/cats").mkdir(parents=True)
    Path("folder/cats/1.jpg").write_bytes(b"one")
    Path("folder/cats/2.jpg").symlink_to("1.jpg")
    Path("folder/cats/up").symlink_to("..")
    with open_source(Path("folder")) as opened:
        assert [(name, opened.read(name)) for name in opened.names] == [
            ("cats/1.jpg", b"one"),
            ("cats/2.jpg", b"one"),
        ]


def test_a_folder_of_zips_is_refused(train: Path) -> None:
    Path("folder").mkdir()
    Path("folder/test.zip").write_bytes(ONE)
    assert refusal(Path("folder")) == (
        "folder: expected images, got another zip inside, 'test.zip'; give the inner zip itself"
    )


def test_an_empty_folder_is_refused(train: Path) -> None:
    Path("folder/cats").mkdir(parents=True)
    sentence = "folder: expected images, got nothing inside; give an archive of images"
    assert refusal(Path("folder")) == sentence


@pytest.mark.parametrize(
    "ordered",
    [
        ["cat.2.jpg", "cat.10.jpg", "dog.1.jpg"],
        ["1.jpg", "2.jpg", "10.jpg", "100.jpg", "a.jpg"],
        ["", "1", "a", "a0", "a00", "a01", "a1", "a1a", "a01b", "a2", "ab"],
        ["cats/2/10.jpg", "cats/10/2.jpg", "dogs/1.jpg"],
        ["x9", "x" + "9" * 5000, "x1" + "0" * 5000],
    ],
)
def test_natural_order_is_by_number_then_text(ordered: list[str]) -> None:
    shuffled = ordered[1::2] + ordered[::2]
    assert sorted(shuffled, key=natural_key) == ordered


def rows(arrangement: Arrangement) -> list[tuple[str, str | None, str | None]]:
    return [(found.id, found.label, found.subset) for found in arrangement.found]


KAGGLE = ["cat.0.jpg", "cat.1.jpg", "dog.0.jpg"]
LABELLED = [("cat.0", "cat", None), ("cat.1", "cat", None), ("dog.0", "dog", None)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (KAGGLE, LABELLED),
        (KAGGLE[::-1], LABELLED),
        ([f"train/{name}" for name in KAGGLE], LABELLED),
        ([f"train/train/{name}" for name in KAGGLE], LABELLED),
        ([f"dogs-vs-cats/train/{name}" for name in KAGGLE], LABELLED),
        (
            ["cats/1.jpg", "cats/10.jpg", "cats/2.jpg", "dogs/old/1.jpg"],
            [
                ("cats/1", "cats", None),
                ("cats/2", "cats", None),
                ("cats/10", "cats", None),
                ("dogs/old/1", "dogs", None),
            ],
        ),
        (
            ["pets/Train/cats/1.jpg", "pets/Train/dogs/1.jpg"],
            [("cats/1", "cats", None), ("dogs/1", "dogs", None)],
        ),
        (
            [f"{s}/{c}/1.jpg" for s in ("TRAIN", "validation", "test") for c in ("cats", "dogs")],
            [
                ("TRAIN/cats/1", "cats", "train"),
                ("TRAIN/dogs/1", "dogs", "train"),
                ("test/cats/1", "cats", "test"),
                ("test/dogs/1", "dogs", "test"),
                ("validation/cats/1", "cats", "valid"),
                ("validation/dogs/1", "dogs", "valid"),
            ],
        ),
        (
            ["train/cats/1.jpg", "train/dogs/1.jpg", "val/cats/1.jpg"],  # one class only, in valid
            [
                ("train/cats/1", "cats", "train"),
                ("train/dogs/1", "dogs", "train"),
                ("val/cats/1", "cats", "valid"),
            ],
        ),
        (
            ["train/cat.0.jpg", "train/dog.0.jpg", "valid/cat.1.jpg", "test/1.jpg"],
            [
                ("1", None, "unlabelled"),
                ("train/cat.0", "cat", "train"),
                ("train/dog.0", "dog", "train"),
                ("valid/cat.1", "cat", "valid"),
            ],
        ),
        (
            [*(f"train/{name}" for name in KAGGLE), "test/10.jpg", "test/2.jpg"],
            [("2", None, "unlabelled"), ("10", None, "unlabelled"), *LABELLED],
        ),
        (
            [*(f"dvc/train/train/{name}" for name in KAGGLE), "dvc/test1/test1/2.jpg"],
            [("2", None, "unlabelled"), *LABELLED],
        ),
        (
            ["train/cats/1.jpg", "train/dogs/1.jpg", "test/1.jpg"],
            [("1", None, "unlabelled"), ("cats/1", "cats", None), ("dogs/1", "dogs", None)],
        ),
    ],
    ids=[
        *("flat", "any order", "in train", "in train twice", "wrapped", "class folders"),
        *("wrapped classes", "subsets", "a subset of one class", "flat subsets"),
        *("Kaggle's pair", "Kaggle's pair, unzipped", "classes and a flat test"),
    ],
)
def test_names_become_labels(
    names: list[str], expected: list[tuple[str, str | None, str | None]]
) -> None:
    assert rows(arrange(names, "train.zip", None)) == expected


def test_found_keeps_the_name_that_reads_the_member() -> None:
    found = arrange(["train/cat.0.jpg", "train/dog.0.jpg"], "train.zip", None).found
    assert found[0] == Found("train/cat.0.jpg", "cat.0", "cat", None)


@pytest.mark.parametrize(
    ("names", "strays"),
    [
        (["cats/1.jpg", "dogs/1.jpg", "readme.txt"], ["readme"]),
        (["cats/1.jpg", "dogs/1.jpg", "3.jpg"], ["3"]),
        (["pets/cats/1.jpg", "pets/dogs/1.jpg", "readme.txt"], ["readme"]),
        ([*KAGGLE, "readme.txt", "more/1.jpg"], ["more/1", "readme"]),
        ([*KAGGLE, "test/1.jpg", "train/1.jpg"], ["test/1", "train/1"]),
        (["train/cats/1.jpg", "train/dogs/1.jpg", "train/3.jpg", "test/1.jpg"], ["train/3"]),
        (["train/cat.1.jpg", "train/dog.1.jpg", "test/1.jpg", "sample.csv"], ["sample"]),
    ],
)
def test_a_file_outside_the_layout_stays_as_a_row_without_label_or_subset(
    names: list[str], strays: list[str]
) -> None:
    arrangement = arrange(names, "train.zip", None)
    assert len(arrangement.found) == len(names)
    assert [
        found.id for found in arrangement.found if found.label is None and found.subset is None
    ] == strays


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["c/a.jpg", "c/a.png", "c/b.jpg", "d/a.jpg"], ["c/a.jpg", "c/a.png", "c/b", "d/a"]),
        (
            ["c/a.jpg", "c/a.jpg.png", "c/a.png", "d/1"],
            ["c/a.jpg", "c/a.jpg.png", "c/a.png", "d/1"],
        ),
        (
            ["test/cats/1.jpg", "test/test/cats/1.jpg", "train/cats/1.jpg", "train/test/1.jpg"],
            ["test/cats/1", "test/test/cats/1", "train/cats/1", "train/test/1"],
        ),
        (
            ["test/photo.jpg", "train/cats/1.jpg", "train/dogs/1.jpg", "photo.jpg"],
            ["photo.jpg", "test/photo.jpg", "cats/1", "dogs/1"],
        ),
    ],
)
def test_ids_that_would_meet_keep_their_extension_or_their_folder(
    names: list[str], ids: list[str]
) -> None:
    assert [found.id for found in arrange(names, "train.zip", None).found] == ids


def test_classes_are_in_natural_order() -> None:
    names = ["class10/1.jpg", "class2/1.jpg", "class1/1.jpg"]
    assert arrange(names, "train.zip", None).classes == ["class1", "class2", "class10"]


def test_given_classes_keep_their_order() -> None:
    arrangement = arrange(KAGGLE, "train.zip", ["dog", "cat"])
    assert arrangement.classes == ["dog", "cat"]
    assert rows(arrangement) == LABELLED


LAYOUT = (
    "train.zip: expected labels in file names ('cat.0.jpg') or one folder a class "
    "('cats/1.jpg'), got {!r}; rename or rearrange the images"
)


@pytest.mark.parametrize(
    ("names", "classes", "sentence"),
    [
        ([], None, LAYOUT.format("nothing")),
        (["2.jpg", "1.jpg"], None, LAYOUT.format("1.jpg")),
        (["train/1.jpg", "test/1.jpg"], None, LAYOUT.format("test/1.jpg").replace("test", "train")),
        (["cats/1.jpg", "cats/2.jpg"], None, LAYOUT.format("cats/1.jpg")),
        (["train/cat.1.jpg", "train/dog.1.jpg", "valid/1.jpg"], None, LAYOUT.format("valid/1.jpg")),
        (["cat.1.jpg", "1.jpg", "2.jpg"], None, LAYOUT.format("1.jpg")),
        (
            ["test/cats/1.jpg", "valid/cats/1.jpg"],
            None,
            LAYOUT.format("test/cats/1.jpg"),
        ),
        (
            ["cat.1.jpg", "cat.2.jpg"],
            None,
            "train.zip: expected two classes or more, got only 'cat'; "
            "add the images of another class",
        ),
        (
            ["Cats/1.jpg", "cats/2.jpg"],
            None,
            "train.zip: expected classes that differ in more than case, got 'Cats' and 'cats'; "
            "rename one",
        ),
        (
            ["train/a/1.jpg", "test/a/1.jpg", "docs/1.jpg"],
            None,
            "train.zip: expected either subset folders ('train', 'valid', 'test') or class "
            "folders, got 'docs' among 'docs', 'test', 'train'; move it elsewhere",
        ),
        (
            ["cats/1.jpg", "dogs/1.jpg", "test/1.jpg"],
            None,
            "train.zip: expected either subset folders ('train', 'valid', 'test') or class "
            "folders, got 'test' among 'cats', 'dogs', 'test'; move it elsewhere",
        ),
        (
            ["train/cat.1.jpg", "train/dog.1.jpg", "testing/1.jpg"],
            None,
            "train.zip: expected either subset folders ('train', 'valid', 'test') or class "
            "folders, got 'testing' among 'testing', 'train'; move it elsewhere",
        ),
        (
            ["train/cats/1.jpg", "train/dogs/1.jpg", "test/unknown/1.jpg"],
            None,
            "train.zip: expected in 'test' only classes that are in the training images, "
            "'cats', 'dogs', got 'unknown'; rename or remove it",
        ),
        (
            KAGGLE,
            ["cats", "dog"],
            "train.zip: expected the class 'cats', got 'cat', 'dog'; did you mean 'cat'?",
        ),
        (
            KAGGLE,
            ["cat", "dog", "horse"],
            "train.zip: expected the class 'horse', got 'cat', 'dog'; correct the list of classes",
        ),
        (
            [*KAGGLE, "horse.1.jpg"],
            ["dog", "cat"],
            "train.zip: expected only the classes 'cat', 'dog', got 'horse'; "
            "list it too or take its images away",
        ),
        (
            [f"class{number}/1.jpg" for number in range(12)],
            ["dog", "cat"],
            "train.zip: expected the class 'dog', got 'class0', 'class1', 'class2', 'class3', "
            "'class4', 'class5', 'class6', 'class7', 'class8', 'class9' and 2 more; "
            "correct the list of classes",
        ),
    ],
)
def test_names_that_tell_no_classes_are_one_sentence(
    names: list[str], classes: list[str] | None, sentence: str
) -> None:
    with pytest.raises(UserError) as told:
        arrange(names, "train.zip", classes)
    assert str(told.value) == sentence


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["test/10.jpg", "test/2.jpg"], ["2", "10"]),
        (["a/test/1.jpg"], ["1"]),
        (["a/1.jpg", "b/1.jpg"], ["a/1", "b/1"]),
        (["1.jpg", "1.png"], ["1.jpg", "1.png"]),
        ([], []),
    ],
)
def test_unlabelled_images_keep_natural_order_and_short_ids(
    names: list[str], ids: list[str]
) -> None:
    found = arrange_unlabelled(names)
    assert [row.id for row in found] == ids
    assert {(row.label, row.subset) for row in found} <= {(None, "unlabelled")}


def test_a_class_may_be_called_train_where_the_classes_are_listed() -> None:
    names = ["cats/cat.1.jpg", "train/1.jpg"]
    arranged = arrange(names, "train.zip", ["train", "cats"])
    assert arranged.classes == ["train", "cats"]
    assert [(row.id, row.label) for row in arranged.found] == [
        ("cats/cat.1", "cats"),
        ("train/1", "train"),
    ]
