"""From small archives to a ledger, to pixels, to a submission: the stages that need no network."""

import io
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.images.decode import FORMATS
from pipeline.runtime import atomic_files
from pipeline.storage import arrays, ledger, sums
from pipeline.storage.ledger import LedgerRow
from stages import resize, split, submit

FIXES = Path("data/label_fixes.csv")
LEDGER, FIGURES = Path("data/split.csv"), Path("metrics/split.json")
RESIZED = Path("data/resized.zarr")
UNKNOWN = f"not an image of a known format ({', '.join(FORMATS)})"

Members = Mapping[str, bytes]
WriteParams = Callable[..., None]


def picture(number: int, kind: str = "PNG", size: tuple[int, int] = (9, 6)) -> bytes:
    """A small image unlike that of any other number."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def labelled(each: int = 10) -> dict[str, bytes]:
    """So many cats and dogs under Kaggle's flat names."""
    cats = {f"cat.{i}.png": picture(i) for i in range(each)}
    return cats | {f"dog.{i}.jpg": picture(1000 + i, "JPEG") for i in range(each)}


UNLABELLED = {f"test/{i}.png": picture(2000 + i) for i in (10, 2, 1)}
BAD = {"empty file": b"", UNKNOWN: b"hello", "truncated image": picture(7, "JPEG", (64, 64))[:-900]}


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
    FIXES.parent.mkdir(exist_ok=True)
    FIXES.write_text("\n".join(["member,label,source", *lines, ""]), encoding="utf-8")


