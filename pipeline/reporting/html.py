"""Render the report as one HTML page, and format numbers for people.

The page loads nothing but images beside it. Style and script are inline, and the security policy
allows only these, by their hashes; names and labels are escaped everywhere.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml

FOLDER = Path(__file__).parent / "templates"
CAPTIONS: dict[str, dict[str, Any]] = yaml.safe_load(
    FOLDER.joinpath("captions.yaml").read_text(encoding="utf-8")
)
LIMITS = {
    "FIRST_LINES": 50,  # of a long table; the others are hidden at first
    "MOST_LINES": 100,  # of a table in Markdown; a comment on GitHub holds 65,536 characters
    "MANY_CLASSES": 12,  # tables by class with more rows are folded
    "MANY_GALLERIES": 12,  # the galleries after these are folded
}
NAMES = {"roc_auc": "ROC AUC", "brier": "Brier score"}  # other metrics are named by their keys
MINUS = "\N{MINUS SIGN}"
NARROW = "\N{NO-BREAK SPACE}"


class Picture(NamedTuple):
    """An image file beside the page: its path from there, and its size in pixels."""

    path: str
    width: int
    height: int


def page(content: dict[str, object], template: str = "report.html.jinja") -> str:
    """Render the report, or another page with its style and script.

    The first lines of a template list the content.
    """
    script = FOLDER.joinpath("report.js").read_text(encoding="utf-8")
    hashes = {"script": script, "script_hash": source_hash(script)}
    return render(template, content | hashes, "report.css")


def render(template: str, content: Mapping[str, object], *styles: str) -> str:
    """Render a template of this package, escaping values if it makes HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=template.endswith(".html.jinja"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {function.__name__: function for function in FORMATS}
    style = "".join(FOLDER.joinpath(name).read_text(encoding="utf-8") for name in styles)
    hashed = {"style": style, "style_hash": source_hash(style)}
    return environment.get_template(template).render(CAPTIONS | LIMITS | hashed, **content)


def source_hash(text: str) -> str:
    """Return the hash of an inline style or script, as in a security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def percent(share: float, images: int = 0) -> str:
    """Format a share with one decimal, or two from 1,000 images on: "97.5 %", "98.25 %"."""
    return f"{100 * share:.{2 if images >= 1_000 else 1}f}{NARROW}%"


def percents(shares: tuple[float, float], images: int = 0) -> str:
    """Format a range of shares without the sign: "92.9 to 99.1"."""
    return " to ".join(percent(share, images)[:-2] for share in shares)


def chance(probability: float) -> str:
    """Format a probability; only 0 and 1 themselves are shown as 0 and 100 %."""
    if 0.9995 <= probability < 1:
        return f">{NARROW}99.9{NARROW}%"
    return f"<{NARROW}0.1{NARROW}%" if 0 < probability < 0.0005 else percent(probability)


def number(value: float, sign: str = "") -> str:
    """Format a number with four decimals, or none from 10 on; `sign` precedes positive ones."""
    text = f"{value:z.4f}" if abs(value) < 10 else f"{value:,.0f}"
    return (sign if round(value, 4) > 0 else "") + text.replace("-", MINUS)


def points(share: float) -> str:
    """Format a difference of two shares in percentage points, with its sign."""
    text = f"{100 * share:z.2f}".replace("-", MINUS)
    return f"+{text}" if round(share, 4) > 0 else text


def count(value: int) -> str:
    """Format an integer with separators between thousands."""
    return f"{value:,}"


def setting(value: object) -> str:
    """Format a parameter like YAML."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {setting(one)}' for key, one in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(setting, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def value(parameter: Any) -> str:
    """Format a parameter or metric like YAML, None as a dash."""
    if parameter is None:
        return "\N{EN DASH}"
    if isinstance(parameter, float):
        return f"{parameter:.6g}".replace("-", MINUS)
    return count(parameter) if type(parameter) is int else setting(parameter)


def change(line: Any) -> str:
    """Format the difference of two numbers with its sign; empty for anything else."""
    if not all(type(one) in (int, float) for one in (line.old, line.new)):
        return ""
    difference = line.new - line.old
    text = f"{difference:+.4g}" if type(difference) is float else f"{difference:+,}"
    return text.replace("-", MINUS)


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


FORMATS = (
    *(percent, percents, chance, number, points, count, setting),
    *(value, change, in_words, code, literally),
)
