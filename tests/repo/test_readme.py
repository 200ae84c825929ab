"""The README's links and numbers are true."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from project import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*.md")])
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}


def committed(name: str) -> dict[str, Any]:
    """Read metrics of the sample from git; those in the folder may be of another recipe."""
    command = ["git", "show", f"HEAD:metrics/{name}.json"]
    shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return dict(json.loads(shown.stdout))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_linked_file_exists_and_has_the_linked_heading(page: Path) -> None:
    for path, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", TEXTS[page]):
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links {path}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{page.name} links {path}#{anchor}"


@pytest.mark.parametrize("model", ["head", "fine_tune", "final"])
def test_the_metrics_of_the_sample_are_the_committed_ones(model: str) -> None:
    metrics, intervals = committed("evaluate")[model]["test"], committed("intervals")[model]["test"]
    low, high = (f"{100 * bound:.1f}" for bound in intervals["accuracy"])
    accuracy = f"{metrics['accuracy']:.1%} ({low} to {high})"
    low, high = (f"{bound:.3f}" for bound in intervals["log_loss"])
    row = f"| {accuracy} | {metrics['log_loss']:.3f} ({low} to {high}) |"
    assert any(row in text for text in TEXTS.values()), row


def test_fine_tuning_clearly_beats_the_untrained_baseline() -> None:
    metrics = committed("evaluate")
    head, fine_tuned = metrics["head"]["test"], metrics["fine_tune"]["test"]
    assert metrics["chosen"] == "fine_tune"
    assert fine_tuned["accuracy"] > head["accuracy"] + 0.15
    assert fine_tuned["log_loss"] < head["log_loss"] / 3
