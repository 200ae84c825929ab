"""Formats of predictions: a table, CSV or JSON, written line by line as they come.

File names come from outside: the table and CSV escape what would control a terminal.
"""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.storage import tables


class Prediction(NamedTuple):
    """The result for one file."""

    name: str  # unescaped
    probability: NDArray[np.float64]  # (n_classes,); empty if the file is no image
    error: str = ""  # why it is none


Predictions = Iterable[Prediction]


def printable(text: str) -> str:
    """Escape control characters, unusual spaces and broken encodings."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def write_table(predictions: Predictions, classes: Sequence[str], names: Iterable[str]) -> None:
    """Print aligned columns: file, as wide as all `names`, class, probability."""
    classes = [printable(name) for name in classes]
    width = max(len("file"), *(len(printable(name)) for name in names), 0)
    class_width = max(len("class"), *map(len, classes))
    print(f"{'file':{width}}  {'class':{class_width}}  probability")
    for name, probability, error in predictions:
        if not error:
            best = int(probability.argmax())
            label = f"{classes[best]:{class_width}}  {probability[best]:11.4f}"
            print(f"{printable(name):{width}}  {label}")


def write_csv(predictions: Predictions, classes: Sequence[str]) -> None:
    """Print file, class, probability, a column per class, error."""
    classes = [printable(name) for name in classes]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    before, after = ["file", "class", "probability"], ["error"]
    writer.writerow([*before, *tables.class_columns([*before, *after], classes), *after])
    for name, probability, error in predictions:
        cells = [""] * (2 + len(classes))
        if not error:
            values = [f"{value:.6f}" for value in probability]
            best = int(probability.argmax())
            cells = [classes[best], values[best], *values]
        writer.writerow([printable(name), *cells, error])


def write_json(predictions: Predictions, classes: Sequence[str]) -> None:
    """Print a list of objects, one per line: file, class, probability, ...; or file, error."""
    before = "[\n"
    for name, probability, error in predictions:
        content: dict[str, object] = {"file": name, "error": error}
        if not error:
            values = [round(float(value), 6) for value in probability]
            best = int(probability.argmax())
            content = {
                "file": name,
                "class": classes[best],
                "probability": values[best],
                "probabilities": dict(zip(classes, values, strict=True)),
            }
        print(before + json.dumps(content), end="")
        before = ",\n"
    print("[]" if before == "[\n" else "\n]")
