"""The page and the Markdown of a comparison: no name is markup, long tables stay readable."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from selenium.webdriver.common.by import By

from pipeline.reporting import comparison, overlays
from pipeline.reporting.comparison import Comparison, Drawing, Line, Verdict

ODD = "<script>alert(1)</script> | `a` \\| [x](http://y) *b* _c_\n# d"
HISTORY: dict[str, list[Any]] = {
    "epoch": [0.0, 1.0, 2.0],
    "loss": [0.7, 0.5, 0.4],
    "val_loss": [0.7, 0.6, 0.5],
    "accuracy": [0.5, 0.8, 0.9],
    "val_accuracy": [0.5, 0.7, 0.8],
}
COLUMNS: dict[str, dict[str, list[Any]]] = {
    "loss": HISTORY,
    "accuracy": HISTORY,
    "roc": {"fpr": [0.0, 0.0, 1.0], "tpr": [0.0, 0.75, 1.0]},
    "precision_recall": {"recall": [0.0, 0.5, 1.0], "precision": [1.0, 0.9, 0.5]},
    "reliability": {"confidence": [0.55, 0.95], "accuracy": [0.5, 0.97]},
    "thresholds": {"threshold": [0.0, 0.5, 1.0], "accuracy": [0.5, 0.9, 0.5]},
    "confusion": {"actual": ["cat", "cat", "dog"], "predicted": ["cat", "dog", "dog"]},
}


def drawing(kind: str) -> Drawing:
    sides = {"main": COLUMNS[kind], "this run": COLUMNS[kind]}
    svg = overlays.svg(overlays.KINDS[kind], sides)
    return Drawing(f"head_{kind}", overlays.KINDS[kind].title, overlays.KINDS[kind].about, svg)


def verdict(subset: str, shown: str = "better", figure: str = "log_loss") -> Verdict:
    return Verdict(subset, figure, 120, 0.5, 0.4, None, (-0.1, -0.2, -0.01), shown)


EMPTY = Comparison("main", None, [], "", [], {}, [], [], [])
WHOLE = replace(
    EMPTY,
    verdicts=[verdict("valid", "no difference shown"), verdict("test")],
    params=[
        Line("fine_tune.learning_rate", 0.0005, 0.0002),
        Line("data.classes", None, ["a", "b"]),
    ],
    figures={"metrics/evaluate.json": [Line("final.test.log_loss", 0.5, 0.4, comparison.APART)]},
    drawings=[drawing(kind) for kind in overlays.KINDS],
    same=["ROC, head"],
)


class Text(HTMLParser):
    """The elements of a page, and the text in it, but for its style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.text += data


def rendered(text: str) -> Text:
    return Text(MarkdownIt("commonmark").enable("table").render(text))


def cells(text: str) -> list[str]:
    """Of a table in Markdown, as GitHub reads it."""
    page = MarkdownIt("commonmark").enable("table").render(text)
    found = re.findall(r"<td[^>]*>(.*?)</td>", page, re.DOTALL)
    return [Text(f"<p>{one}</p>").text for one in found]


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zs", "Zl", "Zp"))))
def test_any_text_stands_in_a_markdown_table_as_it_is(text: str) -> None:
    assert cells(f"| a | b |\n|---|---|\n| {comparison.code(text)} | end |\n") == [
        text or " ",
        "end",
    ]


@pytest.mark.parametrize("text", ["two words", "a\nb", "a\r\n\n| x |", "`", "a|b", "\\|", ODD])
def test_no_text_breaks_out_of_a_markdown_table(text: str) -> None:
    found = cells(f"| a | b |\n|---|---|\n| {comparison.code(text)} | end |\n")
    assert [" ".join(one.split()) for one in found] == [" ".join(text.split()), "end"]


def odd() -> Comparison:
    return Comparison(
        ODD,
        ODD,
        [verdict("test")],
        f"Not paired by image: {ODD}.",
        [Line(ODD, ODD, [ODD])],
        {ODD: [Line(ODD, ODD, 1)]},
        [replace(drawing("roc"), title="ROC")],
        [],
        [f"ROC, {ODD}, is not drawn."],
    )


def test_no_name_is_markup_in_the_page() -> None:
    page = comparison.page(odd())
    assert "script" not in Text(page).tags
    assert Text(page).text.count("<script>alert(1)</script>") >= 8
    assert "<script" not in page