@pytest.fixture(autouse=True)
def inputs(write_params: WriteParams) -> None:
    """Ten cats, ten dogs and three images to predict, in an empty folder."""
    write_zip("train.zip", labelled())
    write_zip("test.zip", UNLABELLED)
    write_fixes()
    write_params(
        data={"train": "train.zip", "test": "test.zip", "classes": None},
        split={"valid": 0.2, "test": 0.1, "max_rejected": 0.5},
        resize={"size": 8},
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """run(stage, *arguments) -> exit status, in this process."""

    def run(stage: Any, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", [stage.__name__, *map(str, arguments)])
        status: int = stage.main()
        return status

    return run


@pytest.fixture
def split_well(run: Callable[..., int]) -> Callable[[], tuple[list[LedgerRow], dict[str, Any]]]:
    """split_well() -> the ledger's rows and the figures of a `split` that succeeds."""

    def split_well() -> tuple[list[LedgerRow], dict[str, Any]]:
        assert run(split, FIXES, LEDGER, FIGURES) == 0
        return ledger.read_ledger(LEDGER), sums.read_json(FIGURES, "split")

    return split_well


@pytest.fixture
def split_refused(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """split_refused() -> the sentence of a `split` that fails and writes nothing."""

    def split_refused() -> str:
        assert run(split, FIXES, LEDGER, FIGURES) == 1
        assert not LEDGER.exists()
        assert not FIGURES.exists()
        return capsys.readouterr().err

    return split_refused


SplitWell = Callable[[], tuple[list[LedgerRow], dict[str, Any]]]
SplitRefused = Callable[[], str]


def test_the_ledger_has_one_row_a_file_in_natural_order(split_well: SplitWell) -> None:
    rows, _ = split_well()
    assert [row.member for row in rows] == [
        *(f"cat.{i}.png" for i in range(10)),
        *(f"dog.{i}.jpg" for i in range(10)),
        *(f"test/{i}.png" for i in (1, 2, 10)),
    ]
    assert [row.id for row in rows[-4:]] == ["dog.9", "1", "2", "10"]
    assert [row.source for row in rows] == ["train"] * 20 + ["test"] * 3
    assert [row.label for row in rows] == ["cat"] * 10 + ["dog"] * 10 + [""] * 3
    assert [row.index for row in rows] == [0] * 10 + [1] * 10 + [-1] * 3
    assert {(row.width, row.height, row.mode, row.reason) for row in rows} == {(9, 6, "RGB", "")}


def test_the_figures_count_each_subset(split_well: SplitWell) -> None:
    rows, figures = split_well()
    assert figures == {
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
    assert [row.subset for row in rows].count("valid") == 4


def test_splitting_again_gives_the_same_bytes(split_well: SplitWell) -> None:
    split_well()
    first = LEDGER.read_bytes(), FIGURES.read_bytes()
    split_well()
    assert (LEDGER.read_bytes(), FIGURES.read_bytes()) == first


@pytest.mark.parametrize("reason", BAD)
def test_an_unreadable_file_is_a_row_with_its_reason(
    split_well: SplitWell, capsys: pytest.CaptureFixture[str], reason: str
) -> None:
    write_zip("train.zip", labelled() | {"cat.5.png": BAD[reason]})
    rows, figures = split_well()
    row = rows[5]
    assert (row.member, row.label, row.reason) == ("cat.5.png", "cat", reason)
    assert (row.subset, row.group, row.width, row.height, row.mode) == ("", "", 0, 0, "")
    assert row.sha256
    assert (figures["found"], figures["accepted"], figures["rejected"]) == (23, 22, 1)
    assert figures["rejected_by_reason"] == {reason: 1}
    assert f"split: rejected cat.5.png: {reason}\n" in capsys.readouterr().out


def test_found_is_accepted_and_rejected_together(split_well: SplitWell) -> None:
    bad = {f"cat.{20 + i}.png": content for i, content in enumerate(BAD.values())}
    write_zip("train.zip", labelled() | bad)
    write_zip("test.zip", UNLABELLED | {"test/3.png": b"hello"})
    rows, figures = split_well()
    assert (figures["found"], figures["accepted"], figures["rejected"]) == (27, 23, 4)
    assert figures["rejected_by_reason"] == {"empty file": 1, UNKNOWN: 2, "truncated image": 1}
    assert sum(row.accepted for row in rows) == 23
    assert figures["unlabelled"] == 3


def test_a_rejected_file_to_predict_stays_unlabelled(split_well: SplitWell) -> None:
    write_zip("test.zip", UNLABELLED | {"test/2.png": b""})
    rows, _ = split_well()
    found = [(row.id, row.subset, row.reason) for row in rows[-3:]]
    assert found == [
        ("1", "unlabelled", ""),
        ("2", "unlabelled", "empty file"),
        ("10", "unlabelled", ""),
    ]


def test_more_rejected_than_screened_are_counted(
    split_well: SplitWell, capsys: pytest.CaptureFixture[str]
) -> None:
    write_zip("train.zip", labelled() | {f"cat.{i}.png": b"" for i in range(20, 32)})
    split_well()
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("split: ")]
    told = [line for line in told if " img in " not in line and "split: class" not in line]
    assert told == [
        *(f"split: rejected cat.{i}.png: empty file" for i in range(20, 30)),
        "split: and 2 more, see the ledger",
    ]


def test_too_many_rejected_are_refused_and_the_first_ten_named(
    split_refused: SplitRefused, write_params: WriteParams
) -> None:
    write_params(split={"max_rejected": 0.25})
    write_zip("train.zip", labelled() | {f"cat.{i}.png": b"" for i in range(20, 32)})
    named = ", ".join(f"cat.{i}.png (empty file)" for i in range(20, 30))
    assert split_refused() == (
        "error: split: expected at most 25.0% of the files to be rejected (split.max_rejected), "
        f"got 12 of 35: {named}; mend or remove them, or raise the limit\n"
    )


@pytest.mark.parametrize(("most", "status"), [(0.08, 0), (0.079, 1), (0, 1)])
def test_exactly_as_many_rejected_as_allowed_pass(
    run: Callable[..., int], write_params: WriteParams, most: float, status: int
) -> None:
    write_params(split={"max_rejected": most})
    write_zip("train.zip", labelled() | {f"cat.{i}.png": b"" for i in (20, 21)})  # 2 of 25
    assert run(split, FIXES, LEDGER, FIGURES) == status
    assert LEDGER.exists() == (status == 0)


def test_a_class_without_a_readable_image_is_refused(split_refused: SplitRefused) -> None:
    write_zip("train.zip", labelled() | {f"cat.{i}.png": b"" for i in range(10)})
    assert split_refused() == (
        "error: split: expected at least one readable image of class 'cat', got none; "
        "mend its files, or take them away\n"
    )


def test_a_single_class_is_refused(split_refused: SplitRefused) -> None:
    write_zip("train.zip", {f"cat.{i}.png": picture(i) for i in range(9)})
    assert split_refused() == (
        "error: train.zip: expected two classes or more, got only 'cat'; "
        "add the images of another class\n"
    )


def test_fewer_images_than_subsets_are_refused(split_refused: SplitRefused) -> None:
    write_zip("train.zip", {k: v for k, v in labelled().items() if k[:3] == "dog" or k[4] < "2"})
    assert split_refused() == (
        "error: class 'cat': expected at least one image in each of train, valid, test, "
        "got none in valid of 2 readable in all; add images of this class, or take more of them\n"
    )


def test_no_archive_is_refused(split_refused: SplitRefused) -> None:
    Path("test.zip").unlink()
    assert split_refused() == (
        "error: test.zip: expected a zip file or a folder of images, got nothing at that path; "
        "put the images there or correct the path\n"
    )


def test_what_systems_leave_behind_is_counted_in_both_archives(split_well: SplitWell) -> None:
    left = {"__MACOSX/._cat.0.png": b"x", ".DS_Store": b"x", "Thumbs.db": b"x"}
    write_zip("train.zip", labelled() | left)
    write_zip("test.zip", UNLABELLED | {"test/.DS_Store": b"x"})
    rows, figures = split_well()
    assert figures["passed_over"] == {"__MACOSX": 1, ".DS_Store": 2, "Thumbs.db": 1}
    assert (figures["found"], len(rows)) == (23, 23)


def test_the_limit_takes_the_first_of_each_class_in_natural_order(
    split_well: SplitWell, write_params: WriteParams
) -> None:
    write_params(split={"per_class_limit": 4})
    numbers = (10, 30, 1, 2, 100, 3)
    write_zip(
        "train.zip",
        {
            f"{name}.{i}.png": picture(100 * k + i)
            for k, name in ((1, "dog"), (5, "cat"))
            for i in numbers
        },
    )
    rows, figures = split_well()
    kept = [row.member for row in rows if row.source == "train"]
    assert kept == [f"{name}.{i}.png" for name in ("cat", "dog") for i in (1, 2, 3, 10)]
    assert figures["beyond_per_class_limit"] == 4
    assert figures["unlabelled"] == 3


def test_the_order_of_members_in_a_zip_changes_nothing(split_well: SplitWell) -> None:
    split_well()
    first = LEDGER.read_bytes(), FIGURES.read_bytes()
    write_zip("train.zip", dict(reversed(labelled().items())))
    write_zip("test.zip", dict(sorted(UNLABELLED.items())))
    split_well()
    assert (LEDGER.read_bytes(), FIGURES.read_bytes()) == first


def test_a_folder_gives_the_ledger_of_a_zip_of_the_same_files(
    split_well: SplitWell, write_params: WriteParams
) -> None:
    bad = {"cat.5.png": b"", ".DS_Store": b"x"}
    write_zip("train.zip", labelled() | bad)
    split_well()
    of_zips = LEDGER.read_bytes(), FIGURES.read_bytes()
    write_folder("train", labelled() | bad)
    write_folder("unlabelled", UNLABELLED)
    write_params(data={"train": "train", "test": "unlabelled"})
    split_well()
    assert (LEDGER.read_bytes(), FIGURES.read_bytes()) == of_zips


def test_subsets_of_the_folders_are_kept(split_well: SplitWell) -> None:
    members = {
        f"{folder}/{kind}/{i}.png": picture(first_number(folder, kind) + i)
        for folder, count in (("train", 5), ("val", 3), ("test", 2))
        for kind in ("cats", "dogs")
        for i in range(count)
    }
    write_zip("train.zip", members)
    rows, figures = split_well()
    expected = {"train": "train", "val": "valid", "test": "test"}
    for row in rows[:-3]:
        assert row.subset == expected[row.member.split("/")[0]]
        assert row.id == row.member.removesuffix(".png")
    assert figures["subsets"] == {
        kind: {"train": 5, "valid": 3, "test": 2} for kind in ("cats", "dogs")
    }


def first_number(folder: str, kind: str) -> int:
    return 100 * ["train", "val", "test"].index(folder) + 1000 * ["cats", "dogs"].index(kind)


def test_a_subset_that_no_folder_gives_is_drawn_from_train(split_well: SplitWell) -> None:
    members = {
        f"{folder}/{kind}/{i}.png": picture(first_number(folder, kind) + i)
        for folder, count in (("train", 10), ("test", 3))
        for kind in ("cats", "dogs")
        for i in range(count)
    }
    write_zip("train.zip", members)
    _, figures = split_well()
    assert figures["subsets"]["cats"] == {"train": 8, "valid": 2, "test": 3}


def test_copies_share_a_group_and_a_subset(split_well: SplitWell) -> None:
    members = labelled() | {f"cat.{i}.png": picture(3) for i in (4, 5, 6)}
    members |= {"dog.2.jpg": members["cat.1.png"]}
    write_zip("train.zip", members)
    rows, figures = split_well()
    by_id = {row.id: row for row in rows}
    copies = [by_id[f"cat.{i}"] for i in (3, 4, 5, 6)]
    assert {row.group for row in copies} == {"train/cat.3"}
    assert len({row.subset for row in copies}) == 1
    assert by_id["dog.2"].group == "train/cat.1"
    assert by_id["dog.2"].subset == by_id["cat.1"].subset
    assert figures["duplicates"] == 4
    assert figures["duplicates_with_other_label"] == 1
    assert figures["duplicates_across_subsets"] == 0


def test_copies_that_folders_put_in_two_subsets_are_counted(split_well: SplitWell) -> None:
    members = {
        f"{folder}/{kind}/{i}.png": picture(first_number(folder, kind) + i)
        for folder, count in (("train", 10), ("test", 3))
        for kind in ("cats", "dogs")
        for i in range(count)
    }
    members["test/cats/0.png"] = members["train/cats/0.png"]
    write_zip("train.zip", members)
    rows, figures = split_well()
    assert figures["duplicates_across_subsets"] == 1
    assert [row.subset for row in rows if row.member == "test/cats/0.png"] == ["test"]


def test_equal_names_in_both_archives_are_no_duplicates(split_well: SplitWell) -> None:
    write_zip("test.zip", {"cat.0.png": picture(5000), "cat.1.png": picture(5001)})
    rows, figures = split_well()
    assert [row.id for row in rows].count("cat.0") == 2
    assert figures["duplicates"] == 0
    assert figures["duplicates_across_subsets"] == 0


def test_a_labelled_image_among_those_to_predict_is_counted(split_well: SplitWell) -> None:
    write_zip("test.zip", UNLABELLED | {"test/2.png": picture(0)})
    rows, figures = split_well()
    assert rows[-2].group == "train/cat.0"
    assert rows[-2].subset == "unlabelled"
    assert (figures["duplicates"], figures["duplicates_across_subsets"]) == (1, 1)
    assert figures["duplicates_with_other_label"] == 0


def test_one_archive_for_both_is_read_once(
    split_well: SplitWell, write_params: WriteParams
) -> None:
    write_params(data={"test": "train.zip"})
    rows, figures = split_well()
    assert {row.source for row in rows} == {"train"}
    assert (figures["found"], figures["unlabelled"]) == (20, 0)


def test_one_archive_may_hold_training_images_and_those_to_predict(
    split_well: SplitWell, write_params: WriteParams
) -> None:
    write_zip("all.zip", {f"train/{name}": v for name, v in labelled().items()} | UNLABELLED)
    write_params(data={"train": "all.zip", "test": "all.zip"})
    rows, figures = split_well()
    assert (figures["found"], figures["unlabelled"]) == (23, 3)
    unlabelled = [row.id for row in rows if row.subset == "unlabelled"]
    assert unlabelled == ["1", "2", "10"]
    assert figures["subsets"]["cat"] == {"train": 7, "valid": 2, "test": 1}


def test_a_stray_file_beside_the_class_folders_is_a_rejected_row(split_well: SplitWell) -> None:
    members = {f"{name[:3]}s/{name}": content for name, content in labelled().items()}
    write_zip("train.zip", members | {"readme.txt": b"hello", "zebra.png": picture(1)})
    rows, figures = split_well()
    strays = [row for row in rows if not row.accepted]
    reason = "no label: it lies outside the folders of the classes"
    assert [(row.member, row.label, row.index, row.subset, row.reason) for row in strays] == [
        ("readme.txt", "", -1, "", reason),
        ("zebra.png", "", -1, "", reason),
    ]
    assert figures["rejected_by_reason"] == {reason: 2}
    assert figures["accepted"] == 23


@pytest.mark.parametrize("order", [["dog", "cat"], ["cat", "dog"]])
def test_labels_are_numbered_in_the_order_of_the_classes(
    split_well: SplitWell, write_params: WriteParams, order: list[str]
) -> None:
    write_params(data={"classes": order})
    rows, _ = split_well()
    assert {(row.label, row.index) for row in rows if row.label} == {(order[0], 0), (order[1], 1)}
    assert ledger.labels(rows).classes == tuple(order)


def test_another_seed_gives_another_split_of_the_same_images(
    split_well: SplitWell, write_params: WriteParams
) -> None:
    first, _ = split_well()
    write_params(split={"seed": 1})
    second, _ = split_well()
    assert [row.subset for row in first] != [row.subset for row in second]
    assert ledger.fingerprint(first) == ledger.fingerprint(second)


def test_resize_writes_the_accepted_rows_in_the_order_of_the_ledger(
    split_well: SplitWell, run: Callable[..., int]
) -> None:
    plain = {f"test/{i}.png": solid(i) for i in (1, 2, 10)}
    write_zip("train.zip", labelled() | {"cat.5.png": b""})
    write_zip("test.zip", plain)
    rows, _ = split_well()
    assert run(resize, LEDGER, RESIZED) == 0
    stored = arrays.StoredArray(RESIZED, ledger.fingerprint(rows))
    assert stored.shape == (22, 8, 8, 3)
    assert stored.dtype == np.uint8
    for place, value in zip((19, 20, 21), (1, 2, 10), strict=True):
        np.testing.assert_array_equal(stored.read(place, place + 1), np.full((1, 8, 8, 3), value))


def solid(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 6), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("change", ["other bytes", "member gone", "no image"])
def test_resize_refuses_a_member_that_changed_since_split(
    split_well: SplitWell,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    change: str,
) -> None:
    """Also when its row is known no more; one that is known is what the ledger tells."""
    split_well()
    assert run(resize, LEDGER, RESIZED) == 0
    before = (RESIZED / "zarr.json").read_bytes()
    members = labelled()
    if change == "member gone":
        del members["dog.3.jpg"]
    else:
        members["dog.3.jpg"] = picture(9999) if change == "other bytes" else b""
    write_zip("train.zip", members)
    assert run(resize, LEDGER, RESIZED) == 0
    assert "0 computed, 23 known before\n" in capsys.readouterr().out
    shutil.rmtree("data/.rows")
    assert run(resize, LEDGER, RESIZED) == 1
    assert capsys.readouterr().err == (
        "error: train.zip member dog.3.jpg: expected the bytes that `split` judged, got others or "
        "none; run `dvc repro` to judge what is there now\n"
    )
    assert (RESIZED / "zarr.json").read_bytes() == before
    assert not list(RESIZED.parent.glob(".partial-*"))


@pytest.mark.parametrize("stage", [resize, submit])
def test_a_stage_without_the_ledger_names_the_stage_that_writes_it(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], stage: Any
) -> None:
    others = ["data/head", "data/model", "metrics/evaluate.json"] if stage is submit else []
    assert run(stage, LEDGER, *others, "out") == 1
    assert capsys.readouterr().err == (
        "error: data/split.csv: expected the output of `split`, got nothing at that path; "
        "run `dvc repro split` first\n"
    )
    assert not Path("out").exists()


OUT = Path("data/submission.csv")


def image(id_: str, label: str = "", index: int = -1, reason: str = "") -> LedgerRow:
    source, subset = ("train", "train") if label else ("test", "unlabelled")
    member = f"{id_}.png"
    return LedgerRow(id_, source, member, label, index, subset, id_, 9, 6, "RGB", id_, reason)


def ledger_of(
    classes: list[str], reasons: Mapping[str, str] = MappingProxyType({})
) -> list[LedgerRow]:
    """Three training images of the first class and one of each other; 1, 2 and 10 to predict."""
    return [
        *(image(f"{classes[0]}.{i}", classes[0], 0) for i in (0, 1)),
        *(image(f"{name}.2", name, index) for index, name in enumerate(classes)),
        *(image(id_, reason=reasons.get(id_, "")) for id_ in ("1", "2", "10")),
    ]


def write_predictions(
    rows: list[LedgerRow], unlabelled: Sequence[Sequence[float]], chosen: str
) -> None:
    """Write both models' log-probabilities; the one that is not chosen says 0.5 of everything."""
    ledger.write_ledger(LEDGER, rows)
    classes = len(unlabelled[0])
    accepted = [row for row in rows if row.accepted]
    told = np.full((len(accepted), classes), 1 / classes)
    told[-len(unlabelled) :] = unlabelled
    for folder, name in (("head", "head"), ("model", "fine_tune")):
        probability = told if name == chosen else np.full_like(told, 0.5)
        with np.errstate(divide="ignore"):
            logs = np.log(probability).astype(np.float32)
        arrays.write(
            Path("data", folder, "predictions.zarr"),
            [logs],
            shape=logs.shape,
            dtype=np.float32,
            fingerprint=ledger.fingerprint(rows),
        )
    found = {"chosen": chosen, "temperature": 1.0, "clip": 0.01}
    atomic_files.write_json(Path("metrics/evaluate.json"), found)


EVEN = [[0.5, 0.5]] * 3
ARGUMENTS = (LEDGER, "data/head", "data/model", "metrics/evaluate.json", OUT)


@pytest.mark.parametrize("chosen", ["head", "fine_tune"])
def test_a_submission_of_two_classes_holds_the_second_class_of_the_chosen_model(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], chosen: str
) -> None:
    rows = ledger_of(["cat", "dog"])
    write_predictions(rows, [[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]], chosen)
    assert run(submit, *ARGUMENTS) == 0
    assert OUT.read_bytes() == b"id,label\n1,0.250000\n2,0.500000\n10,0.875000\n"
    assert (
        f"submit: 3 rows by {chosen} in {OUT}, none nearer to 0 or 1 than 0.01\n"
        in capsys.readouterr().out
    )


def test_no_probability_is_nearer_to_0_or_1_than_the_clip(
    run: Callable[..., int], write_params: WriteParams
) -> None:
    write_params(submit={"clip": 0.02})
    write_predictions(ledger_of(["cat", "dog"]), [[0, 1], [1, 0], [0.03, 0.97]], "head")
    assert run(submit, *ARGUMENTS) == 0
    assert OUT.read_bytes() == b"id,label\n1,0.980000\n2,0.020000\n10,0.970000\n"


def test_the_clip_and_the_temperature_are_those_that_evaluate_has_found(
    run: Callable[..., int],
) -> None:
    write_predictions(ledger_of(["cat", "dog"]), [[0, 1], [0.9, 0.1], [0.5, 0.5]], "head")
    found = {"chosen": "head", "temperature": 2.0, "clip": 0.125}
    atomic_files.write_json(Path("metrics/evaluate.json"), found)
    assert run(submit, *ARGUMENTS) == 0
    # 0.1 is odds of 1/9; at a temperature of 2 they are 1/3.
    assert OUT.read_bytes() == b"id,label\n1,0.875000\n2,0.250000\n10,0.500000\n"


def test_a_clip_of_zero_leaves_the_probabilities(
    run: Callable[..., int], write_params: WriteParams
) -> None:
    write_params(submit={"clip": 0})
    write_predictions(ledger_of(["cat", "dog"]), [[0, 1], [1, 0], [0.03, 0.97]], "head")
    assert run(submit, *ARGUMENTS) == 0
    assert OUT.read_bytes() == b"id,label\n1,1.000000\n2,0.000000\n10,0.970000\n"


def test_a_submission_of_three_classes_has_a_column_each_that_sum_to_one(
    run: Callable[..., int], write_params: WriteParams
) -> None:
    write_params(submit={"clip": 0.1})
    told = [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.1, 0.2, 0.7]]
    write_predictions(ledger_of(["dog", "cat", "bird"]), told, "fine_tune")
    assert run(submit, *ARGUMENTS) == 0
    assert OUT.read_text(encoding="utf-8").splitlines() == [
        "id,dog,cat,bird",
        "1,0.466667,0.266667,0.266667",
        "2,0.866667,0.066667,0.066667",
        "10,0.146667,0.226667,0.626667",
    ]


