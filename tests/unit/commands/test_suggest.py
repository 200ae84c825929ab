"""`pipeline suggest` chooses unlabelled images that the model is unsure of, unlike each other."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from album import LEDGER, RESIZED
from numpy.testing import assert_array_equal
from PIL import Image

from pipeline.commands import suggest
from pipeline.storage import arrays, ledger

OUT = Path("suggestions")
Run = Callable[..., SimpleNamespace]


@pytest.fixture
def run(project: Path, pipeline: Run) -> Run:
    return lambda *words: pipeline("suggest", *words)


def rewrite(change: Callable[[int, ledger.LedgerRow], ledger.LedgerRow]) -> None:
    """Change accepted rows of the ledger, which keep their files and so their features."""
    rows = ledger.read_ledger(LEDGER)
    ledger.write_ledger(LEDGER, (change(number, row) for number, row in enumerate(rows)))


def without_label(number: int, row: ledger.LedgerRow) -> ledger.LedgerRow:
    return replace(row, label="", index=-1, subset="unlabelled") if number % 2 else row


def suggested() -> list[dict[str, str]]:
    with (OUT / suggest.TABLE).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_images_are_suggested_with_pictures_and_an_empty_label_the_most_uncertain_first(
    run: Run,
) -> None:
    rewrite(without_label)
    rows = ledger.read_ledger(LEDGER)
    unlabelled = {row.member for row in rows if not row.label}
    said = run(4)
    assert said.status == 0, said.err
    lines = suggested()
    assert len(lines) == 4
    assert {line["member"] for line in lines} < unlabelled
    assert {line["label"] for line in lines} == {""}
    probability = [float(line["probability"]) for line in lines]
    assert probability == sorted(probability)
    assert said.out.startswith(f"suggest: 4 of {len(unlabelled)} unlabelled images")
    page = (OUT / suggest.PAGE).read_text(encoding="utf-8")
    images = arrays.StoredArray(RESIZED)
    members = [row.member for row in rows]
    for line in lines:
        at = members.index(line["member"])
        with Image.open(OUT / suggest.IMAGES / f"{at}.png") as shown:
            assert_array_equal(np.asarray(shown), images.read(at, at + 1)[0])
        assert f'src="images/{at}.png"' in page
    before = {path: path.read_bytes() for path in OUT.rglob("*") if path.is_file()}
    assert run(4).status == 0
    assert {path: path.read_bytes() for path in OUT.rglob("*") if path.is_file()} == before


def test_copies_are_suggested_once_and_copies_of_labelled_images_never(run: Run) -> None:
    rewrite(without_label)
    rows = list(ledger.read_ledger(LEDGER))
    unlabelled = [row for row in rows if not row.label]
    first, second, third = unlabelled[:3]
    labelled = next(row for row in rows if row.label)
    groups = {first.member: "one", second.member: "one", third.member: labelled.group}
    rewrite(lambda _, row: replace(row, group=groups.get(row.member, row.group)))
    assert run().status == 0
    members = {line["member"] for line in suggested()}
    assert members == {row.member for row in unlabelled} - {second.member, third.member}


def test_of_equally_uncertain_images_each_cluster_of_features_gives_one() -> None:
    centers = np.eye(5, 8, dtype=np.float32)[np.repeat(np.arange(5), 20)]
    noise = np.random.default_rng(0).normal(0, 0.05, centers.shape).astype(np.float32)
    chosen = suggest.diverse(centers + noise, np.full(100, 0.5), 5)
    assert sorted(chosen // 20) == [0, 1, 2, 3, 4]
    doubt = np.array([0.1, 0.9, 0.5])
    assert_array_equal(suggest.diverse(centers[:3], doubt, 3), [1, 2, 0])


def test_uncertainty_is_one_minus_the_lead_of_the_likeliest_class() -> None:
    probability = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.4, 0.2, 0.4]])
    with np.errstate(divide="ignore"):
        found = suggest.uncertainty(np.log(probability))
    np.testing.assert_allclose(found, [0.75, 0, 1])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("0",), "suggest: expected 1 image or more, got 0; change it"),
        (("--out", "data"), "suggest --out: expected a new folder or an earlier result, got 'dat"),
    ],
)
def test_arguments_that_cannot_be_are_one_sentence(
    words: tuple[str, ...], expected: str, run: Run
) -> None:
    said = run(*words)
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith(f"error: {expected}")


def test_a_run_without_unlabelled_images_is_told_where_they_belong(run: Run) -> None:
    rows = ledger.read_ledger(LEDGER)
    labelled = next(row for row in rows if row.label)
    rewrite(lambda _, row: row if row.label else replace(row, group=labelled.group))
    said = run()
    assert said.status == 1
    assert said.err.removeprefix("error: ").startswith(
        "suggest: expected unlabelled images in data.test that are no copies of labelled ones, got"
    )
    assert not OUT.exists()
