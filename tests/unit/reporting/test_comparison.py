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

from pipeline.reporting import comparison, html, overlays
from pipeline.reporting.comparison import Change, Comparison, Plot, Verdict

ODD = "<script>alert(1)</script> | `a` \\| [x](http://y) *b* _c_\n# d"
HISTORY: dict[str, list[Any]] = {
    "epoch": [0.0, 1.0, 2.0],
    **{name: [0.7, 0.5, 0.4] for name in ("loss", "val_loss", "accuracy", "val_accuracy")},
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


def svg(kind: str) -> str:
    return overlays.svg(kind, {"main": COLUMNS[kind], "this run": COLUMNS[kind]})


def verdict(subset: str, outcome: str = "better", metric: str = "log_loss") -> Verdict:
    return Verdict(subset, metric, 120, 0.5, 0.4, None, (-0.1, -0.2, -0.01), outcome)


EMPTY = Comparison("main", None, [], "", [], {}, [], [], [])
RATE = Change("fine_tune.learning_rate", 0.0005, 0.0002)
LOSS = Change("final.test.log_loss", 0.5, 0.4, comparison.APART)
FULL = replace(
    EMPTY,
    verdicts=[verdict("valid", "no difference shown"), verdict("test")],
    params=[RATE, Change("data.classes", None, ["a", "b"])],
    metrics={"metrics/evaluate.json": [LOSS]},
    plots=[Plot(f"head_{kind}", kind, "about", svg(kind)) for kind in COLUMNS],
    unchanged=["ROC, head"],
)
STRANGE = replace(
    EMPTY,
    old=ODD,
    new=ODD,
    verdicts=[verdict("test")],
    unpaired=f"Not paired by image: {ODD}.",
    params=[Change(ODD, ODD, [ODD])],
    metrics={ODD: [Change(ODD, ODD, 1)]},
    plots=[Plot("head_roc", "ROC", "about", svg("roc"))],
    not_drawn=[f"ROC, {ODD}, is not drawn."],
)


class Text(HTMLParser):
    """The elements of a page, and its text without the style."""

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


def rendered(markdown: str) -> str:
    """Markdown as GitHub reads it."""
    return str(MarkdownIt("commonmark").enable("table").render(markdown))


def cells(text: str) -> list[str]:
    """A table of a text as code, and one cell more."""
    page = rendered(f"| a | b |\n|---|---|\n| {html.code(text)} | end |\n")
    tags = re.findall(r"<td[^>]*>(.*?)</td>", page, re.DOTALL)
    return [Text(f"<p>{one}</p>").text for one in tags]


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zs", "Zl", "Zp"))))
def test_any_text_appears_literally_in_a_markdown_table(text: str) -> None:
    assert cells(text) == [text or " ", "end"]


@pytest.mark.parametrize("text", ["two words", "a\nb", "a\r\n\n| x |", ODD])
def test_no_text_breaks_a_markdown_table(text: str) -> None:
    assert [" ".join(one.split()) for one in cells(text)] == [" ".join(text.split()), "end"]


def test_no_name_is_markup() -> None:
    page, markdown = comparison.page(STRANGE), comparison.markdown(STRANGE)
    assert "<script" not in page + markdown
    assert Text(page).text.count("<script>alert(1)</script>") >= 8
    plain = comparison.markdown(replace(FULL, unpaired="Not paired.", not_drawn=["Not."]))
    assert set(Text(rendered(markdown)).tags) <= {*Text(rendered(plain)).tags, "code"}
    assert Text(rendered(markdown)).text.count("[x](http://y) *b* _c_") >= 8


def test_the_page_needs_no_network_and_runs_no_script() -> None:
    page = comparison.page(FULL)
    assert re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"", page) == []
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in page
    assert [text for text in ("<script", "url(") if text in page] == []


def test_the_first_sentences_name_the_differences_beyond_chance() -> None:
    verdicts = [*FULL.verdicts, verdict("test", "worse", "roc_auc")]
    assert comparison.markdown(replace(FULL, verdicts=verdicts)).startswith(
        "# This run against `main`\n\n2 parameters and 1 metric differ.\n"
        "On valid (120 images) no difference is shown.\n"
        "On test (120 images) log loss is better; ROC AUC is worse.\n"
    )


