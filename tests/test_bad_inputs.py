"""Each bad input comes to what its page says, through the stage that meets it first."""

import functools
import importlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bad_inputs
import bad_tables
import numpy as np
import pytest
from bad_images import encoded
from bad_inputs import Bad
from bad_zips import zipped
from fuzz_kinds import KINDS
from PIL import Image

from pipeline import config
from pipeline.runtime.errors import UserError
from pipeline.storage import ledger

ROOT = Path(__file__).parents[1]
FIXES = Path("data/label_fixes.csv")
LEDGER, FIGURES = Path("data/split.csv"), Path("metrics/split.json")
SETTINGS = {
    "train: data/sample/train.zip": "train: train",
    "test: data/sample/test.zip": "test: test",
    "max_rejected: 0.01": "max_rejected: 0.5",
    "size: 64": "size: 8",
}
SECTIONS = bad_inputs.sections()

Run = Callable[..., tuple[int, str]]


@functools.cache
def picture(number: int) -> bytes:
    """A JPEG of 64 x 48 pixels unlike any other."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels).resize((64, 48)), "JPEG")


def members() -> dict[str, bytes]:
    names = [f"{label}.{number}.jpg" for label in ("cat", "dog") for number in range(10)]
    return {name: picture(number) for number, name in enumerate(names)}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run(stage, *arguments) -> exit status and what it tells on stderr, in a good project."""
    monkeypatch.chdir(tmp_path)
    for name, content in members().items():
        label, number, _ = name.split(".")
        Path(f"train/{label}s").mkdir(parents=True, exist_ok=True)
        Path(f"train/{label}s/{number}.jpg").write_bytes(content)
    Path("test").mkdir()
    for unlabelled in (1, 2):
        Path(f"test/{unlabelled}.jpg").write_bytes(picture(100 + unlabelled))
    FIXES.parent.mkdir()
    FIXES.write_text("member,label,source\n", encoding="utf-8")
    Path("params.yaml").write_text(parameters(), encoding="utf-8")

    def run(stage: str, *words: object) -> tuple[int, str]:
        capsys.readouterr()
        with monkeypatch.context() as changed:
            changed.setattr(sys, "argv", [stage, *map(str, words)])
            status = importlib.import_module(f"stages.{stage}").main()
        return status, capsys.readouterr().err

    return run


def parameters() -> str:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for old, new in SETTINGS.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def in_a_zip(content: bytes | None = None) -> None:
    """The labelled images as `train.zip`: those bytes, or good ones."""
    Path("train.zip").write_bytes(zipped(members().items()) if content is None else content)
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("train: train", "train: train.zip"), "utf-8")


def split(run: Run) -> tuple[str, list[ledger.LedgerRow], dict[str, Any]]:
    """What `split` refuses with, or no word and the ledger, which adds up, and its figures."""
    status, told = run("split", FIXES, LEDGER, FIGURES)
    if status:
        assert (LEDGER.exists(), FIGURES.exists()) == (False, False)
        assert list(Path("data").glob(".partial-*")) == []
        return told, [], {}
    rows, figures = ledger.read_ledger(LEDGER), json.loads(FIGURES.read_text(encoding="utf-8"))
    accepted = sum(row.accepted for row in rows)
    assert figures["found"] == len(rows)
    assert figures["accepted"] == accepted
    assert figures["rejected"] == len(rows) - accepted
    assert sum(figures["rejected_by_reason"].values()) == figures["rejected"]
    given = sum(sum(of_class.values()) for of_class in figures["subsets"].values())
    assert given + figures["unlabelled"] == accepted
    return told, rows, figures


def refused(told: str) -> str:
    return "refused: " + told.removesuffix("\n").removeprefix("error: ").replace("\nerror: ", "\n")


def outcome(run: Run, about: str) -> str:
    """Of `split`: the sentence, the row of the member `about`, or how many are used."""
    told, rows, figures = split(run)
    if told:
        return refused(told)
    for row in rows:
        if row.member == about:
            shown = f"accepted: {row.mode}, {row.width} x {row.height}"
            return shown if row.accepted else f"rejected: {row.reason}"
    assert not about, [row.member for row in rows]
    labelled = [row for row in rows if row.source == "train"]
    used = sum(row.accepted for row in labelled)
    over = [f", {count} of {kind!r} passed over" for kind, count in figures["passed_over"].items()]
    return f"accepted: {used} of {len(labelled)} files{''.join(over)}"