def test_no_name_is_markup_in_markdown() -> None:
    plain = rendered(comparison.markdown(replace(WHOLE, unpaired="Not paired.", undrawn=["Not."])))
    found = rendered(comparison.markdown(odd()))
    assert set(found.tags) <= set(plain.tags) | {"code"}
    assert "<script" not in comparison.markdown(odd())
    assert found.text.count("[x](http://y) *b* _c_") >= 8


def test_the_page_asks_no_network_and_runs_no_script() -> None:
    page = comparison.page(WHOLE)
    assert re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"", page) == []
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in page
    assert "<script" not in page
    assert "url(" not in page


def test_the_first_sentences_tell_what_is_more_than_chance() -> None:
    text = comparison.markdown(
        replace(WHOLE, verdicts=[*WHOLE.verdicts, verdict("test", "worse", "roc_auc")])
    )
    assert text.startswith(
        "# This run against `main`\n\n2 parameters and 1 figure differ.\n"
        "On valid (120 images) no difference is shown.\n"
        "On test (120 images) log loss is better; ROC AUC is worse.\n"
    )


def test_a_long_table_is_folded_in_the_page_and_cut_in_markdown() -> None:
    lines = [Line(f"per_class.{number}.f1", 0.1, 0.2) for number in range(300)]
    long = replace(EMPTY, figures={"metrics/evaluate.json": lines})
    page = comparison.page(long)
    shown, folded = page.split("<details>")
    assert (shown.count("</tr>"), folded.count("</tr>")) == (51, 251)
    assert "<summary>250 more</summary>" in folded
    text = comparison.markdown(long)
    assert text.count(".f1`") == comparison.MOST_LINES
    assert "200 more are in `index.html`." in text
    assert len(text) < 65_536


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, "\u2013"),
        (True, "true"),
        (1e-5, "1e\u221205"),
        (0.092265, "0.092265"),
        (25000, "25,000"),
        ("auto", "auto"),
        ([1, None], "[1, null]"),
    ],
)
def test_a_value_is_shown_as_yaml_has_it(given: object, shown: str) -> None:
    assert comparison.value(given) == shown


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [(0.5, 0.4, "\u22120.1"), (3, 1, "\u22122"), (None, 1, ""), ("a", "b", ""), (False, True, "")],
)
def test_a_change_is_told_of_numbers_only(old: object, new: object, shown: str) -> None:
    assert comparison.change(Line("key", old, new)) == shown


@pytest.mark.parametrize("kind", overlays.KINDS)
def test_a_drawing_repeats_and_tells_no_date(kind: str) -> None:
    first, second = drawing(kind).svg, drawing(kind).svg
    assert first == second
    ET.fromstring(first)  # noqa: S314
    assert "<dc:" not in first
    assert "prefers-color-scheme:dark" in first


@pytest.mark.parametrize("kind", overlays.KINDS)
@pytest.mark.parametrize("name", ["_hidden", "$x_1$ <b>", "a" * 90, "\u732b"])
def test_no_name_of_a_side_breaks_a_drawing(kind: str, name: str) -> None:
    columns = COLUMNS[kind]
    if kind == "confusion":
        columns = {"actual": [name, "cat"], "predicted": ["cat", name]}
    ET.fromstring(overlays.svg(overlays.KINDS[kind], {name: columns}))  # noqa: S314


def test_confusion_shows_counts_and_by_how_much_they_have_grown() -> None:
    old = {"actual": ["cat", "cat", "dog"], "predicted": ["dog", "dog", "dog"]}
    both = overlays.svg(overlays.KINDS["confusion"], {"a": old, "b": COLUMNS["confusion"]})
    same = overlays.svg(
        overlays.KINDS["confusion"], {"a": COLUMNS["confusion"], "b": COLUMNS["confusion"]}
    )
    assert ("<!-- +1 -->" in both, "<!-- \u22121 -->" in both) == (True, True)
    assert "<!-- +1 -->" not in same


@browser.needs_browser
@pytest.mark.xdist_group("browser")
def test_the_page_is_whole_in_a_browser_on_a_phone_and_in_the_dark(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(comparison.page(WHOLE), encoding="utf-8")
    with browser.chromium() as driver:
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        driver.get((tmp_path / "index.html").as_uri())
        pictures = driver.find_elements(By.TAG_NAME, "img")
        assert len(pictures) == len(overlays.KINDS)
        assert all(int(str(one.get_attribute("naturalWidth"))) > 0 for one in pictures)
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        ground = driver.find_element(By.CLASS_NAME, "plot").value_of_css_property(
            "background-color"
        )
        said = driver.get_log("browser")  # type: ignore[no-untyped-call]
    assert wide == 390
    assert ground == "rgba(27, 32, 37, 1)"
    assert said == []