def test_a_long_table_is_folded_in_the_page_and_cut_in_markdown() -> None:
    lines = [Change(f"per_class.{number}.f1", 0.1, 0.2) for number in range(300)]
    long = replace(EMPTY, metrics={"metrics/evaluate.json": lines})
    visible, folded = comparison.page(long).split("<details>")
    assert (visible.count("</tr>"), folded.count("</tr>")) == (51, 251)
    assert "<summary>250 more</summary>" in folded
    text = comparison.markdown(long)
    assert (text.count(".f1`"), "200 more are in `index.html`." in text) == (100, True)
    assert len(text) < 65_536  # the longest comment on GitHub


def test_values_are_formatted_like_yaml_and_only_numbers_have_a_difference() -> None:
    values = [None, True, 1e-5, 0.092265, 25000, "auto", [1, None]]
    expected = ["\u2013", "true", "1e\u221205", "0.092265", "25,000", "auto", "[1, null]"]
    assert [html.value(value) for value in values] == expected
    pairs: list[tuple[Any, Any]] = [(0.5, 0.4), (3, 1), (None, 1), ("a", "b"), (False, True)]
    changes = [html.change(Change("key", *pair)) for pair in pairs]
    assert changes == ["\u22120.1", "\u22122", "", "", ""]


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_plot_repeats_follows_the_dark_mode_and_bears_any_name(kind: str) -> None:
    first = svg(kind)
    assert first == svg(kind)
    assert ("<dc:" in first, "prefers-color-scheme:dark" in first) == (False, True)
    for name in ("_hidden", "$x_1$ <b>", "a" * 90, "\u732b"):
        named = {"actual": [name, "cat"], "predicted": ["cat", name]}
        columns = named if kind == "confusion" else COLUMNS[kind]
        ET.fromstring(overlays.svg(kind, {name: columns}))  # noqa: S314


def test_a_paired_difference_without_an_interval_says_so() -> None:
    one = replace(verdict("test", "no difference shown"), difference=(-0.1, None, None))
    paired = replace(EMPTY, verdicts=[one])
    assert "| \u22120.1000 (interval not available) |" in comparison.markdown(paired)
    assert "\u22120.1000 <small>interval not available</small>" in comparison.page(paired)


def test_of_many_classes_the_most_confused_are_drawn() -> None:
    names = [f"class {number}" for number in range(40)]
    columns = {"actual": names, "predicted": [*names[:36], *names[:35:-1]]}
    drawn = overlays.svg("confusion", {"main": columns})
    assert "<!-- main: most confused of 40 classes -->" in drawn
    shown = {number for number in range(40) if f"<!-- class {number} -->" in drawn}
    assert shown == {*range(26), *range(36, 40)}


def test_a_confusion_matrix_shows_how_the_counts_changed() -> None:
    old = {"actual": ["cat", "cat", "dog"], "predicted": ["dog", "dog", "dog"]}
    changed = overlays.svg("confusion", {"a": old, "b": COLUMNS["confusion"]})
    assert ("<!-- +1 -->" in changed, "<!-- \u22121 -->" in changed) == (True, True)
    assert "<!-- +1 -->" not in svg("confusion")


@browser.needs_browser
@pytest.mark.xdist_group("browser")
def test_the_page_fits_a_phone_in_dark_mode(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(comparison.page(FULL), encoding="utf-8")
    with browser.chromium() as driver:
        browser.look(driver, 390, "dark")
        driver.get((tmp_path / "index.html").as_uri())
        images = driver.find_elements(By.TAG_NAME, "img")
        widths = [int(str(one.get_attribute("naturalWidth"))) for one in images]
        width = driver.execute_script("return document.documentElement.scrollWidth")
        plot = driver.find_element(By.CLASS_NAME, "plot")
        background = plot.value_of_css_property("background-color")
        messages = browser.console(driver)
    assert (len(widths), min(widths) > 0) == (len(COLUMNS), True)
    assert (width, background, messages) == (390, "rgba(27, 32, 37, 1)", [])
