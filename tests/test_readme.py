"""The README says what is so."""

import json
import re
import subprocess
from typing import Any

import pytest
import yaml
from project import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def leaves(section: dict[str, object], prefix: str = "") -> list[str]:
    found = []
    for key, value in section.items():
        nested = isinstance(value, dict)
        found += leaves(value, f"{prefix}{key}.") if nested else [prefix + key]  # type: ignore[arg-type]
    return found


def comments() -> dict[str, tuple[str, str]]:
    """Each key of params.yaml by its full name, with its value as written and its comment."""
    found: dict[str, tuple[str, str]] = {}
    names: list[str] = []
    for line in (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"( *)(\w+): *(.*?) *(?:# (.*))?$", line):
            indent, key, value, comment = match.groups(default="")
            names = [*names[: len(indent) // 2], key]
            if value:
                found[".".join(names)] = (value, comment)
    return found


def committed(name: str) -> dict[str, Any]:
    """The sample's figures as committed; those in the folder may be of another recipe."""
    shown = subprocess.run(
        ["git", "show", f"HEAD:metrics/{name}.json"], cwd=ROOT, check=True, capture_output=True
    )
    return dict(json.loads(shown.stdout))


def test_the_table_of_parameters_has_every_key_with_its_value_and_its_comment() -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert list(comments()) == leaves(params)
    rows = [f"| `{key}` | `{value}` | {text} |" for key, (value, text) in comments().items()]
    assert "\n".join(rows) in README


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_a_picture_or_page_that_it_links_is_there(path: str) -> None:
    assert (ROOT / path).is_file()


def test_the_figures_of_the_sample_are_those_in_metrics() -> None:
    names = {
        "head": "head on untrained features",
        "fine_tune": "fine-tuned convnet",
        "final": "the same, calibrated",
    }
    figures, intervals = committed("evaluate"), committed("intervals")
    for model, name in names.items():
        told, (low, high) = figures[model]["test"], intervals[model]["test"]["accuracy"]
        accuracy = f"{told['accuracy']:.1%} ({low:.1%} to {high:.1%})".replace("% to", " to")
        accuracy = accuracy.replace("%)", ")")
        low, high = intervals[model]["test"]["log_loss"]
        loss = f"{told['log_loss']:.3f} ({low:.3f} to {high:.3f})"
        assert f"| {name} | {accuracy} | {loss} |" in README


def test_fine_tuning_beats_the_untrained_baseline_by_a_wide_margin() -> None:
    figures = committed("evaluate")
    assert figures["chosen"] == "fine_tune"
    assert figures["fine_tune"]["test"]["accuracy"] > figures["head"]["test"]["accuracy"] + 0.15
    assert figures["fine_tune"]["test"]["log_loss"] < figures["head"]["test"]["log_loss"] / 3