def test_a_rejected_image_gets_the_training_prior_and_is_named(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ledger_of(["cat", "dog"], {"2": "truncated image"})
    write_predictions(rows, [[0.75, 0.25], [0.125, 0.875]], "head")
    assert run(submit, *ARGUMENTS) == 0
    assert OUT.read_bytes() == b"id,label\n1,0.250000\n2,0.250000\n10,0.875000\n"
    assert capsys.readouterr().out.startswith(
        "submit: 2.png was rejected (truncated image); it gets the prior\n"
        f"submit: 3 rows by head in {OUT}, none nearer to 0 or 1 than 0.01\n"
    )


def test_a_rejected_image_gets_the_prior_of_three_classes(run: Callable[..., int]) -> None:
    rows = ledger_of(["dog", "cat", "bird"], {"10": "empty file"})
    write_predictions(rows, [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], "head")
    assert run(submit, *ARGUMENTS) == 0
    last = OUT.read_text(encoding="utf-8").splitlines()[-1]
    assert last == "10,0.594667,0.202667,0.202667"


def test_predictions_of_another_ledger_are_refused(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ledger_of(["cat", "dog"])
    write_predictions(rows, EVEN, "head")
    ledger.write_ledger(LEDGER, rows[1:])
    assert run(submit, *ARGUMENTS) == 1
    assert capsys.readouterr().err == (
        "error: data/head/predictions.zarr: expected the rows of the data/split.csv that stands "
        "there now, got 7 rows of another one; run `dvc repro` to make it anew\n"
    )
    assert not OUT.exists()


@pytest.mark.parametrize(("chosen", "folder"), [("head", "head"), ("fine_tune", "model")])
def test_missing_predictions_name_the_stage_that_writes_them(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], chosen: str, folder: str
) -> None:
    write_predictions(ledger_of(["cat", "dog"]), EVEN, chosen)
    shutil.rmtree(Path("data", folder))
    stage = "train_head" if chosen == "head" else "fine_tune"
    assert run(submit, *ARGUMENTS) == 1
    assert capsys.readouterr().err == (
        f"error: data/{folder}/predictions.zarr: expected the output of `{stage}`, got nothing at "
        f"that path; run `dvc repro {stage}` first\n"
    )


def test_a_submission_of_many_classes_still_tells_them_apart(
    run: Callable[..., int], write_params: WriteParams
) -> None:
    write_params(submit={"clip": 0.01})
    classes = [f"breed {i}" for i in range(120)]
    sure = [0.99, *([0.01 / 119] * 119)]
    write_predictions(ledger_of(classes), [sure, sure, sure], "head")
    assert run(submit, *ARGUMENTS) == 0
    values = [
        float(value) for value in OUT.read_text(encoding="utf-8").split("\n")[1].split(",")[1:]
    ]
    assert values[0] == pytest.approx(0.98 * 0.99 + 0.02 / 120, abs=1e-6)
    assert sum(values) == pytest.approx(1, abs=1e-4)


def test_the_same_input_under_two_spellings_is_read_once(
    write_params: WriteParams, split_well: SplitWell
) -> None:
    write_zip("both.zip", labelled() | UNLABELLED)
    write_params(data={"train": "both.zip", "test": "./both.zip"})
    assert split_well()[1]["found"] == len(labelled()) + len(UNLABELLED)


def test_unlabelled_images_of_one_id_in_both_inputs_are_refused(
    write_params: WriteParams, split_refused: SplitRefused
) -> None:
    train = {f"train/{name}": content for name, content in labelled().items()}
    write_zip("train.zip", train | UNLABELLED)
    write_zip("test.zip", UNLABELLED)
    write_params(data={"train": "train.zip", "test": "test.zip"})
    assert split_refused() == (
        "error: split: expected each unlabelled image to have an id of its own, got '1' in "
        "data.train and in data.test; take the unlabelled images out of data.train\n"
    )


def test_copies_in_two_given_subsets_or_under_two_labels_are_warned_of(
    write_params: WriteParams, split_well: SplitWell, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {
        f"{subset}/{label}/{i}.png": picture(
            len(subset) * 100
            + len(label + subset[0]) * 7
            + ord(label[0])
            + ord(subset[1]) * 1000
            + 10**6 * i
        )
        for subset in ("train", "valid", "test")
        for label in ("cat", "dog")
        for i in range(3)
    }
    members["test/cat/copy.png"] = members["train/cat/0.png"]
    members["train/dog/copy.png"] = members["train/cat/1.png"]
    write_zip("train.zip", members)
    write_params(data={"train": "train.zip", "test": "train.zip"})
    split_well()
    printed = capsys.readouterr().out
    where = "group in the ledger tells which"
    assert f"warning: 1 images that are in the data under two labels; {where}" in printed
    assert f"warning: 1 images of which copies lie in different subsets; {where}" in printed


def of_subset(rows: list[LedgerRow], label: str, subset: str) -> LedgerRow:
    return next(row for row in rows if (row.label, row.subset) == (label, subset))


def test_label_fixes_correct_and_take_out_what_trains_and_mark_what_is_tested(
    split_well: SplitWell, capsys: pytest.CaptureFixture[str]
) -> None:
    before, _ = split_well()
    cat, dog = of_subset(before, "cat", "train"), of_subset(before, "dog", "valid")
    tested = of_subset(before, "cat", "test")
    write_fixes(
        f"{cat.member},dog,a friend", f"{dog.member},exclude,a list", f"{tested.member},dog,x"
    )
    capsys.readouterr()
    rows, figures = split_well()
    now = {row.member: row for row in rows}
    told = now[cat.member]
    assert (told.label, told.index, told.subset, told.fix) == ("dog", 1, "train", "dog")
    told = now[dog.member]
    assert (told.reason, told.subset) == ("excluded by label_fixes.csv: a list", "")
    assert (now[tested.member].label, now[tested.member].fix) == ("cat", "dog")
    changed = {cat.member, dog.member, tested.member}
    assert [row for row in rows if row.member not in changed] == [
        row for row in before if row.member not in changed
    ]
    assert figures["label_fixes"] == {
        "excluded": 1,
        "in_test": 1,
        "relabelled": 1,
        "unmatched": 0,
    }
    assert figures["found"] == figures["accepted"] + figures["rejected"]
    assert figures["rejected_by_reason"] == {"excluded by label_fixes.csv: a list": 1}
    assert (
        "split: label fixes: 1 images relabelled, 1 excluded; 1 in test, which keep their labels\n"
        in capsys.readouterr().out
    )


def test_without_label_fixes_nothing_is_said_of_them(
    split_well: SplitWell, capsys: pytest.CaptureFixture[str]
) -> None:
    _, figures = split_well()
    assert set(figures["label_fixes"].values()) == {0}
    assert "label fixes" not in capsys.readouterr().out


def test_a_fix_of_a_file_that_is_not_there_is_counted_and_named(
    split_well: SplitWell, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fixes("cat.999.png,exclude,a list")
    _, figures = split_well()
    assert figures["label_fixes"]["unmatched"] == 1
    assert (
        "split: data/label_fixes.csv names cat.999.png, of which there is no accepted labelled "
        "image\n"
    ) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            ["cat.1.png,bird,x"],
            "data/label_fixes.csv: cat.1.png: expected as label 'exclude' or one of cat, dog, got "
            "'bird'; correct that line",
        ),
        (
            ["cat.1.png,dog"],
            "data/label_fixes.csv line 2: expected member, label and source, got 'cat.1.png,dog'; "
            "correct it",
        ),
        (
            ["cat.1.png,dog,x", "cat.1.png,exclude,y"],
            "data/label_fixes.csv: cat.1.png: expected one line about it, got two; remove one",
        ),
    ],
)
def test_a_bad_label_fix_is_refused(
    split_refused: SplitRefused, lines: list[str], sentence: str
) -> None:
    write_fixes(*lines)
    assert split_refused() == f"error: {sentence}\n"


