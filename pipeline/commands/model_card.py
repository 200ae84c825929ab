"""The Markdown card of an exported model: what a user of the model has to know.

Pure: text from what the stages wrote. It holds no time, so it is the same on every run.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SUBSETS = ("train", "valid", "test")
METRICS = ("accuracy", "log_loss", "brier", "roc_auc", "expected_calibration_error")
MODELS = {"head": "a head on frozen features", "fine_tune": "the fine-tuned network"}


@dataclass(frozen=True, slots=True)
class Check:
    """How the exported model compares with the pipeline's own predictions.

    Attributes:
        images: number predicted by both, spread over valid.
        largest, mean: of the absolute differences in probability.
        changed: number of images with another class.
        tolerance: largest accepted difference.
    """

    images: int
    largest: float
    mean: float
    changed: int
    tolerance: float

    def sentence(self) -> str:
        """Describe the result."""
        return (
            f"{self.images:,} images of valid, from their original files: the largest difference "
            f"in probability is {self.largest:.6f}, the mean {self.mean:.6f}, and {self.changed} "
            f"got another class (differences up to {self.tolerance:g} are accepted)"
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """The content of a card.

    Attributes:
        form: format of the file, "saved_model" or "openvino".
        file: its name.
        classes: in the order of the outputs.
        backbones: of the network.
        evaluated, intervals, split: `metrics/evaluate.json`, `intervals.json` and `split.json`.
        resize: size, fit and interpolation.
        views: number of views that the model averages, and that the pipeline averages.
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
    """Return the card."""
    sections = [_model(facts), _data(facts), _metrics(facts), _limits(facts), _origin(facts)]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def escaped(name: str) -> str:
    """Escape a name so that Markdown shows it literally."""
    printable = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name
    )
    return re.sub(r"([\\`*_{}\[\]<>()#+\-.!|~&])", r"\\\1", printable)


def _model(facts: Facts) -> list[str]:
    size, fit, interpolation = facts.resize
    averaged = "the image" + (" and its mirror image" if facts.views[0] == 2 else " alone")
    names = ", ".join(f"{index}: {escaped(name)}" for index, name in enumerate(facts.classes))
    return [
        "# Model card",
        "",
        f"An image classifier for {len(facts.classes)} classes: "
        f"{MODELS[facts.evaluated['chosen']]}, backbone "
        f"{', '.join(map(escaped, facts.backbones))}; `{facts.file}`, {facts.form}.",
        "",
        "- Input `images`: uint8 (n, height, width, 3), RGB, upright (EXIF orientation applied), "
        "transparent parts on white, any height and width, the same for all images of a batch.",
        f"- Output: float32 (n, {len(facts.classes)}), a probability per class: {names}. "
        "`classes.json` has the same list.",
        f"- Inside: resizing to {size} x {size} pixels ({fit}, {interpolation}, antialiased), "
        f"the backbone's preprocessing, the mean over {averaged}, and a temperature of "
        f"{facts.evaluated['temperature']:g}.",
    ]


def _data(facts: Facts) -> list[str]:
    split = facts.split
    counts = [
        [escaped(name), *(f"{split['subsets'].get(name, {}).get(s, 0):,}" for s in SUBSETS)]
        for name in facts.classes
    ]
    across = split["duplicates_across_subsets"]
    copies = (
        f"{across} groups of copies are spread over several subsets."
        if across
        else "Copies of an image are in the same subset."
    )
    return [
        "## Data",
        "",
        *_table(["class", *SUBSETS], counts),
        "",
        f"{split['found']:,} files found, {split['accepted']:,} accepted, {split['rejected']:,} "
        f"rejected as unreadable, {split['unlabelled']:,} without a label. {copies} The model was "
        "trained on `train`; model and temperature were selected on `valid`; `test` was used for "
        "neither.",
    ]


def _metrics(facts: Facts) -> list[str]:
    final, bounds = facts.evaluated["final"], facts.intervals["final"]
    subset = "test" if "test" in final else "valid"
    values = []
    for name in METRICS:
        if name in final[subset]:
            interval = bounds[subset].get(name)
            between = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
            values.append([name.replace("_", " "), f"{final[subset][name]:.4f}", between])
    per_class = [
        [
            escaped(name),
            f"{one['precision']:.4f}",
            f"{one['recall']:.4f}",
            f"{one['images']:,}",
        ]
        for name, one in final[subset]["per_class"].items()
    ]
    return [
        "## Metrics",
        "",
        f"Of the pipeline's predictions on {final[subset]['images']:,} images of `{subset}`, with "
        "confidence intervals of 95 %:",
        "",
        *_table(["metric", "value", "interval"], values),
        "",
        *_table(["class", "precision", "recall", "images"], per_class),
        "",
        f"The exported file was checked on {facts.check.sentence()}.",
    ]


def _limits(facts: Facts) -> list[str]:
    lines = [
        "## Limits",
        "",
        "- The model assigns one of these classes to every image, whatever the image shows.",
        "- The metrics hold for images like those of the data. On others, it can be wrong and "
        "confident.",
        "- The model does not decode files. Another JPEG decoder gives slightly different pixels. "
        "The pipeline reduces large JPEGs while decoding; this model takes them in full size.",
    ]
    own, pipelines = facts.views
    if pipelines > own:
        lines.append(
            f"- The pipeline averages {pipelines} views, this model {own}: the others are drawn by "
            "a hash of the image. The differences above include the effect."
        )
    return lines


def _origin(facts: Facts) -> list[str]:
    hashes = [[f"`{name}`", f"`{digest}`"] for name, digest in facts.hashes.items()]
    return [
        "## Origin",
        "",
        f"Commit: {facts.commit}.",
        "",
        *_table(["package", "version"], facts.versions.items()),
        "",
        *_table(["file", "sha256"], hashes),
    ]


def _table(header: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
