"""Formats of predictions: a table, CSV or JSON, written line by line.

File names come from outside: the table and CSV escape what would control a terminal.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

TOP = 5  # ImageNet classes
Named = tuple[str, float]  # a class and its probability


@dataclass(frozen=True, slots=True)
class Prediction:
    """The result for one file.

    Attributes:
        name: of the file, unescaped.
        probability: float64 (n_classes,); None if the file is no image.
        error: why it is none.
        imagenet: the backbone's own `TOP` classes, if requested.
    """

    name: str
    probability: NDArray[np.float64] | None = None
    error: str = ""
    imagenet: Sequence[Named] = ()


def printable(text: str) -> str:
    """Escape control characters, unusual spaces and broken encodings."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


class Table:
    """Aligned columns: file, class, probability, and the ImageNet classes behind them."""

    def __init__(self, out: TextIO, classes: Sequence[str], names: Sequence[str]) -> None:
        """`names` of all files determine the width of the first column."""
        self._out, self._classes = out, [printable(name) for name in classes]
        self._file_width = max(len("file"), *(len(printable(name)) for name in names), 0)
        self._class_width = max(len("class"), *map(len, self._classes))

    def begin(self) -> None:
        self._line("file", "class", "probability")

    def write(self, prediction: Prediction) -> None:
        if prediction.probability is None:
            return
        best = int(prediction.probability.argmax())
        own = "".join(f"  {name} {value:.4f}" for name, value in prediction.imagenet)
        rest = f"{prediction.probability[best]:11.4f}{own}"
        self._line(printable(prediction.name), self._classes[best], rest)

    def end(self) -> None:
        """Nothing follows the last line."""

    def _line(self, name: str, label: str, rest: str) -> None:
        print(f"{name:{self._file_width}}  {label:{self._class_width}}  {rest}", file=self._out)


class Csv:
    """file, class, probability, a column per class, ImageNet classes if requested, error."""

    def __init__(self, out: TextIO, classes: Sequence[str], imagenet: bool) -> None:
        self._writer = csv.writer(out, lineterminator="\n")
        self._classes = [printable(name) for name in classes]
        self._imagenet_columns = [
            f"imagenet_{rank}{suffix}"
            for rank in range(1, TOP * imagenet + 1)
            for suffix in ("", "_probability")
        ]

    def begin(self) -> None:
        names = ("file", "class", "probability", *self._classes, *self._imagenet_columns, "error")
        self._writer.writerow(names)

    def write(self, prediction: Prediction) -> None:
        name = printable(prediction.name)
        if prediction.probability is None:
            empty = [""] * (2 + len(self._classes) + len(self._imagenet_columns))
            self._writer.writerow([name, *empty, prediction.error])
            return
        best = int(prediction.probability.argmax())
        values = [f"{value:.6f}" for value in prediction.probability]
        own = [cell for label, value in prediction.imagenet for cell in (label, f"{value:.6f}")]
        self._writer.writerow([name, self._classes[best], values[best], *values, *own, ""])

    def end(self) -> None:
        """Nothing follows the last line."""


class Json:
    """A list of objects, one a line: file, class, probability, probabilities; or file, error."""

    def __init__(self, out: TextIO, classes: Sequence[str]) -> None:
        self._out, self._classes = out, classes
        self._before = "[\n"

    def begin(self) -> None:
        """The bracket comes with the first object."""

    def write(self, prediction: Prediction) -> None:
        print(self._before + json.dumps(self._object(prediction)), end="", file=self._out)
        self._before = ",\n"

    def end(self) -> None:
        print("[]" if self._before == "[\n" else "\n]", file=self._out)

    def _object(self, prediction: Prediction) -> dict[str, object]:
        if prediction.probability is None:
            return {"file": prediction.name, "error": prediction.error}
        values = [round(float(value), 6) for value in prediction.probability]
        best = int(prediction.probability.argmax())
        content: dict[str, object] = {
            "file": prediction.name,
            "class": self._classes[best],
            "probability": values[best],
            "probabilities": dict(zip(self._classes, values, strict=True)),
        }
        if prediction.imagenet:
            content["imagenet"] = [
                {"class": name, "probability": round(value, 6)}
                for name, value in prediction.imagenet
            ]
        return content
