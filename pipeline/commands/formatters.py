"""Formats of predictions: a table, CSV or JSON, written line by line as they come.

File names come from outside: the table and CSV escape what would control a terminal.
"""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOP = 5  # ImageNet classes
Named = tuple[str, float]  # a class and its probability


@dataclass(frozen=True, slots=True)
class Prediction:
    """The result for one file."""

    name: str  # unescaped
    probability: NDArray[np.float64] | None = None  # (n_classes,); None if the file is no image
    error: str = ""  # why it is none
    imagenet: Sequence[Named] = ()  # the backbone's own `TOP` classes, if requested


Predictions = Iterable[Prediction]


def printable(text: str) -> str:
    """Escape control characters, unusual spaces and broken encodings."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def write_table(predictions: Predictions, classes: Sequence[str], names: Iterable[str]) -> None:
    """Print aligned columns: file, as wide as all `names`, class, probability, ImageNet classes."""
    classes = [printable(name) for name in classes]
    width = max(len("file"), *(len(printable(name)) for name in names), 0)
    class_width = max(len("class"), *map(len, classes))
    print(f"{'file':{width}}  {'class':{class_width}}  probability")
    for one in predictions:
        if one.probability is None:
            continue
        best = int(one.probability.argmax())
        own = "".join(f"  {name} {value:.4f}" for name, value in one.imagenet)
        label = f"{classes[best]:{class_width}}  {one.probability[best]:11.4f}{own}"
        print(f"{printable(one.name):{width}}  {label}")


def write_csv(predictions: Predictions, classes: Sequence[str], imagenet: bool) -> None:
    """Print file, class, probability, a column per class, ImageNet classes, error."""
    classes = [printable(name) for name in classes]
    ranks = range(1, TOP * imagenet + 1)
    own = [f"imagenet_{rank}{suffix}" for rank in ranks for suffix in ("", "_probability")]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "class", "probability", *classes, *own, "error"])
    for one in predictions:
        name = printable(one.name)
        if one.probability is None:
            writer.writerow([name, *[""] * (2 + len(classes) + len(own)), one.error])
            continue
        best = int(one.probability.argmax())
        values = [f"{value:.6f}" for value in one.probability]
        top = [cell for label, value in one.imagenet for cell in (label, f"{value:.6f}")]
        writer.writerow([name, classes[best], values[best], *values, *top, ""])


def write_json(predictions: Predictions, classes: Sequence[str]) -> None:
    """Print a list of objects, one per line: file, class, probability, ...; or file, error."""
    before = "[\n"
    for one in predictions:
        print(before + json.dumps(_object(one, classes)), end="")
        before = ",\n"
    print("[]" if before == "[\n" else "\n]")


def _object(prediction: Prediction, classes: Sequence[str]) -> dict[str, object]:
    if prediction.probability is None:
        return {"file": prediction.name, "error": prediction.error}
    values = [round(float(value), 6) for value in prediction.probability]
    best = int(prediction.probability.argmax())
    content: dict[str, object] = {
        "file": prediction.name,
        "class": classes[best],
        "probability": values[best],
        "probabilities": dict(zip(classes, values, strict=True)),
    }
    if prediction.imagenet:
        content["imagenet"] = [
            {"class": name, "probability": round(value, 6)} for name, value in prediction.imagenet
        ]
    return content