def of_image(run: Run, bad: Bad) -> str:
    content = bad.make(picture(0))
    assert content is not None
    Path("train/cats/10.jpg").write_bytes(content)
    return outcome(run, "cats/10.jpg")


def of_zip(run: Run, bad: Bad) -> str:
    in_a_zip(bad.make(members()))
    return outcome(run, bad.about)


def of_tree(run: Run, bad: Bad) -> str:
    bad.make(Path("train"))
    return outcome(run, bad.about)


def of_params(run: Run, bad: Bad) -> str:
    in_a_zip()
    content = bad.make(Path("params.yaml").read_text(encoding="utf-8"))
    assert content is not None
    Path("params.yaml").write_bytes(content)
    told, _, _ = split(run)
    if told:
        return refused(told)
    value: Any = config.read()
    for key in bad.about.split("."):
        value = getattr(value, key)
    return f"accepted: {value!r}"


def of_fixes(run: Run, bad: Bad) -> str:
    in_a_zip()
    content = bad.make(None)
    assert content is not None
    FIXES.write_bytes(content)
    told, _, figures = split(run)
    counts = ", ".join(f"{count} {key}" for key, count in figures.get("label_fixes", {}).items())
    return refused(told) if told else f"accepted: {counts}"


def of_ledger(run: Run, bad: Bad) -> str:
    in_a_zip()
    assert split(run)[0] == ""
    text = LEDGER.read_text(encoding="utf-8")
    if bad.name not in bad_tables.WITH_SUMS:  # a sum would notice them all before anything else
        text = re.sub(",[^,\n]*\n", "\n", text)
    content = bad.make(text)
    assert content is not None
    LEDGER.write_bytes(content)
    out = Path("data/resized.zarr")
    status, told = run("resize", LEDGER, out)
    told = told.replace(f"{Path.cwd()}/", "")  # made whole for workers of a cluster
    told = re.sub(r"\b[0-9a-f]{64}\b", "SHA256", told)
    told = re.sub(r",[0-9a-f]{8}'", ",SUM'", told)
    assert out.exists() == (status == 0)
    images = sum(row.accepted for row in ledger.read_ledger(LEDGER)) if status == 0 else 0
    return refused(told) if status else f"accepted: {images} images"


def of_file(run: Run, bad: Bad) -> str:
    kind = KINDS[bad.about]
    content = bad.make(kind.prepare())
    assert content is not None
    try:
        return kind.read(content)
    except UserError as error:
        # The words of zarr and numpy change with their versions.
        words = r"(a zarr array|their checksum|digests of its rows|arrays of a head), got .*; "
        return "refused: " + re.sub(words, r"\1, got ...; ", str(error))


OF: dict[str, Callable[[Run, Bad], str]] = {
    "image": of_image,
    "zip": of_zip,
    "tree": of_tree,
    "params": of_params,
    "fixes": of_fixes,
    "ledger": of_ledger,
    "file": of_file,
}
CASES = [(kind, bad) for kind in OF for bad in SECTIONS[kind].inputs]


@pytest.mark.parametrize(("kind", "bad"), CASES, ids=[f"{kind}: {bad.name}" for kind, bad in CASES])
def test_a_bad_input_comes_to_what_its_page_says(run: Run, kind: str, bad: Bad) -> None:
    if bad.name == "no permission" and os.getuid() == 0:
        pytest.skip("root may read every file")
    assert OF[kind](run, bad) == bad.outcome


def test_there_are_enough_of_them_each_with_a_name_of_its_own() -> None:
    names = [(kind, bad.name) for kind, bad in CASES]
    assert len(names) == len(set(names)) > 200
    assert {kind for kind, _ in CASES} == SECTIONS.keys()


def test_the_page_of_bad_inputs_is_written_from_them() -> None:
    assert (ROOT / "docs/BAD_INPUT.md").read_text(encoding="utf-8") == bad_inputs.page()
