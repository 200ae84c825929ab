"""Made-up outputs of all stages before `report`, to run it in a folder of its own."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from project import ROOT

import stages.report
from pipeline.storage.results import AUDIT_COLUMNS

PAGE = Path("metrics/report/index.html")
NASTY = "<img src=x onerror=alert(1)>.jpg"
COMMA = 'train/a "fat", old cat.jpg'
METRICS = {
    "accuracy": 0.9825,
    "log_loss": 0.048612,
    "brier": 0.013,
    "expected_calibration_error": 0.0041,
    "roc_auc": 0.9987,
    "average_precision": 0.9986,
}
SPLIT = {
    "found": 2_601,
    "accepted": 2_600,
    "rejected": 1,
    "duplicates": 3,
    "near_duplicates": 4,
    "passed_over": {"__MACOSX": 7},
    "label_fixes": {"excluded": 0, "relabelled": 2, "in_test": 0, "unmatched": 0},
    "unlabelled": 100,
    **dict.fromkeys(("duplicates_with_other_label", "duplicates_across_subsets"), 0),
    "beyond_per_class_limit": 0,
}
AUDIT = {
    "images": 2_500,
    "out_of_fold": {"accuracy": 0.97, "log_loss": 0.09},
    "light": {"blank": 0, "dark": 1, "light": 0, "blurred": 0},
    "copies": 0,
    "alike_pairs": 0,
}
FINE_TUNED = {"epochs": 19, "best": {"epoch": 11}, "taken": "fine_tuned", "fault": ""}
BETTER = {"difference": -0.2026, "interval": [-0.25, -0.15], "shown": "better"}
SAME = {"difference": -0.0014, "interval": [-0.004, 0.001], "shown": "no difference shown"}


def report() -> int:
    """Run the stage `report` in the working folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report"])
        return stages.report.main()


def write(
    classes: Sequence[str] = ("cat", "dog"),
    subsets: Sequence[str] = ("valid", "test"),
    labels: Sequence[Sequence[object]] = (),
    reason: str = "truncated image",
) -> None:
    """Write all that `report` reads into the working folder, beside the committed parameters."""
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    images = {name: {"train": 1_250, "valid": 200} for name in classes}
    _write_json("split", SPLIT | {"rejected_by_reason": {reason: 1}, "subsets": images})
    _write_json("head", {"kind": "logistic", "parameters": 2562, "best": {}})
    _write_json("fine_tune", FINE_TUNED)
    _write_json("audit", AUDIT | {"likely_label_errors": len(labels)})
    of_class = {"precision": 0.98, "recall": 0.97, "f1": 0.975, "images": 999, "misclassified": 17}
    final: dict[str, Any] = METRICS | {"images": 2_000, "misclassified": 35}
    final["per_class"] = dict.fromkeys(classes, of_class)
    head = final | {"accuracy": 0.9015, "log_loss": 0.2512}
    evaluated: dict[str, Any] = {"chosen": "fine_tune", "temperature": 1.25, "clip": 0.0123}
    for model, metrics in (("head", head), ("fine_tune", final), ("final", final)):
        evaluated[model] = dict.fromkeys(subsets, metrics)
    if len(classes) == 2:
        at = {"accuracy": 0.975, "error_rate": dict.fromkeys(classes, 0.0175)}
        threshold = {"threshold": 0.6655, **dict.fromkeys(subsets, at)}
        evaluated["thresholds"] = dict.fromkeys(("half", "symmetric", "accurate"), threshold)
    _write_json("evaluate", evaluated)
    bounds: dict[str, Any] = {name: [one * 0.9, one * 1.01] for name, one in METRICS.items()}
    bounds["accuracy"] = [0.9765, 0.988]
    bounds_of_class = dict.fromkeys(("precision", "recall", "f1"), (0.95, 0.99))
    bounds["per_class"] = dict.fromkeys(classes, bounds_of_class)
    pairs = {"fine_tune against head": BETTER, "final against fine_tune": SAME}
    differences = {
        pair: {subset: {"log_loss": one} for subset in subsets} for pair, one in pairs.items()
    }
    intervals = {"confidence": 0.95, "resamples": 2_000, "differences": differences}
    of_model = dict.fromkeys(subsets, bounds)
    _write_json("intervals", intervals | dict.fromkeys(("head", "fine_tune", "final"), of_model))
    for name, columns in AUDIT_COLUMNS.items():
        write_table(name, columns, *(labels if name == "labels" else ()))
    for name in ("roc", "confusion", "learning_curves"):
        draw(f"metrics/pictures/{name}.png", (60, 40))
    explain([])


def explain(images: Sequence[dict[str, Any]], **changed: object) -> None:
    """`explain`'s output with one gallery of these images, and an empty one; draw the pictures."""
    for image in images:
        for name in filter(None, (image["picture"], image["heatmap"])):
            draw(f"metrics/explain/{name}")
    galleries = [
        {"title": "Right", "about": "Drawn at random.", "images": list(images)},
        {"title": "Blank", "about": "Nothing to see.", "images": []},
    ]
    content: dict[str, object] = {"model": "fine_tune", "size": 224, "galleries": galleries}
    content["without_maps"] = []
    _write_json("explain/explain", content | {"activations": None, "filters": []} | changed)


def shown(member: str, picture: str | None, **changed: object) -> dict[str, Any]:
    """One image of a gallery."""
    heatmap = picture and picture.replace("images", "heatmaps")
    image = {"picture": picture, "heatmap": heatmap, "member": member, "source": "train"}
    predicted = {"subset": "test", "label": "cat", "said": "dog", "probability": 0.993, "note": ""}
    return image | predicted | changed


def write_table(name: str, *lines: Sequence[object]) -> None:
    path = Path(f"metrics/audit/{name}.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def draw(path: str, size: tuple[int, int] = (24, 24)) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path)


def change_params(**sections: Any) -> None:
    """Update sections of `params.yaml`, or replace those that are no mapping."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    for name, changed in sections.items():
        params[name] = params[name] | changed if isinstance(changed, dict) else changed
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def change(name: str, **values: object) -> None:
    """Set keys of one of the JSON files."""
    _write_json(name, json.loads(Path(f"metrics/{name}.json").read_text("utf-8")) | values)


def _write_json(name: str, content: dict[str, Any]) -> None:
    path = Path(f"metrics/{name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, sort_keys=True), encoding="utf-8")
