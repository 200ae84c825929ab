"""Stage `split`: from small archives to a ledger and its counts."""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_cluster import local_cluster
from PIL import Image, ImageOps

from pipeline.images import judge
from pipeline.paths import LABEL_FIXES, LEDGER, SPLIT_METRICS
from pipeline.storage import ledger, tables
from pipeline.storage.ledger import Ledger
from stages import split

Members = Mapping[str, bytes]
WriteParams = Callable[..., None]

pytestmark = pytest.mark.usefixtures("inputs")


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def image(number: int, kind: str = "PNG") -> bytes:
    """Return a small image unlike that of any other number."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), kind)


def labelled() -> dict[str, bytes]:
    """Return ten cats and ten dogs with Kaggle's flat names."""
    cats = {f"cat.{i}.png": image(i) for i in range(10)}
    return cats | {f"dog.{i}.jpg": image(1000 + i, "JPEG") for i in range(10)}


def in_folders(counts: Mapping[str, int]) -> dict[str, bytes]:
    """Return so many cats and dogs in class folders below each of the named folders."""
    return {
        f"{folder}/{kind}/{i}.png": image(1000 * a + 100 * b + i)
        for a, (folder, count) in enumerate(counts.items())
        for b, kind in enumerate(("cats", "dogs"))
        for i in range(count)
    }


UNLABELLED = {f"test/{i}.png": image(2000 + i) for i in (10, 2, 1)}


