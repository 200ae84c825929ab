"""Two runs side by side, as one HTML page and as one Markdown text: text in, text out.

The page loads nothing: its drawings stand inside, and its security policy allows these and its
style alone. What a run or a person has named is escaped in both, so that no name is markup.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.reporting import html

FOLDER = Path(__file__).parent
MOST_LINES = 100  # of a table in Markdown: a comment on GitHub holds 65,536 letters
NAMES = {"roc_auc": "ROC AUC", "brier": "Brier score"}  # the others' keys are words
APART, OVERLAP = "apart", "overlap"  # of both sides' intervals


@dataclass(frozen=True)
class Verdict:
    """One figure of the final models.

    Attributes:
        images: that both sides are scored on; where they are not paired, those of the new side.
        bounds: the interval of each side, or None.
        difference: new - old with its interval, paired by image; None where they are not paired.
        shown: "better", "worse" or "no difference shown"; where they are not paired, "better" or
            "worse" only if the intervals are apart.
    """

    subset: str
    figure: str
    images: int
    old: float
    new: float
    bounds: tuple[Sequence[float], Sequence[float]] | None
    difference: tuple[float, float, float] | None
    shown: str


@dataclass(frozen=True)
class Line:
    """A parameter or a figure that differs; `chance` is OVERLAP, APART, or empty if unknown."""

    key: str
    old: Any
    new: Any
    chance: str = ""


@dataclass(frozen=True)
class Drawing:
    """A plot of both sides, and the name of its file without the extension."""

    name: str
    title: str
    about: str
    svg: str

    @property
    def address(self) -> str:
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg.encode()).decode()}"


@dataclass(frozen=True)
class Comparison:
    """All that is told.

    Attributes:
        old, new: the sides' names; `new` is None for the working tree.
        unpaired: why the final models are not compared image by image; empty if they are.
        figures: by the file that they stand in.
        same: titles of the plots that do not differ.
        undrawn: why others are not drawn, a sentence each.
    """

    old: str
    new: str | None
    verdicts: Sequence[Verdict]
    unpaired: str
    params: Sequence[Line]
    figures: Mapping[str, Sequence[Line]]
    drawings: Sequence[Drawing]
    same: Sequence[str]
    undrawn: Sequence[str]

    @property
    def this(self) -> str:
        return self.new or "this run"

    @property
    def differing(self) -> int:
        return sum(map(len, self.figures.values()))

    @property
    def by_subset(self) -> dict[str, list[Verdict]]:
        found: dict[str, list[Verdict]] = {}
        for verdict in self.verdicts:
            found.setdefault(verdict.subset, []).append(verdict)
        return found

    def summary(self) -> list[str]:
        """What the verdicts come to, a sentence for each subset."""
        return [_sentence(subset, found) for subset, found in self.by_subset.items()]


def page(comparison: Comparison) -> str:
    """The HTML page."""
    style = "".join(
        FOLDER.joinpath(name).read_text("utf-8") for name in ("report.css", "comparison.css")
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _render("comparison.html.jinja", comparison, style=style, style_hash=f"sha256-{digest}")


def markdown(comparison: Comparison) -> str:
    """The same, but for the plots, as GitHub reads it."""
    return _render("comparison.md.jinja", comparison)


def value(given: Any) -> str:
    """A parameter or figure, in words as YAML has them; a dash where there is none."""
    if given is None:
        return "\N{EN DASH}"
    if isinstance(given, float):
        return f"{given:.6g}".replace("-", html.MINUS)
    return html.count(given) if type(given) is int else html.setting(given)


def change(line: Line) -> str:
    """What a number grew by, with its sign; nothing of what is no number."""
    if not all(type(one) in (int, float) for one in (line.old, line.new)):
        return ""
    text = f"{line.new - line.old:+.4g}" if type(line.new - line.old) is float else ""
    return (text or f"{line.new - line.old:+,}").replace("-", html.MINUS)


def in_words(figure: str) -> str:
    """A figure's name as it stands in a sentence."""
    return NAMES.get(figure, figure.replace("_", " "))


def code(text: object) -> str:
    """Any text as code in Markdown, also inside a table, where nothing in it has a meaning."""
    plain = str(text) or " "
    if not re.search(r"[`|\\\s]", plain.replace(" ", "")):
        return f"`{plain}`"
    return f"<code>{literally(plain)}</code>"


def literally(text: str) -> str:
    """Any text in Markdown, where nothing in it has a meaning."""
    return "".join(one if one.isalnum() or one in " .,:;'" else f"&#{ord(one)};" for one in text)


def _sentence(subset: str, verdicts: Sequence[Verdict]) -> str:
    told = []
    for word in ("better", "worse"):
        named = [in_words(one.figure) for one in verdicts if one.shown.split(",")[0] == word]
        if named:
            listed = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
            told.append(f"{listed} {'is' if len(named) == 1 else 'are'} {word}")
    shown = "; ".join(told) or "no difference is shown"
    return f"On {subset} ({verdicts[0].images:,} images) {shown}."


def _render(template: str, comparison: Comparison, **more: object) -> str:
    environment = html.templates(escaped=template.endswith(".html.jinja"))
    named = (html.percent, html.percents, html.number, html.signed, html.points, html.count)
    environment.filters |= {
        one.__name__: one for one in (*named, value, change, code, literally, in_words)
    }
    environment.globals |= html.TEXTS | {"MOST_LINES": MOST_LINES}
    return environment.get_template(template).render(found=comparison, **more)
