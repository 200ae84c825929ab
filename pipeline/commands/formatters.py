"""How predictions are shown: a table, csv or JSON, line by line as they come.

An answer is one file's name with its probabilities (n_classes,), or with the reason why it gave no
image. Names come from outside: what would steer a terminal is shown as an escape.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

TOP = 5  # of the ImageNet classes
Named = tuple[str, float]  # a class and its probability


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said of one file.

    Attributes:
        name: of the file, as `printable` gives it for all but JSON.
        probability: float64 (n_classes,); None where there is no image.
        error: why there is none.
        imagenet: the backbone's own `TOP` classes, if they were asked for.
    """

    name: str
    probability: NDArray[np.float64] | None = None
    error: str = ""
    imagenet: Sequence[Named] = ()


def printable(text: str) -> str:
    """The text with control characters, odd spaces and broken encodings as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


class Table:
    """Aligned columns: file, class, probability, and the ImageNet classes behind them."""

    def __init__(self, out: TextIO, classes: Sequence[str], names: Sequence[str]) -> None:
        """`names` of all files, for the width of the first column."""
        self._out, self._classes = out, [printable(name) for name in classes]
        self._widths = [
            max(map(len, (heading, *known)), default=0)
            for heading, known in (
                ("file", [printable(name) for name in names]),
                ("class", self._classes),
            )
        ]

    def begin(self) -> None:
        self._line("file", "class", "probability")

    def show(self, answer: Answer) -> None:
        if answer.probability is None:
            return
        best = int(answer.probability.argmax())
        own = "".join(f"  {name} {value:.4f}" for name, value in answer.imagenet)
        probability = f"{answer.probability[best]:11.4f}{own}"
        self._line(printable(answer.name), self._classes[best], probability)

    def end(self) -> None:
        """Nothing closes a table."""

    def _line(self, name: str, label: str, rest: str) -> None:
        file, known = self._widths
        print(f"{name:{file}}  {label:{known}}  {rest}", file=self._out)


class Csv:
    """file, class, probability, a column a class, five ImageNet classes if asked for, error."""

    def __init__(self, out: TextIO, classes: Sequence[str], imagenet: bool) -> None:
        self._writer = csv.writer(out, lineterminator="\n")
        self._classes, self._imagenet = classes, imagenet

    def begin(self) -> None:
        own = [
            f"imagenet_{place}{what}"
            for place in range(1, TOP * self._imagenet + 1)
            for what in ("", "_probability")
        ]
        classes = [printable(name) for name in self._classes]
        self._writer.writerow(["file", "class", "probability", *classes, *own, "error"])

    def show(self, answer: Answer) -> None:
        if answer.probability is None:
            empty = [""] * (2 + len(self._classes) + 2 * TOP * self._imagenet)
            self._writer.writerow([printable(answer.name), *empty, answer.error])
            return
        best = int(answer.probability.argmax())
        given = [f"{value:.6f}" for value in answer.probability]
        own = [cell for name, value in answer.imagenet for cell in (name, f"{value:.6f}")]
        label = printable(self._classes[best])
        self._writer.writerow([printable(answer.name), label, given[best], *given, *own, ""])

    def end(self) -> None:
        """Nothing closes a csv."""


class Json:
    """A list of objects, one a line: file, class, probability, probabilities; or file, error."""

    def __init__(self, out: TextIO, classes: Sequence[str]) -> None:
        self._out, self._classes = out, classes
        self._before = "[\n"

    def begin(self) -> None:
        """The bracket is written with the first object."""

    def show(self, answer: Answer) -> None:
        print(self._before + json.dumps(self._object(answer)), end="", file=self._out)
        self._before = ",\n"

    def end(self) -> None:
        print("[]" if self._before == "[\n" else "\n]", file=self._out)

    def _object(self, answer: Answer) -> dict[str, Any]:
        if answer.probability is None:
            return {"file": answer.name, "error": answer.error}
        given = [round(float(value), 6) for value in answer.probability]
        best = int(answer.probability.argmax())
        found = {
            "file": answer.name,
            "class": self._classes[best],
            "probability": given[best],
            "probabilities": dict(zip(self._classes, given, strict=True)),
        }
        if answer.imagenet:
            found["imagenet"] = [
                {"class": name, "probability": round(value, 6)} for name, value in answer.imagenet
            ]
        return found
