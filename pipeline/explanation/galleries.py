"""Choose the images that `explain` shows together, and describe each of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from pipeline.evaluation.probabilities import Floats, Ints
from pipeline.runtime.errors import UserError
from pipeline.storage import ledger, tables

DECIMALS = 4
MOST_CLASSES = 6  # that get galleries of their own
CAPTIONS = {  # title and description of the galleries of `select`
    "right": ("Correct, random sample", "What a typical image looks like."),
    "wrong": ("Wrong, random sample", "What a typical error looks like."),
    "surely right": ("Most confident and correct", "What the model finds typical of the class."),
    "surely wrong": ("Most confident and wrong", "Either the model or the label is badly wrong."),
    "unsure": ("Least confident", "Where the model cannot decide."),
}
AUDITED = {  # title, note on each image and description, by the table of `audit`
    "labels": (
        *("Likely label errors", "{suggested} instead?"),
        "Models trained without these images contradict their labels.",
    ),
    "outliers": (
        "Outliers",
        "",
        "Unlike all other images: text, drawings, several animals, or none.",
    ),
    "light": ("Poor exposure or focus", "{fault}", "Blank, dark, light or blurred."),
    "copies": (
        *("Copies", "group {group}"),
        "Groups with equal or nearly equal pixels; each stays in one subset unless the folders "
        "define the subsets.",
    ),
    "alike": (
        *("Similar features", "pair {pair}"),
        "Pairs that look like copies to the network although their pixels differ.",
    ),
}

Rows = Sequence[ledger.LedgerRow]


class Gallery(NamedTuple):
    """Images shown together: rows of the pixel array, and a note on each."""

    title: str
    about: str
    rows: list[int]
    notes: list[str]


def select(
    log_probability: Floats, label: Ints, rows: Ints, classes: Sequence[str], count: int, seed: int
) -> dict[str, Ints]:
    """Select at most `count` of `rows` for each gallery by the model's confidence; drop empty ones.

        right, wrong                          drawn at random
        surely right: C, surely wrong: C      true class C, most confident first
        unsure                                highest entropy first, unlabelled images included

    C is one of the (at most `MOST_CLASSES`) classes with the most errors. Ties go to the first
    class or row. `label` is -1 for none. Random samples are sorted by row.
    """
    rows = np.sort(rows)
    log_probability, true = log_probability[rows].astype(np.float64), label[rows]
    predicted, confidence = log_probability.argmax(axis=1), log_probability.max(axis=1)
    right, wrong = predicted == true, (predicted != true) & (true >= 0)
    rng = np.random.default_rng(seed)
    galleries = {
        name: np.sort(rng.permutation(rows[mask])[:count])
        for name, mask in (("right", right), ("wrong", wrong))
    }
    present = np.unique(true[true >= 0])
    errors = np.bincount(true[wrong], minlength=len(classes))[present]
    for index in np.sort(_highest(errors, present, MOST_CLASSES)):
        for name, mask in (("surely right", right), ("surely wrong", wrong)):
            of_class = mask & (true == index)
            best = _highest(confidence[of_class], rows[of_class], count)
            galleries[f"{name}: {classes[index]}"] = best
    entropy = entr(np.exp(log_probability)).sum(axis=1)
    galleries["unsure"] = _highest(entropy, rows, count)
    return {name: selected for name, selected in galleries.items() if len(selected)}


def _highest(value: NDArray[Any], items: Ints, count: int) -> Ints:
    """Return the `count` items with the highest values, the first of equal ones."""
    return items[np.argsort(-value, kind="stable")[:count]]


def of_model(predicted: Floats, labels: ledger.Labels, count: int, seed: int) -> Iterator[Gallery]:
    """Yield galleries of correct and wrong images of `test`, or of `valid` if there is none."""
    subset = "test" if len(labels.rows("test")) else "valid"
    rows_of = select(predicted, labels.label, labels.rows(subset), labels.classes, count, seed)
    for name, rows in rows_of.items():
        kind, separator, class_name = name.partition(": ")
        title, about = CAPTIONS[kind]
        about = f"{about} From {subset}."
        yield Gallery(f"{title}{separator}{class_name}", about, rows.tolist(), [""] * len(rows))


def of_audit(folder: Path, accepted: Rows, count: int) -> Iterator[Gallery]:
    """Yield galleries of what `audit` reported, the most suspicious images first."""
    found: list[tuple[str, str, str, list[dict[str, str]]]] = []
    for table, (title, note, about) in AUDITED.items():
        lines = tables.read_csv(folder / f"{table}.csv", "audit")[:count]
        lines = [line for line in lines if line.get("likely") != "no"]
        if table == "alike":  # two images each
            lines = lines[: (count + 1) // 2]
            others = [{"source": line["other_source"], "member": line["other"]} for line in lines]
            lines = [line for pair in zip(lines, others, strict=True) for line in pair]
        found.append((title, note, about, lines))
    shown = {(line["source"], line["member"]) for *_, lines in found for line in lines}
    named = ((row.source, row.member) for row in accepted)
    row_of = {name: number for number, name in enumerate(named) if name in shown}
    for title, note, about, lines in found:
        for line in lines:
            if (line["source"], line["member"]) not in row_of:
                raise UserError(
                    f"{folder}: expected images of the ledger, got {line['member']!r}; "
                    "run `dvc repro audit` again"
                )
        rows = [row_of[line["source"], line["member"]] for line in lines]
        notes = [note.format(**line, pair=at // 2 + 1) for at, line in enumerate(lines)]
        yield Gallery(title, about, rows, notes)


def described(
    gallery: Gallery, accepted: Rows, predicted: Floats, classes: Sequence[str], mapped: set[int]
) -> dict[str, Any]:
    """Return a gallery ready for JSON; the rows in `mapped` have a heatmap."""
    images = []
    for at, note in zip(gallery.rows, gallery.notes, strict=True):
        index = int(predicted[at].argmax())
        image = _image(accepted[at], note) | {
            "subset": accepted[at].subset,
            "said": classes[index],
            "probability": round(float(np.exp(predicted[at, index])), DECIMALS),
            "picture": picture("images", at),
            "heatmap": picture("heatmaps", at) if at in mapped else None,
        }
        images.append(image)
    return {"title": gallery.title, "about": gallery.about, "images": images}


def rejected(rows: Rows, count: int) -> dict[str, Any]:
    """Return the gallery of files that were not accepted; it has no images to show."""
    bad = [row for row in rows if not row.accepted]
    about = f"{len(bad)} files were not accepted; the ledger lists all of them."
    images = [_image(row, row.reason) for row in bad[:count]]
    return {"title": "Rejected files", "about": about, "images": images}


def _image(row: ledger.LedgerRow, note: str) -> dict[str, Any]:
    names = {"member": row.member, "source": row.source, "label": row.label, "note": note}
    return names | {"picture": None, "heatmap": None, "subset": "", "said": "", "probability": None}


def picture(folder: str, row: int) -> str:
    return f"{folder}/{row}.png"


def subject(member: str | None, accepted: Rows, galleries: list[Gallery]) -> int:
    """Return the row of the image whose activations are shown: `member`, or the first drawn one."""
    if member is None:
        return galleries[0].rows[0]
    for number, row in enumerate(accepted):
        if row.member == member:
            return number
    raise UserError(
        "params.yaml: explain.image: expected the name of an image as in data/split.csv, or null, "
        f"got {member!r}; correct it"
    )
