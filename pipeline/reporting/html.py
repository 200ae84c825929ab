"""Render the report as one HTML page, and format numbers for people.

The page loads nothing but images beside it. Style and script are inline, and the security policy
allows only these, by their hashes; names and labels are escaped everywhere.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import yaml

FOLDER = Path(__file__).parent / "templates"
CAPTIONS: dict[str, dict[str, Any]] = yaml.safe_load(
    FOLDER.joinpath("captions.yaml").read_text(encoding="utf-8")
)
LIMITS = {
    "FIRST_LINES": 50,  # of a long table; the others are hidden at first
    "MANY_CLASSES": 12,  # tables by class with more rows are folded
    "MANY_GALLERIES": 12,  # the galleries after these are folded
}
MINUS = "\N{MINUS SIGN}"
NARROW = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Picture:
    """An image file beside the page: its path from there, and its size in pixels."""

    path: str
    width: int
    height: int

    @property
    def address(self) -> str:
        return quote(self.path)


def page(content: dict[str, object]) -> str:
    """Render the report; the first lines of its template list the content."""
    script = read("report.js")
    hashes = {"script": script, "script_hash": source_hash(script)}
    return render("report.html.jinja", ("report.css",), content | hashes)


def render(
    template: str,
    styles: Sequence[str],
    content: Mapping[str, object],
    formats: Sequence[Callable[..., str]] = (),
) -> str:
    """Render a template of this package with more `formats`, escaping values if it makes HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=template.endswith(".html.jinja"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {function.__name__: function for function in (*FORMATS, *formats)}
    environment.globals |= {**CAPTIONS, **LIMITS}
    style = "".join(map(read, styles))
    return environment.get_template(template).render(
        content, style=style, style_hash=source_hash(style)
    )


def read(name: str) -> str:
    return FOLDER.joinpath(name).read_text(encoding="utf-8")


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


def number(value: float) -> str:
    """Format a number with four decimals, or none from 10 on."""
    text = f"{value:z.4f}" if abs(value) < 10 else f"{value:,.0f}"
    return text.replace("-", MINUS)


def signed(value: float) -> str:
    """Format a difference with its sign."""
    return f"+{number(value)}" if round(value, 4) > 0 else number(value)


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
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def title_of(name: str) -> str:
    """Turn a key or a file's name into words."""
    return name.replace("_", " ").capitalize()


FORMATS = (percent, percents, chance, number, signed, points, count, setting, title_of)
