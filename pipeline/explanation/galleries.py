"""Which images are shown together, and what is told of each: the galleries of `explain`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluation.losses import Floats
from pipeline.explanation import examples
from pipeline.runtime.errors import UserError
from pipeline.storage import ledger, tables

DECIMALS = 4
TOLD = {  # of the galleries of `examples`: title, and what it is for
    "right": ("Right, drawn at random", "What an ordinary image looks like."),
    "wrong": ("Wrong, drawn at random", "What an ordinary mistake looks like."),
    "surely right": ("Surest and right", "What the model takes for typical of the class."),
    "surely wrong": ("Surest and wrong", "Where the model, or the label, is badly wrong."),
    "unsure": ("Least sure", "Where the model does not know."),
}


class Gallery(NamedTuple):
    """Images that are shown together: rows of the store, and a note on each."""

    title: str
    about: str
    rows: list[int]
    notes: list[str]


def of_model(predicted: Floats, labels: ledger.Labels, count: int, seed: int) -> Iterator[Gallery]:
    """Of `test`, or of `valid` where there is none: what the model gets right and wrong."""
    name = "test" if len(labels.rows("test")) else "valid"
    chosen = examples.galleries(
        predicted, labels.label, labels.rows(name), labels.classes, count, seed
    )
    for key, rows in chosen.items():
        kind, _, of_class = key.partition(": ")
        title, about = TOLD[kind]
        yield Gallery(
            f"{title}: {of_class}" if of_class else title,
            f"{about} Of {name}.",
            rows.tolist(),
            [""] * len(rows),
        )


def of_audit(folder: Path, accepted: Sequence[ledger.LedgerRow], count: int) -> Iterator[Gallery]:
    """What `audit` found, the most suspicious first."""
    row_of = {(row.source, row.member): place for place, row in enumerate(accepted)}

    def read(name: str) -> list[dict[str, str]]:
        return tables.read_csv(folder / name, "audit")

    def row(line: Mapping[str, str], prefix: str = "") -> int:
        key = (line[f"{prefix}source"], line["other" if prefix else "member"])
        if key not in row_of:
            raise UserError(
                f"{folder}: expected images of the ledger, got {key[1]!r}; "
                "run `dvc repro audit` again"
            )
        return row_of[key]

    def gallery(title: str, about: str, shown: list[tuple[int, str]]) -> Gallery:
        return Gallery(title, about, [row for row, _ in shown], [note for _, note in shown])

    yield gallery(
        "Likely label errors",
        "Images whose label models that were trained without them do not believe.",
        [
            (row(line), f"rather {line['suggested']}?")
            for line in read("labels.csv")[:count]
            if line["likely"] == "yes"
        ],
    )
    yield gallery(
        "Unlike all others",
        "Text, drawings, several animals, or none.",
        [(row(line), "") for line in read("outliers.csv")[:count]],
    )
    yield gallery(
        "Bad light",
        "Blank, dark, light or blurred.",
        [(row(line), line["fault"]) for line in read("light.csv")[:count]],
    )
    yield gallery(
        "Copies",
        "Groups with the same pixels or nearly so; unless folders say otherwise, in one subset.",
        [(row(line), f"group {line['group']}") for line in read("copies.csv")[:count]],
    )
    yield gallery(
        "Alike by features",
        "Pairs that the network takes for copies, though their pixels differ.",
        [
            (place, f"pair {number}")
            for number, line in enumerate(read("alike.csv")[: (count + 1) // 2], start=1)
            for place in (row(line), row(line, "other_"))
        ],
    )


def rejected(rows: Sequence[ledger.LedgerRow], count: int) -> dict[str, Any]:
    """Files that could not be taken; there is no picture of them."""
    found = [row for row in rows if not row.accepted]
    return {
        "title": "Rejected files",
        "about": f"{len(found)} files could not be taken; the ledger has them all.",
        "images": [
            {
                **dict.fromkeys(("picture", "heatmap", "probability")),
                "member": row.member,
                "source": row.source,
                "subset": "",
                "label": row.label,
                "said": "",
                "note": row.reason,
            }
            for row in found[:count]
        ],
    }


class Cells(NamedTuple):
    """What is told of an image in a gallery."""

    accepted: Sequence[ledger.LedgerRow]
    predicted: Floats
    classes: Sequence[str]
    mapped: set[int]

    def gallery(self, gallery: Gallery) -> dict[str, Any]:
        return {
            "title": gallery.title,
            "about": gallery.about,
            "images": [
                self._cell(row, note) for row, note in zip(gallery.rows, gallery.notes, strict=True)
            ],
        }

    def _cell(self, row: int, note: str) -> dict[str, Any]:
        image, said = self.accepted[row], int(self.predicted[row].argmax())
        return {
            "picture": picture("images", row),
            "heatmap": picture("heatmaps", row) if row in self.mapped else None,
            "member": image.member,
            "source": image.source,
            "subset": image.subset,
            "label": image.label,
            "said": self.classes[said],
            "probability": round(float(np.exp(self.predicted[row, said])), DECIMALS),
            "note": note,
        }


def picture(folder: str, row: int) -> str:
    return f"{folder}/{row}.png"


def subject(
    member: str | None, accepted: Sequence[ledger.LedgerRow], galleries: list[Gallery]
) -> int:
    """The row of the image whose activations are shown."""
    if member is None:
        return galleries[0].rows[0]
    for place, row in enumerate(accepted):
        if row.member == member:
            return place
    raise UserError(
        f"params.yaml: explain.image: expected an image's name as data/split.csv has it, or null, "
        f"got {member!r}; correct it"
    )
