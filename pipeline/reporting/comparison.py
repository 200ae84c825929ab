"""Render the comparison of two runs as an HTML page and as Markdown.

The page loads nothing: plots are inline, and the security policy allows only these and the style.
Names from runs and people are escaped in both formats, so none of them is markup.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.reporting import html

MOST_LINES = 100  # of a table in Markdown; a comment on GitHub holds 65,536 characters
NAMES = {"roc_auc": "ROC AUC", "brier": "Brier score"}  # other metrics are named by their keys
APART, OVERLAP = "apart", "overlap"  # the confidence intervals of both runs


@dataclass(frozen=True)
class Verdict:
    """One metric of the final models."""

    subset: str
    metric: str
    images: int  # both runs are scored on; if unpaired, those of the new run
    old: float
    new: float
    bounds: tuple[Sequence[float], Sequence[float]] | None  # each run's confidence interval
    difference: tuple[float, float, float] | None  # new - old, its interval; None if unpaired
    outcome: str  # "better", "worse" or "no difference shown"


@dataclass(frozen=True)
class Change:
    """A parameter or metric that differs; `intervals` is OVERLAP, APART, or empty if unknown."""

    key: str
    old: Any
    new: Any
    intervals: str = ""


@dataclass(frozen=True)
class Plot:
    """A plot of both runs, and the name of its file without the extension."""

    name: str
    title: str
    about: str
    svg: str

    @property
    def address(self) -> str:
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg.encode()).decode()}"


@dataclass(frozen=True)
class Comparison:
    """Everything that the page shows."""

    old: str
    new: str | None  # None for the working tree
    verdicts: Sequence[Verdict]
    unpaired: str  # why the final models are not compared image by image; empty if they are
    params: Sequence[Change]
    metrics: Mapping[str, Sequence[Change]]  # by the file they come from
    plots: Sequence[Plot]
    unchanged: Sequence[str]  # titles of the plots that do not differ
    not_drawn: Sequence[str]  # why other plots are missing, one sentence each
    stages: Sequence[str] = ()  # with different code
    code: Sequence[str] = ()  # modules and packages that differ

    @property
    def new_name(self) -> str:
        return self.new or "this run"

    @property
    def differing(self) -> int:
        return sum(map(len, self.metrics.values()))

    @property
    def by_subset(self) -> dict[str, list[Verdict]]:
        names = dict.fromkeys(one.subset for one in self.verdicts)
        return {name: [one for one in self.verdicts if one.subset == name] for name in names}

    def summary(self) -> list[str]:
        """Summarize the verdicts, one sentence per subset."""
        return [_sentence(subset, verdicts) for subset, verdicts in self.by_subset.items()]


def page(comparison: Comparison) -> str:
    """Render the HTML page."""
    styles = ("report.css", "comparison.css")
    return html.render("comparison.html.jinja", styles, {"comparison": comparison}, FORMATS)


def markdown(comparison: Comparison) -> str:
    """Render the same without plots, in GitHub's Markdown."""
    content = {"comparison": comparison, "MOST_LINES": MOST_LINES}
    return html.render("comparison.md.jinja", (), content, FORMATS)


def value(parameter: Any) -> str:
    """Format a parameter or metric like YAML, None as a dash."""
    if parameter is None:
        return "\N{EN DASH}"
    if isinstance(parameter, float):
        return f"{parameter:.6g}".replace("-", html.MINUS)
    return html.count(parameter) if type(parameter) is int else html.setting(parameter)


def change(line: Change) -> str:
    """Format the difference of two numbers with its sign; empty for anything else."""
    if not all(type(one) in (int, float) for one in (line.old, line.new)):
        return ""
    difference = line.new - line.old
    text = f"{difference:+.4g}" if type(difference) is float else f"{difference:+,}"
    return text.replace("-", html.MINUS)


def in_words(metric: str) -> str:
    """Return a metric's name as used in a sentence."""
    return NAMES.get(metric, metric.replace("_", " "))


def code(text: object) -> str:
    """Format any text as code in Markdown, without special meaning even inside a table."""
    plain = str(text) or " "
    if not re.search(r"[`|\\\s]", plain.replace(" ", "")):
        return f"`{plain}`"
    return f"<code>{literally(plain)}</code>"


def literally(text: str) -> str:
    """Escape every character with a meaning in Markdown."""
    return "".join(one if one.isalnum() or one in " .,:;'" else f"&#{ord(one)};" for one in text)


FORMATS = (value, change, in_words, code, literally)


def _sentence(subset: str, verdicts: Sequence[Verdict]) -> str:
    parts = []
    for outcome in ("better", "worse"):
        names = [in_words(one.metric) for one in verdicts if one.outcome == outcome]
        if names:
            listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
            parts.append(f"{listed} {'is' if len(names) == 1 else 'are'} {outcome}")
    text = "; ".join(parts) or "no difference is shown"
    return f"On {subset} ({verdicts[0].images:,} images) {text}."