def test_label_fixes_without_their_header_are_refused(split_refused: SplitRefused) -> None:
    FIXES.write_text("cat.1.png,dog,x\n", encoding="utf-8")
    assert split_refused() == (
        "error: data/label_fixes.csv: expected the header member,label,source, got "
        "'cat.1.png,dog,x'; put it into the first line\n"
    )


def test_label_fixes_that_are_no_utf_8_are_refused(split_refused: SplitRefused) -> None:
    FIXES.write_bytes("member,label,source\ncat.1.png,dog,Zo\u00eb\n".encode("latin-1"))
    assert split_refused() == (
        "error: data/label_fixes.csv: expected a csv in UTF-8, got a byte that is none at 36; "
        "save it so\n"
    )


def test_no_file_of_label_fixes_is_told_with_what_would_do(split_refused: SplitRefused) -> None:
    FIXES.unlink()
    assert split_refused() == (
        "error: data/label_fixes.csv: expected known faults of labels, got no such file; a file "
        "with the one line member,label,source says that there are none\n"
    )


def smooth(number: int) -> Image.Image:
    """A picture with large shapes, which a copy of it keeps."""
    pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((60, 60), Image.Resampling.BICUBIC)


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def with_mirrored_cats() -> dict[str, bytes]:
    cats = {f"cat.{i}.png": as_png(smooth(i)) for i in range(10)}
    turned = {f"cat.{100 + i}.png": as_png(ImageOps.mirror(smooth(i))) for i in range(10)}
    return cats | turned | {f"dog.{i}.png": as_png(smooth(1000 + i)) for i in range(20)}


