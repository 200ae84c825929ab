"""A small git repository that DVC takes for a project of two commits, without data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from project import Project

PARAMS: dict[str, Any] = {"fine_tune": {"learning_rate": 0.0005, "decay": "constant"}}
ROC = [(0.0, 0.0), (0.0, 0.75), (1.0, 1.0)]


def figures(accuracy: float, log_loss: float) -> dict[str, Any]:
    """As `evaluate` writes them, of 120 images."""
    told = {"accuracy": accuracy, "log_loss": log_loss, "images": 120}
    return {"final": {"valid": told, "test": told}, "chosen": "head"}


def intervals(
    accuracy: tuple[float, float], log_loss: tuple[float, float] | None
) -> dict[str, Any]:
    bounds = {"accuracy": accuracy, "log_loss": log_loss}
    return {"confidence": 0.95, "final": {"valid": bounds, "test": bounds}}


class TwoRuns(Project):
    """Its branch `main`, and the working tree on another branch, which is not committed."""

    @classmethod
    def made(cls, folder: Path) -> "TwoRuns":
        runs = cls(folder)
        runs.write(".dvc/config", "[core]\n    analytics = false\n")
        runs.write(".dvc/.gitignore", "/tmp\n/cache\n")  # noqa: S108
        runs.write(".gitignore", ".*.lock\n/comparison/\n")
        runs.write("dvc.yaml", "params: [params.yaml]\nmetrics: [metrics/evaluate.json]\n")
        runs.write_run(PARAMS, figures(0.8, 0.5), intervals((0.72, 0.86), (0.4, 0.7)))
        for model in ("head", "fine_tune"):
            runs.write_csv(f"metrics/curves/{model}_roc.csv", ("fpr", "tpr"), ROC)
        runs.git("init", "--quiet", "--initial-branch=main")
        runs.git("config", "user.name", "a tester")
        runs.git("config", "user.email", "tester@example.org")
        runs.commit("main")
        runs.git("checkout", "--quiet", "-b", "other")
        return runs

    def write_run(
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
