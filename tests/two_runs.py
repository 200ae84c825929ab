"""A small git repository that DVC takes for a project of two commits, without data."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PARAMS: dict[str, Any] = {"fine_tune": {"learning_rate": 0.0005, "decay": "constant"}}
ROC = [(0.0, 0.0), (0.0, 0.75), (1.0, 1.0)]
DVC_YAML = """\
params: [params.yaml]
metrics: [metrics/evaluate.json, metrics/head.json]
"""


def figures(accuracy: float, log_loss: float) -> dict[str, Any]:
    """As `evaluate` writes them, of 120 images."""
    told = {"accuracy": accuracy, "log_loss": log_loss, "images": 120}
    return {"final": {"valid": told, "test": told}, "chosen": "head"}


def intervals(accuracy: tuple[float, float], log_loss: tuple[float, float]) -> dict[str, Any]:
    bounds = {"accuracy": accuracy, "log_loss": log_loss}
    return {"confidence": 0.95, "final": {"valid": bounds, "test": bounds}}


class TwoRuns:
    """Its branch `main`, and the working tree on another branch, which is not committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "a tester")
        self.git("config", "user.email", "tester@example.org")
        self.write(".dvc/config", "[core]\n    analytics = false\n")
        self.write(".dvc/.gitignore", "/tmp\n/cache\n")  # noqa: S108
        self.write(".gitignore", ".*.lock\n/comparison/\n")
        self.write("dvc.yaml", DVC_YAML)
        self.run(PARAMS, figures(0.8, 0.5), intervals((0.72, 0.86), (0.4, 0.7)))
        self.write_csv("metrics/curves/head_roc.csv", ("fpr", "tpr"), ROC)
        self.write_csv("metrics/curves/fine_tune_roc.csv", ("fpr", "tpr"), ROC)
        self.commit("main")
        self.git("checkout", "--quiet", "-b", "other")

    def run(
        self, params: Mapping[str, Any], figures: Mapping[str, Any], intervals: Mapping[str, Any]
    ) -> None:
        """Leave what a run leaves in git."""
        self.write("params.yaml", json.dumps(params))
        self.write("metrics/evaluate.json", json.dumps(figures))
        self.write("metrics/head.json", json.dumps({"best": {"epoch": 15}, "kind": "dense"}))
        self.write("metrics/intervals.json", json.dumps(intervals))

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text, encoding="utf-8")

    def write_csv(self, path: str, header: tuple[str, ...], lines: list[Any]) -> None:
        self.write(path, "".join(f"{','.join(map(str, line))}\n" for line in (header, *lines)))

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={message}")

    def git(self, *words: str) -> None:
        subprocess.run(["git", *words], cwd=self.folder, check=True, capture_output=True)
