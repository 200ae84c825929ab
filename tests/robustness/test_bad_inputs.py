"""Each bad input has the outcome that its page states, in the stage that reads it first."""

import functools
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bad_inputs
import bad_trees
import numpy as np
import pytest
from album import Album
from bad_images import encoded
from bad_inputs import Bad
from bad_zips import zipped
from fuzz_kinds import KINDS
from PIL import Image
from project import ROOT

from pipeline import config, paths
from pipeline.runtime.errors import UserError
from pipeline.storage import ledger

SECTIONS = bad_inputs.sections()
SENTENCES = re.compile(r"(error: [^\n]+: expected [^\n]+, got [^\n]+; [^\n]+\n)+")


@functools.cache
def image(number: int) -> bytes:
    """Return a JPEG of 64 x 48 pixels, unlike that of any other number."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels).resize((64, 48)), "JPEG")


def members() -> dict[str, bytes]:
    names = [f"{label}.{number}.jpg" for label in ("cat", "dog") for number in range(10)]
    return {name: image(number) for number, name in enumerate(names)}


@pytest.fixture
def project(album: Album) -> Album:
    """Ten cats, ten dogs and two unlabelled images in folders."""
    for name, content in members().items():
        label, number, _ = name.split(".")
        Path(f"train/{label}s").mkdir(parents=True, exist_ok=True)
        Path(f"train/{label}s/{number}.jpg").write_bytes(content)
    Path("test").mkdir()
    for unlabelled in (1, 2):
        Path(f"test/{unlabelled}.jpg").write_bytes(image(100 + unlabelled))
    data = {"train": "train", "test": "test"}
    album.change({"data": data, "split.max_rejected": 0.5, "resize.size": 8})
    album.change({"compute.instruction_set": "AVX2"})
    return album


def zip_train(project: Album, content: bytes) -> None:
    Path("train.zip").write_bytes(content)
    project.change({"data": {"train": "train.zip"}})


def refusal(printed: str) -> str:
    assert SENTENCES.fullmatch(printed), printed
    return "refused: " + re.sub("^error: ", "", printed, flags=re.MULTILINE).removesuffix("\n")


def split(project: Album) -> tuple[str, ledger.Ledger, dict[str, Any]]:
    """Run `split`: return its refusal, or its rows and counts, which add up."""
    status, _, printed = project._run("split")
    if status:
        assert not paths.LEDGER.exists()
        assert not paths.SPLIT_METRICS.exists()
        assert list(Path("data").glob(".partial-*")) == []
        return refusal(printed), ledger.Ledger(), {}
    rows = ledger.read_ledger(paths.LEDGER)
    counts = json.loads(paths.SPLIT_METRICS.read_text(encoding="utf-8"))
    accepted = sum(row.accepted for row in rows)
    assert (counts["found"], counts["accepted"]) == (len(rows), accepted)
    assert counts["rejected"] == len(rows) - accepted == sum(counts["rejected_by_reason"].values())
    in_subsets = sum(sum(by_subset.values()) for by_subset in counts["subsets"].values())
    assert in_subsets + counts["unlabelled"] == accepted
    return "", rows, counts


def of_image(project: Album, bad: Bad) -> str:
    Path("train/cats/10.jpg").write_bytes(bad.made(image(0)))
    refused, rows, _ = split(project)
    (row,) = [row for row in rows if row.member == "cats/10.jpg"]
    shown = f"accepted: {row.mode}, {row.width} x {row.height}"
    return refused or (shown if row.accepted else f"rejected: {row.reason}")


def of_source(project: Album) -> str:
    """Return the refusal, the reason of the rejected file, or how many files are accepted."""
    refused, rows, counts = split(project)
    labelled = [row for row in rows if row.source == "train"]
    accepted = sum(row.accepted for row in labelled)
    reasons = Counter(row.reason for row in labelled if not row.accepted)
    if refused or reasons:
        return refused or f"rejected: {', '.join(reasons)}"
    ignored = ", ".join(f"{count} of {kind!r}" for kind, count in counts["passed_over"].items())
    end = f", {ignored} ignored" if ignored else ""
    return f"accepted: {accepted} of {len(labelled)} files{end}"


def of_zip(project: Album, bad: Bad) -> str:
    zip_train(project, bad.made(members()))
    return of_source(project)


def of_tree(project: Album, bad: Bad) -> str:
    bad.made(Path("train"))
    return of_source(project)


def of_params(project: Album, bad: Bad) -> str:
    zip_train(project, zipped(members().items()))
    Path("params.yaml").write_bytes(bad.made(Path("params.yaml").read_text("utf-8")))
    refused, _, _ = split(project)
    return refused or f"accepted: {config.read().split.valid!r}"


def of_fixes(project: Album, bad: Bad) -> str:
    zip_train(project, zipped(members().items()))
    paths.LABEL_FIXES.write_bytes(bad.made(None))
    refused, _, counts = split(project)
    effects = [f"{count} {key}" for key, count in counts.get("label_fixes", {}).items()]
    return refused or f"accepted: {', '.join(effects)}"


def of_ledger(project: Album, bad: Bad) -> str:
    zip_train(project, zipped(members().items()))
    assert split(project)[0] == ""
    paths.LEDGER.write_bytes(bad.made(paths.LEDGER.read_text(encoding="utf-8")))
    status, _, printed = project._run("resize")
    assert paths.RESIZED.exists() == (status == 0)
    if status:
        return refusal(printed.replace(f"{Path.cwd()}/", ""))  # absolute for a cluster's workers
    return f"accepted: {sum(row.accepted for row in ledger.read_ledger(paths.LEDGER))} images"


def of_file(project: Album, bad: Bad) -> str:
    kind = KINDS[bad.about]
    content = bad.made(kind.prepare())
    try:
        return kind.read(content)
    except UserError as error:
        return refusal(f"error: {error}\n")


OUTCOME: dict[str, Callable[[Album, Bad], str]] = {
    "image": of_image,
    "zip": of_zip,
    "tree": of_tree,
    "params": of_params,
    "fixes": of_fixes,
    "ledger": of_ledger,
    "file": of_file,
}
CASES = [(kind, bad) for kind in OUTCOME for bad in SECTIONS[kind].inputs]


@pytest.mark.parametrize(("kind", "bad"), CASES, ids=[f"{kind}: {bad.name}" for kind, bad in CASES])
def test_a_bad_input_has_the_outcome_that_its_page_states(
    project: Album, kind: str, bad: Bad
) -> None:
    if bad.name == bad_trees.FORBIDDEN and os.getuid() == 0:
        pytest.skip("root may read every file")
    outcome = OUTCOME[kind](project, bad)
    assert bad.explains(outcome), f"expected {bad.outcome}\ngot      {outcome}"


def test_the_page_of_bad_inputs_is_current() -> None:
    page = (ROOT / "docs/bad_input.md").read_text(encoding="utf-8")
    assert page == bad_inputs.page(), "run `make docs`"