def write_zip(path: str, members: Members) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def write_folder(path: str, members: Members) -> None:
    for name, content in members.items():
        file = Path(path, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def write_fixes(*lines: str) -> None:
    LABEL_FIXES.parent.mkdir(exist_ok=True)
    LABEL_FIXES.write_text("\n".join(["member,label,source", *lines, ""]), encoding="utf-8")


@pytest.fixture
def inputs(write_params: WriteParams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten cats, ten dogs and three images to predict, in an empty folder."""
    monkeypatch.setattr("sys.argv", ["stage"])
    write_zip("train.zip", labelled())
    write_zip("test.zip", UNLABELLED)
    write_fixes()
    write_params(
        data={"train": "train.zip", "test": "test.zip", "classes": None},
        split={"valid": 0.2, "test": 0.1, "max_rejected": 0.5},
    )


def split_well() -> tuple[Ledger, dict[str, Any]]:
    """Run a `split` that succeeds; return the rows of the ledger and the counts."""
    assert split.main() == 0
    return ledger.read_ledger(LEDGER), tables.read_json(SPLIT_METRICS, "split")


def test_the_ledger_has_one_row_per_file_in_natural_order() -> None:
    rows, counts = split_well()
    assert [(row.id, row.member, row.source, row.label, row.index) for row in rows] == [
        *((f"cat.{i}", f"cat.{i}.png", "train", "cat", 0) for i in range(10)),
        *((f"dog.{i}", f"dog.{i}.jpg", "train", "dog", 1) for i in range(10)),
        *((f"{i}", f"test/{i}.png", "test", "", -1) for i in (1, 2, 10)),
    ]
    assert {(row.width, row.height, row.mode, row.reason) for row in rows} == {(9, 6, "RGB", "")}
    assert counts == {
        "found": 23,
        "accepted": 23,
        "rejected": 0,
        "rejected_by_reason": {},
        "duplicates": 0,
        "duplicates_with_other_label": 0,
        "duplicates_across_subsets": 0,
        "near_duplicates": 0,
        "subsets": {name: {"train": 7, "valid": 2, "test": 1} for name in ("cat", "dog")},
        "unlabelled": 3,
        "beyond_per_class_limit": 0,
        "passed_over": {},
        "label_fixes": {"excluded": 0, "in_test": 0, "relabelled": 0, "unmatched": 0},
    }


def test_an_unreadable_file_is_a_row_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    write_zip("train.zip", labelled() | {"cat.5.png": b""})
    write_zip("test.zip", UNLABELLED | {"test/2.png": b""})
    rows, counts = split_well()
    assert [row.subset for row in rows[-3:]] == ["unlabelled"] * 3
    assert [row.reason for row in rows[-3:]] == ["", "empty file", ""]
    row = rows[5]
    assert (row.member, row.label, row.reason) == ("cat.5.png", "cat", "empty file")
    assert (row.subset, row.group, row.width, row.height, row.mode) == ("", "", 0, 0, "")
    assert row.sha256
    assert (counts["found"], counts["accepted"], counts["rejected"]) == (23, 21, 2)
    assert counts["rejected_by_reason"] == {"empty file": 2}
    assert "split: rejected cat.5.png: empty file\n" in capsys.readouterr().out


def test_only_the_first_ten_rejected_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    write_zip("test.zip", {f"{number}.png": b"" for number in range(12)})
    split_well()
    printed = capsys.readouterr().out
    assert "split: rejected 9.png: empty file\nsplit: and 2 more, see the ledger\n" in printed


def test_a_folder_gives_the_ledger_of_a_zip_of_the_same_files_in_another_order(
    write_params: WriteParams,
) -> None:
    train = labelled() | {"cat.5.png": b"", ".DS_Store": b"x", "Thumbs.db": b"x"}
    test = UNLABELLED | {"test/.DS_Store": b"x", "sample_submission.csv": b"id", "readme.txt": b""}
    write_zip("train.zip", dict(reversed(train.items())))
    write_zip("test.zip", test)
    _, counts = split_well()
    assert counts["passed_over"] == {".DS_Store": 2, "Thumbs.db": 1, ".csv": 1, ".txt": 1}
    assert counts["found"] == 23
    of_zips = LEDGER.read_bytes(), SPLIT_METRICS.read_bytes()
    write_folder("train", train)
    write_folder("unlabelled", test)
    write_params(data={"train": "train", "test": "unlabelled"})
    split_well()
    assert (LEDGER.read_bytes(), SPLIT_METRICS.read_bytes()) == of_zips


def test_subsets_of_the_folders_are_kept() -> None:
    write_zip("train.zip", in_folders({"train": 5, "val": 3, "test": 2}))
    rows, counts = split_well()
    expected = {"train": "train", "val": "valid", "test": "test"}
    for row in rows[:-3]:
        assert row.subset == expected[row.member.split("/")[0]]
        assert row.id == row.member.removesuffix(".png")
    of_class = {"train": 5, "valid": 3, "test": 2}
    assert counts["subsets"] == {"cats": of_class, "dogs": of_class}


def test_subsets_can_be_named_and_files_of_other_folders_are_counted(
    write_params: WriteParams, capsys: pytest.CaptureFixture[str]
) -> None:
    members = in_folders({"fold1": 5, "fold2": 3, "fold3": 2}) | {"fold1/birds/": b""}
    write_zip("train.zip", members | {"fold1/labels.csv": b"x"})
    assert split.main() == 1
    capsys.readouterr()
    subsets = {"train": "fold1", "valid": "fold2"}
    write_params(data={"subsets": subsets}, split={"test": 0})
    _, counts = split_well()
    of_class = {"train": 5, "valid": 3}
    assert counts["subsets"] == {"cats": of_class, "dogs": of_class}
    assert counts["passed_over"] == {".csv": 1, "outside data.subsets": 4}
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "split: 'fold1/labels.csv' in train.zip: not read, as names of files and folders give the "
        "labels",
        "split: class folder 'fold1/birds' holds no images",
        "split: 4 files are in folders that data.subsets does not name: not read",
    ]


def test_classes_and_label_fixes_may_have_another_unicode_form(write_params: WriteParams) -> None:
    members = {
        f"{name}.{i}.png": image(i + len(name)) for name in ("caf\u00e9", "bar") for i in (0, 9, 99)
    }
    write_zip("train.zip", members)
    write_params(data={"classes": ["cafe\u0301", "bar"]}, split={"test": 0})
    write_fixes("cafe\u0301.0.png,bar,x", "bar.0.png,cafe\u0301,x")
    rows, counts = split_well()
    assert counts["label_fixes"]["relabelled"] == 2
    assert {row.label for row in rows if row.label} == {"caf\u00e9", "bar"}


def test_copies_in_two_subset_folders_or_under_two_labels_are_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    members = in_folders({"train": 10, "test": 3})
    members["test/cats/0.png"] = members["train/cats/0.png"]
    members["train/dogs/0.png"] = members["train/cats/1.png"]
    write_zip("train.zip", members)
    rows, counts = split_well()
    assert [row.subset for row in rows if row.member == "test/cats/0.png"] == ["test"]
    assert (counts["duplicates_across_subsets"], counts["duplicates_with_other_label"]) == (1, 1)
    printed = capsys.readouterr().out
    assert "warning: 1 images are in the data under two labels" in printed
    assert "warning: 1 images have copies in another subset" in printed


def test_a_labelled_image_among_the_unlabelled_is_counted_and_an_equal_name_is_not() -> None:
    write_zip("test.zip", {"2.png": image(0), "cat.0.png": image(5000)})
    rows, counts = split_well()
    assert [row.group for row in rows[-2:]] == ["train/cat.0", "test/cat.0"]
    assert (counts["duplicates"], counts["duplicates_across_subsets"]) == (1, 1)
    assert counts["duplicates_with_other_label"] == 0


@pytest.mark.parametrize("spelling", ["both.zip", "./both.zip"])
def test_one_archive_for_both_is_read_once(spelling: str, write_params: WriteParams) -> None:
    write_zip("both.zip", {f"train/{name}": v for name, v in labelled().items()} | UNLABELLED)
    write_params(data={"train": "both.zip", "test": spelling})
    rows, counts = split_well()
    assert {row.source for row in rows} == {"train"}
    assert (counts["found"], counts["unlabelled"]) == (23, 3)
    assert [row.id for row in rows if row.subset == "unlabelled"] == ["1", "2", "10"]
    assert counts["subsets"]["cat"] == {"train": 7, "valid": 2, "test": 1}


def test_missing_label_fixes_are_refused_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    LABEL_FIXES.unlink()
    assert split.main() == 1
    assert "write one with the single line member,label,source" in capsys.readouterr().err
    assert not LEDGER.exists()
    assert not SPLIT_METRICS.exists()


def test_label_fixes_are_applied_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    before, _ = split_well()
    trained = [row for row in before if row.subset == "train"]
    cat, dog = trained[0], trained[-1]
    write_fixes(f"{cat.member},dog,x", f"{dog.member},exclude,a list", "cat.999.png,exclude,")
    rows, counts = split_well()
    changed = {row.member: (row.label, row.subset, row.fix) for row in rows if row.fix}
    assert changed == {cat.member: ("dog", "train", "dog"), dog.member: ("dog", "", "exclude")}
    assert [row for row in rows if not row.fix] == [row for row in before if row not in (cat, dog)]
    effects = {"excluded": 1, "in_test": 0, "relabelled": 1, "unmatched": 1}
    assert counts["label_fixes"] == effects
    assert counts["rejected_by_reason"] == {"excluded by label_fixes.csv: a list": 1}
    printed = capsys.readouterr().out
    assert "split: label fixes: 1 images relabelled, 1 excluded; 0 in test" in printed
    assert "split: data/label_fixes.csv: no accepted labelled image cat.999.png\n" in printed


def smooth(number: int) -> Image.Image:
    """Return an image of large shapes, which a copy keeps."""
    pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((60, 60), Image.Resampling.BICUBIC)


def test_near_duplicates_stay_in_one_subset_and_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cats = {f"cat.{i}.png": encoded(smooth(i)) for i in range(10)}
    turned = {f"cat.{100 + i}.png": encoded(ImageOps.mirror(smooth(i))) for i in range(10)}
    dogs = {f"dog.{i}.png": encoded(smooth(1000 + i)) for i in range(20)}
    write_zip("train.zip", cats | turned | dogs)
    rows, counts = split_well()
    of = {row.member: row for row in rows}
    for number in range(10):
        one, other = of[f"cat.{number}.png"], of[f"cat.{100 + number}.png"]
        assert one.subset == other.subset
        assert one.group == other.group == f"train/cat.{number}"
    assert (counts["near_duplicates"], counts["duplicates"]) == (10, 0)
    assert counts["duplicates_across_subsets"] == 0
    printed = capsys.readouterr().out
    assert "split: 10 images are nearly equal to another one" in printed
    assert "split: warning: these are 23% of all" in printed


class TestOnACluster:
    pytestmark = pytest.mark.xdist_group("cluster")

    def test_workers_judge_files_as_this_process_does(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_zip("train.zip", {**labelled(), "cat.99.png": b"no image"})
        monkeypatch.setattr(judge, "PART", 4)
        split_well()
        expected = LEDGER.read_bytes(), SPLIT_METRICS.read_bytes()
        LEDGER.unlink()
        with local_cluster() as address:
            monkeypatch.setenv("STAGES_CLUSTER", address)
            split_well()
        assert (LEDGER.read_bytes(), SPLIT_METRICS.read_bytes()) == expected
