"""Choose the images that `explain` shows together, and describe each of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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


class Gallery(NamedTuple):
    """Images shown together: rows of the pixel array, and a note on each."""

    title: str
    about: str
    rows: list[int]
    notes: list[str]


def select(
    log_probability: Floats, label: Ints, rows: Ints, classes: Sequence[str], count: int, seed: int
) -> dict[str, Ints]:
    """Select the images of each gallery by the model's confidence; drop empty galleries.

        right, wrong                          drawn at random
        surely right: C, surely wrong: C      true class C, most confident first
        unsure                                highest entropy first, unlabelled images included

    C is one of the (at most `MOST_CLASSES`) classes with the most errors. Ties go to the first
    class or row. `label` is -1 for none; `rows` are the images to choose from, without repeats.
    Return at most `count` rows by the gallery's name; random samples are sorted by row.
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
            of_class = np.flatnonzero(mask & (true == index))
            best = _highest(confidence[of_class], of_class, count)
            galleries[f"{name}: {classes[index]}"] = rows[best]
    galleries["unsure"] = rows[_highest(entropy(log_probability), np.arange(len(rows)), count)]
    return {name: selected for name, selected in galleries.items() if len(selected)}


def entropy(log_probability: Floats) -> NDArray[np.float64]:
    """Return -sum p log p of each image in nats, float64 (n,); 0 log 0 is 0."""
    log_probability = log_probability.astype(np.float64)
    finite = np.where(np.isneginf(log_probability), 0, log_probability)
    return np.asarray(-(np.exp(log_probability) * finite).sum(axis=1))


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


def of_audit(folder: Path, accepted: Sequence[ledger.LedgerRow], count: int) -> Iterator[Gallery]:
    """Yield galleries of what `audit` reported, the most suspicious images first."""
    row_of = {(row.source, row.member): number for number, row in enumerate(accepted)}

    def row(source: str, member: str) -> int:
        if (source, member) not in row_of:
            raise UserError(
                f"{folder}: expected images of the ledger, got {member!r}; "
                "run `dvc repro audit` again"
            )
        return row_of[source, member]

    def gallery(title: str, about: str, table: str, note: str = "", **only: str) -> Gallery:
        lines = [
            line
            for line in tables.read_csv(folder / table, "audit")[:count]
            if only.items() <= line.items()
        ]
        rows = [row(line["source"], line["member"]) for line in lines]
        return Gallery(title, about, rows, [note.format_map(line) for line in lines])

    about = "Models trained without these images contradict their labels."
    yield gallery("Likely label errors", about, "labels.csv", "{suggested} instead?", likely="yes")
    about = "Unlike all other images: text, drawings, several animals, or none."
    yield gallery("Outliers", about, "outliers.csv")
    about = "Blank, dark, light or blurred."
    yield gallery("Poor exposure or focus", about, "light.csv", "{fault}")
    about = (
        "Groups with equal or nearly equal pixels; each stays in one subset unless the folders "
        "define the subsets."
    )
    yield gallery("Copies", about, "copies.csv", "group {group}")
    pairs = tables.read_csv(folder / "alike.csv", "audit")[: (count + 1) // 2]
    yield Gallery(
        "Similar features",
        "Pairs that look like copies to the network although their pixels differ.",
        [
            row(line[f"{other}source"], line[member])
            for line in pairs
            for other, member in (("", "member"), ("other_", "other"))
        ],
        [f"pair {number}" for number in range(1, len(pairs) + 1) for _ in range(2)],
    )


def described(
    gallery: Gallery,
    accepted: Sequence[ledger.LedgerRow],
    predicted: Floats,
    classes: Sequence[str],
    mapped: set[int],
) -> dict[str, Any]:
    """Return a gallery ready for JSON; the rows in `mapped` have a heatmap."""
    images = []
    for row, note in zip(gallery.rows, gallery.notes, strict=True):
        index = int(predicted[row].argmax())
        probability = round(float(np.exp(predicted[row, index])), DECIMALS)
        image = _image(accepted[row], note, said=classes[index], probability=probability)
        image |= {"subset": accepted[row].subset, "picture": picture("images", row)}
        images.append(image | {"heatmap": picture("heatmaps", row) if row in mapped else None})
    return {"title": gallery.title, "about": gallery.about, "images": images}


def rejected(rows: Sequence[ledger.LedgerRow], count: int) -> dict[str, Any]:
    """Return the gallery of files that were not accepted; it has no images to show."""
    bad = [row for row in rows if not row.accepted]
    return {
        "title": "Rejected files",
        "about": f"{len(bad)} files were not accepted; the ledger lists all of them.",
        "images": [_image(row, row.reason, said="", probability=None) for row in bad[:count]],
    }


def _image(row: ledger.LedgerRow, note: str, **prediction: object) -> dict[str, Any]:
    names = {"member": row.member, "source": row.source, "label": row.label, "note": note}
    return {"picture": None, "heatmap": None, "subset": "", **names, **prediction}


def picture(folder: str, row: int) -> str:
    return f"{folder}/{row}.png"


def subject(
    member: str | None, accepted: Sequence[ledger.LedgerRow], galleries: list[Gallery]
) -> int:
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