def test_near_duplicates_stay_in_one_subset_and_are_counted(
    split_well: SplitWell, capsys: pytest.CaptureFixture[str]
) -> None:
    write_zip("train.zip", with_mirrored_cats())
    rows, figures = split_well()
    of = {row.member: row for row in rows}
    for number in range(10):
        one, other = of[f"cat.{number}.png"], of[f"cat.{100 + number}.png"]
        assert one.subset == other.subset
        assert one.group == other.group == f"train/cat.{number}"
    assert (figures["near_duplicates"], figures["duplicates"]) == (10, 0)
    assert figures["duplicates_across_subsets"] == 0
    told = capsys.readouterr().out
    assert (
        "split: 10 images are nearly the same as another one; a group lies in one subset\n"
        "split: warning: these are 23% of all; if they are no copies, but images that are all "
        "alike, raise split.near_duplicates, or set it to null\n"
    ) in told


def test_without_near_duplicates_only_exact_copies_are_a_group(
    write_params: WriteParams, split_well: SplitWell
) -> None:
    write_zip("train.zip", with_mirrored_cats())
    write_params(
        data={"train": "train.zip", "test": "test.zip", "classes": None},
        split={"valid": 0.2, "test": 0.1, "max_rejected": 0.5, "near_duplicates": None},
    )
    rows, figures = split_well()
    assert len({row.group for row in rows}) == len(rows)
    assert figures["near_duplicates"] == 0


def test_the_names_of_near_duplicates_move_nothing(split_well: SplitWell) -> None:
    members = with_mirrored_cats()
    write_zip("train.zip", members)
    before = {row.sha256: row.subset for row in split_well()[0]}
    names = [name for name in members if name.startswith("cat")]
    turned = dict(zip(names, [members[name] for name in reversed(names)], strict=True))
    write_zip("train.zip", turned | {n: c for n, c in members.items() if n not in turned})
    assert {row.sha256: row.subset for row in split_well()[0]} == before
