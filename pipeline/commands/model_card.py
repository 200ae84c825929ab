"""The card beside an exported model, in Markdown: what a user of the model has to know.

Pure: text out of what the stages have written down. It holds no time, so that it repeats.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SUBSETS = ("train", "valid", "test")
SHOWN = ("accuracy", "log_loss", "brier", "roc_auc", "expected_calibration_error")


@dataclass(frozen=True, slots=True)
class Check:
    """How the exported model compares with the pipeline's own predictions.

    Attributes:
        images: how many were predicted by both, drawn from valid.
        largest: of all absolute differences in probability.
        mean: of them.
        changed: how many images got another class.
        tolerance: the largest that is accepted.
    """

    images: int
    largest: float
    mean: float
    changed: int
    tolerance: float

    def sentence(self) -> str:
        """What was found, in words."""
        return (
            f"{self.images:,} images of valid, from their original files: the largest difference "
            f"in probability is {self.largest:.6f}, the mean {self.mean:.6f}, and {self.changed} "
            f"got another class (accepted are differences up to {self.tolerance:g})"
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the card tells.

    Attributes:
        form: of the file, "saved_model" or "openvino".
        file: its name.
        classes: in the order of the outputs.
        backbones: of the network.
        evaluated, intervals, split: what `metrics/` holds under these names.
        resize: size, fit and interpolation.
        views: how many views the model averages, and how many the pipeline does.
        check: of the exported file.
        versions: of packages.
        hashes: sha256 of files.
        commit: of the project, in words.
    """

    form: str
    file: str
    classes: Sequence[str]
    backbones: Sequence[str]
    evaluated: Mapping[str, Any]
    intervals: Mapping[str, Any]
    split: Mapping[str, Any]
    resize: tuple[int, str, str]
    views: tuple[int, int]
    check: Check
    versions: Mapping[str, str]
    hashes: Mapping[str, str]
    commit: str


def text(facts: Facts) -> str:
    """The card."""
    sections = [_what(facts), _data(facts), _figures(facts), _limits(facts), _origin(facts)]
    return "\n\n".join(sections) + "\n"


def escaped(name: str) -> str:
    """A name as Markdown shows it and does not obey it."""
    shown = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name
    )
    return re.sub(r"([\\`*_{}\[\]<>()#+\-.!|~&])", r"\\\1", shown)


def _what(facts: Facts) -> str:
    size, fit, interpolation = facts.resize
    chosen = {"head": "a head on frozen features", "fine_tune": "the fine-tuned network"}
    averaged = "the image" + (" and its mirror image" if facts.views[0] == 2 else " alone")
    names = ", ".join(f"{place}: {escaped(name)}" for place, name in enumerate(facts.classes))
    return "\n".join(
        [
            "# Model card",
            "",
            f"An image classifier for {len(facts.classes)} classes: "
            f"{chosen[facts.evaluated['chosen']]}, backbone "
            f"{', '.join(map(escaped, facts.backbones))}; `{facts.file}`, {facts.form}.",
            "",
            "- Input `images`: uint8 (n, height, width, 3), RGB, upright (EXIF orientation "
            "applied), transparent parts on white, any height and width; all of a batch have the "
            "same.",
            f"- Output: float32 (n, {len(facts.classes)}), a probability a class: {names}. "
            "`classes.json` has the same list.",
            f"- Inside: resizing to {size} x {size} pixels ({fit}, {interpolation}, antialiased), "
            f"the backbone's preprocessing, the mean over {averaged}, and a temperature of "
            f"{facts.evaluated['temperature']:g}.",
        ]
    )


def _data(facts: Facts) -> str:
    lines = [
        "## Data",
        "",
        "| class | " + " | ".join(SUBSETS) + " |",
        "|---|" + "---|" * len(SUBSETS),
    ]
    for name in facts.classes:
        counts = facts.split["subsets"].get(name, {})
        lines.append(
            f"| {escaped(name)} | " + " | ".join(f"{counts.get(s, 0):,}" for s in SUBSETS) + " |"
        )
    lines += [
        "",
        f"{facts.split['found']:,} files found, {facts.split['accepted']:,} accepted, "
        f"{facts.split['rejected']:,} rejected as unreadable, {facts.split['unlabelled']:,} "
        f"without a label. {_copies(facts.split['duplicates_across_subsets'])} `train` trained, "
        "`valid` chose the model and the temperature, `test` did neither.",
    ]
    return "\n".join(lines)


def _copies(across: int) -> str:
    if across:
        return f"{across} groups of copies lie in more than one subset."
    return "Copies of an image lie in one subset."


def _figures(facts: Facts) -> str:
    final, bounds = facts.evaluated["final"], facts.intervals["final"]
    shown = "test" if "test" in final else "valid"
    lines = [
        "## Figures",
        "",
        f"Of the pipeline's predictions on {final[shown]['images']:,} images of `{shown}`, with "
        "intervals of 95 %:",
        "",
        "| figure | value | interval |",
        "|---|---|---|",
    ]
    for name in SHOWN:
        if name in final[shown]:
            interval = bounds[shown].get(name)
            told = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
            lines.append(f"| {name.replace('_', ' ')} | {final[shown][name]:.4f} | {told} |")
    lines += ["", "| class | precision | recall | images |", "|---|---|---|---|"]
    for name, figures in final[shown]["per_class"].items():
        lines.append(
            f"| {escaped(name)} | {figures['precision']:.4f} | {figures['recall']:.4f} | "
            f"{figures['images']:,} |"
        )
    lines += ["", f"How the file was checked: {facts.check.sentence()}."]
    return "\n".join(lines)


def _limits(facts: Facts) -> str:
    lines = [
        "## Limits",
        "",
        "- It knows these classes only, and gives each image one of them, whatever it shows.",
        "- The figures hold for images like those of the data; elsewhere both classes and "
        "probabilities may be wrong, and sure of it.",
        "- Decoding is not inside: another JPEG decoder gives other pixels, by a few grey levels. "
        "The pipeline reduces large JPEGs while it decodes them; this model takes them whole.",
    ]
    own, of_pipeline = facts.views
    if of_pipeline > own:
        lines.append(
            f"- The pipeline averages {of_pipeline} views, this model {own}: the others are drawn "
            "by a hash of the image. What that changes is in the differences above."
        )
    return "\n".join(lines)


def _origin(facts: Facts) -> str:
    lines = ["## Where it comes from", "", f"Commit: {facts.commit}.", ""]
    lines += ["| package | version |", "|---|---|"]
    lines += [f"| {name} | {version} |" for name, version in facts.versions.items()]
    lines += ["", "| file | sha256 |", "|---|---|"]
    lines += [f"| `{name}` | `{digest}` |" for name, digest in facts.hashes.items()]
    return "\n".join(lines)
