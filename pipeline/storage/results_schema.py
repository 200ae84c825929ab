"""Schema of the JSON files and tables in `metrics/`, as far as the report shows them.

Other keys are ignored. An interval is (low, high).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

AUDIT_COLUMNS = {
    "labels": ("member", "source", "subset", "label", "suggested", "margin", "likely"),
    "outliers": ("member", "source", "subset", "label", "isolation"),
    "light": ("member", "source", "subset", "fault", "mean", "spread", "sharpness"),
    "copies": ("member", "source", "subset", "group", "label"),
    "alike": (
        *("member", "source", "subset", "label"),
        *("other", "other_source", "other_subset", "other_label", "likeness"),
    ),
}
NUMBERS = ("margin", "isolation", "mean", "spread", "sharpness", "likeness")

Interval = tuple[float, float]
Line = dict[str, str]


class Content(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class OfClass(Content):
    precision: float
    recall: float
    f1: float
    images: int
    misclassified: int


class Metrics(Content):
    """Metrics of one model on one subset; areas are None if a class has no image."""

    accuracy: float
    log_loss: float
    brier: float
    expected_calibration_error: float
    roc_auc: float | None = None
    average_precision: float | None = None
    images: int
    misclassified: int
    per_class: dict[str, OfClass]


class AtThreshold(Content):
    accuracy: float
    error_rate: dict[str, float]


class Threshold(Content):
    threshold: float
    valid: AtThreshold
    test: AtThreshold | None = None


class Evaluated(Content):
    chosen: Literal["head", "fine_tune"]
    temperature: float
    clip: float
    head: dict[str, Metrics]
    fine_tune: dict[str, Metrics]
    final: dict[str, Metrics]
    thresholds: dict[str, Threshold] | None = None


class BoundsOfClass(Content):
    precision: Interval
    recall: Interval
    f1: Interval


class Bounds(Content):
    """The interval of each of `Metrics`."""

    accuracy: Interval
    log_loss: Interval
    brier: Interval
    expected_calibration_error: Interval
    roc_auc: Interval | None = None
    average_precision: Interval | None = None
    per_class: dict[str, BoundsOfClass]


class Difference(Content):
    difference: float
    interval: Interval
    shown: str


class Intervals(Content):
    confidence: float
    resamples: int
    differences: dict[str, dict[str, dict[str, Difference]]]
    head: dict[str, Bounds]
    fine_tune: dict[str, Bounds]
    final: dict[str, Bounds]


class Split(Content):
    found: int
    accepted: int
    rejected: int
    rejected_by_reason: dict[str, int]
    duplicates: int
    near_duplicates: int
    duplicates_with_other_label: int
    duplicates_across_subsets: int
    beyond_per_class_limit: int
    passed_over: dict[str, int]
    label_fixes: dict[str, int]
    subsets: dict[str, dict[str, int]]
    unlabelled: int


class Head(Content):
    kind: str
    parameters: int


class Epoch(Content):
    epoch: int


class FineTuned(Content):
    epochs: int
    best: Epoch
    taken: str
    fault: str


class OutOfFold(Content):
    accuracy: float
    log_loss: float


class Audit(Content):
    images: int
    likely_label_errors: int
    light: dict[str, int]
    copies: int
    alike_pairs: int
    out_of_fold: OutOfFold | None = None


class Shown(Content):
    """One image of a gallery; texts are empty and other values None if there are none."""

    picture: str | None
    heatmap: str | None
    member: str
    source: str
    subset: str
    label: str
    said: str
    probability: float | None
    note: str


class Gallery(Content):
    title: str
    about: str
    images: list[Shown]


class Layer(Content):
    backbone: str
    layer: str
    picture: str
    shape: tuple[int, ...]


class Activations(Content):
    member: str
    label: str
    picture: str
    layers: list[Layer]


class Filters(Content):
    backbone: str
    layer: str
    picture: str


class Explained(Content):
    model: Literal["head", "fine_tune"]
    size: int
    galleries: list[Gallery]
    activations: Activations | None
    filters: list[Filters]

    def pictures(self) -> list[str]:
        """Return the path of each picture, once, in order."""
        names = [
            name
            for gallery in self.galleries
            for image in gallery.images
            for name in (image.picture, image.heatmap)
        ]
        if self.activations:
            names += [self.activations.picture]
            names += [layer.picture for layer in self.activations.layers]
        names += [layer.picture for layer in self.filters]
        return list(dict.fromkeys(name for name in names if name is not None))


@dataclass(frozen=True)
class Results:
    """All results; `tables` by the names of `AUDIT_COLUMNS`, `plots` in order of their names."""

    split: Split
    head: Head
    fine_tuned: FineTuned
    evaluated: Evaluated
    intervals: Intervals
    audit: Audit
    tables: dict[str, list[Line]]
    plots: list[Path]
    explained: Explained
