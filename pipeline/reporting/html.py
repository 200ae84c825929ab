"""The report as one HTML page: text in, text out.

The page loads nothing but pictures that lie beside it. Its style and script stand inside, and its
security policy allows these alone, by their hashes; names and labels are escaped wherever they
appear.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2

FOLDER = Path(__file__).parent / "templates"
FIRST_LINES = 50  # of a long table that are shown at once
MANY_CLASSES = 12  # beyond, a table by class is folded
MANY_GALLERIES = 12  # beyond, galleries are folded
MINUS = "\N{MINUS SIGN}"
NARROW = "\N{NO-BREAK SPACE}"

# How to read each of the plots, by its file's name.
PLOTS = {
    "learning_curves": (
        "Learning curves",
        "Loss and accuracy by epoch: dotted on the images it learns from, solid on valid. Where "
        "the solid loss rises while the dotted one falls, it learns its images by heart; the epoch "
        "with the lowest solid loss is kept.",
    ),
    "confusion": (
        "Confusion",
        "A row for each true class, a column for what was said. The diagonal is right; the darker, "
        "the larger the share of the row.",
    ),
    "reliability": (
        "Reliability",
        "How often it is right, by how sure it is. On the grey line it is as sure as it is right, "
        "below the line too sure. A larger point stands for more images.",
    ),
    "roc": (
        "ROC",
        "The share found of what is looked for, by the share of the rest taken for it by mistake. "
        "The nearer to the upper left corner the better; the grey line is chance.",
    ),
    "precision_recall": (
        "Precision and recall",
        "Of what it says is of a class, the share that is (precision), by the share of the class "
        "that it finds (recall). The nearer to the upper right corner the better.",
    ),
    "scores": (
        "Spread of probabilities",
        "How many images of each class got which probability; heights are logarithmic. The better "
        "the model, the emptier the middle. Grey lines are thresholds.",
    ),
    "thresholds": (
        "Accuracy by threshold",
        "Accuracy where the second class is said from that probability on. Where the curve is flat "
        "the threshold matters little.",
    ),
}
MODELS = {"head": "Head", "fine_tune": "Fine-tuned", "final": "Final"}
SUBSETS = {
    "test": "test",
    "test_with_label_fixes": "test, as if the label fixes held",
    "valid": "valid",
}
FIGURES = {
    "accuracy": ("Accuracy", "share of images that are right"),
    "log_loss": ("Log loss", "nats; lower is better"),
    "brier": ("Brier score", "squared error of the probabilities; lower is better"),
    "expected_calibration_error": (
        "Calibration error",
        "how far being sure and being right are apart; lower is better",
    ),
    "roc_auc": ("ROC AUC", "area under the ROC curve; higher is better"),
    "average_precision": ("Average precision", "area under precision by recall; higher is better"),
}
THRESHOLDS = {
    "half": "one half",
    "symmetric": "errs equally often on both classes",
    "accurate": "most images right",
}
FIXES = {
    "relabelled": "given another class",
    "excluded": "taken out",
    "in_test": "in test, which keeps its labels",
    "unmatched": "that name no file",
}
AUDIT = {
    "labels": (
        "Labels that may be wrong",
        "A model that never saw the image prefers another class. The most doubtful stand first.",
    ),
    "outliers": (
        "Unlike all others",
        "Images whose features lie far from those of all others: often another subject, a drawing, "
        "a collage or text.",
    ),
    "light": ("Blank, dark, bright or blurred", "Images that show little, by simple measures."),
    "copies": (
        "Copies",
        "Images of one group are the same, or nearly. They stay in one subset, unless your folders "
        "part them; two labels in one group mean that one is wrong.",
    ),
    "alike": (
        "Alike by features",
        "Pairs that the network takes for copies though their pixels differ, such as two photos of "
        "one moment. Those in different subsets stand first: they flatter the figures.",
    ),
}
TEXTS = {
    "AUDIT": AUDIT,
    "FIGURES": FIGURES,
    "FIRST_LINES": FIRST_LINES,
    "FIXES": FIXES,
    "MANY_CLASSES": MANY_CLASSES,
    "MANY_GALLERIES": MANY_GALLERIES,
    "MODELS": MODELS,
    "PLOTS": PLOTS,
    "SUBSETS": SUBSETS,
    "THRESHOLDS": THRESHOLDS,
}


@dataclass(frozen=True)
class Picture:
    """A picture beside the page: its path from there, and its size in pixels."""

    path: str
    width: int
    height: int

    @property
    def address(self) -> str:
        return quote(self.path)


def templates(*, escaped: bool = True) -> jinja2.Environment:
    """What reads the templates beside this module; what is put into HTML must be `escaped`."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=escaped,  # noqa: S701  Markdown is not HTML
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def page(content: Mapping[str, object]) -> str:
    """The page with that content; the template's first lines tell what it needs."""
    environment = templates()
    environment.filters |= {
        "sum_of": lambda counts, key: counts.get(key, 0),
        "percent": percent,
        "percents": percents,
        "chance": chance,
        "number": number,
        "signed": signed,
        "points": points,
        "count": count,
        "setting": setting,
        "title_of": title_of,
    }
    environment.globals |= TEXTS
    style, script = (
        FOLDER.joinpath(name).read_text("utf-8") for name in ("report.css", "report.js")
    )
    return environment.get_template("report.html.jinja").render(
        content,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def percent(share: float, images: int = 0) -> str:
    """A share of so many images, as finely as they can tell: "97.5 %", of a thousand "98.25 %"."""
    return f"{100 * share:.{2 if images >= 1_000 else 1}f}{NARROW}%"


def percents(shares: tuple[float, float], images: int = 0) -> str:
    """From one share to another, without the sign: "92.9 to 99.1"."""
    return " to ".join(percent(share, images)[:-2] for share in shares)


def chance(probability: float) -> str:
    """A probability; one near 0 or 1 is not said to be that."""
    if 0.9995 <= probability < 1:
        return f">{NARROW}99.9{NARROW}%"
    return f"<{NARROW}0.1{NARROW}%" if 0 < probability < 0.0005 else percent(probability)


def number(value: float) -> str:
    """Four decimals, of values from ten on none."""
    text = f"{value:z.4f}" if abs(value) < 10 else f"{value:,.0f}"
    return text.replace("-", MINUS)


def signed(value: float) -> str:
    """A difference, with its sign."""
    return f"+{number(value)}" if round(value, 4) > 0 else number(value)


def points(share: float) -> str:
    """A difference of two shares in hundredths, with its sign."""
    text = f"{100 * share:z.2f}".replace("-", MINUS)
    return f"+{text}" if round(share, 4) > 0 else text


def count(value: int) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}"


def setting(value: object) -> str:
    """A parameter's value as YAML would have it."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {setting(one)}' for key, one in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(setting, value))}]"
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def title_of(name: str) -> str:
    """A file's name in words."""
    return name.replace("_", " ").capitalize()


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
