"""Render the comparison of two runs as an HTML page and as Markdown.

The page loads nothing: plots are inline, and the security policy allows only these and the style.
Names from runs and people are escaped in both formats, so none of them is markup.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.reporting import html

APART, OVERLAP = "apart", "overlap"  # the confidence intervals of both runs
UNAVAILABLE = "not available"  # because a run has too few images


@dataclass(frozen=True)
class Verdict:
    """One metric of the final models."""

    subset: str
    metric: str
    images: int  # both runs are scored on; if unpaired, those of the new run
    old: float
    new: float
    bounds: Sequence[Sequence[float] | None] | None  # each run's interval; None if paired
    # new - old, and its interval, of None if there are too few images; None if unpaired
    difference: tuple[float, float | None, float | None] | None
    outcome: str  # "better", "worse" or "no difference shown"


@dataclass(frozen=True)
class Change:
    """A parameter or metric that differs; `intervals` is one of the words, or empty if unknown."""

    key: str
    old: Any
    new: Any
    intervals: str = ""


@dataclass(frozen=True)
class Plot:
    """A plot, and the name of its file without the extension."""

    name: str
    title: str
    about: str
    svg: str
    only: str = ""  # the run that it shows; empty for both

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
    unknown: Sequence[str] = ()  # why other files are not compared, one sentence each

    @property
    def by_subset(self) -> dict[str, list[Verdict]]:
        names = dict.fromkeys(one.subset for one in self.verdicts)
        return {name: [one for one in self.verdicts if one.subset == name] for name in names}

    def summary(self) -> list[str]:
        """Summarize the verdicts, one sentence per subset."""
        sentences = []
        for subset, verdicts in self.by_subset.items():
            parts = []
            for outcome in ("better", "worse"):
                names = [html.in_words(one.metric) for one in verdicts if one.outcome == outcome]
                if names:
                    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
                    parts.append(f"{listed} {'is' if len(names) == 1 else 'are'} {outcome}")
            text = "; ".join(parts) or "no difference is shown"
            sentences.append(f"On {subset} ({verdicts[0].images:,} images) {text}.")
        return sentences


def page(comparison: Comparison) -> str:
    """Render the HTML page."""
    styles = ("report.css", "comparison.css")
    return html.render("comparison.html.jinja", {"comparison": comparison}, *styles)


def markdown(comparison: Comparison) -> str:
    """Render the same without plots, in GitHub's Markdown."""
    return html.render("comparison.md.jinja", {"comparison": comparison})
