"""The report's page as a browser without a screen sees it: Chromium, where there is one."""

import csv
import io
import sys
from collections.abc import Iterator
from typing import Any

import browser
import findings_by_hand as by_hand
import pytest
from findings_by_hand import COMMA, NASTY, PAGE, shown
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from stages import report

MANY = [f"train/cat.{number}.jpg" for number in range(60)]

pytestmark = [browser.needs_browser, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with all that needs a browser's look: galleries, nasty names, a long table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("report"))
        patch.setattr(sys, "argv", ["stages/report.py", *by_hand.ARGUMENTS])
        lines = [
            (NASTY, "train", "train", "cat", "dog", 0.99, 1),
            (COMMA, "train", "valid", "cat", "a, b", 0.98, 1),
            *((member, "train", "train", "cat", "dog", 0.5, 0) for member in MANY),
        ]
        by_hand.write(classes=("cat", NASTY), labels=lines)
        copies = [COMMA, "train", "valid", "train/a", "cat"]
        by_hand.write_table("copies", by_hand.COLUMNS["copies"].split(","), copies)
        by_hand.explain(
            [
                shown(NASTY, "images/1.png", label=NASTY, said=NASTY, note=NASTY),
                shown("train/cat.2.jpg", "images/2.png"),
                shown("train/cat.3.jpg", "images/3.png", heatmap=None),
                shown("train/bad.jpg", None, note="truncated image"),
            ]
        )
        assert report.main() == 0
        return PAGE.absolute().as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    with browser.chromium() as driver:
        yield driver


@pytest.fixture
def page(chromium: Chrome, address: str) -> Chrome:
    """The page, fresh, on a screen of 1280 x 900."""
    look(chromium, 1280, "light")
    chromium.get(address)
    console(chromium)
    return chromium


def look(driver: Chrome, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},  # a click waits for no scrolling
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def one(page: Chrome, selector: str) -> WebElement:
    return page.find_element(By.CSS_SELECTOR, selector)


def press(page: Chrome, key: str) -> None:
    page.switch_to.active_element.send_keys(key)


def script(page: Chrome, source: str) -> Any:
    return page.execute_script(source)


def console(page: Chrome) -> list[Any]:
    """What it has said since it was last asked."""
    return list(page.get_log("browser"))  # type: ignore[no-untyped-call]


def settled(page: Chrome) -> bool:
    """Every picture is loaded, also those that wait until they are looked at."""
    return bool(
        script(
            page,
            "const shown = [...document.images].filter(image => image.getAttribute('src'));"
            "for (const image of shown) image.loading = 'eager';"
            "return shown.every(image => image.complete);",
        )
    )


def test_every_picture_loads_and_the_console_stays_empty(chromium: Chrome, address: str) -> None:
    look(chromium, 1280, "light")
    console(chromium)
    chromium.get(address)
    WebDriverWait(chromium, 10).until(settled)
    widths = script(
        chromium,
        "return [...document.images].filter(image => image.getAttribute('src'))"
        ".map(image => [image.getAttribute('src'), image.naturalWidth])",
    )
    assert sorted(widths) == [
        ["explain/heatmaps/1.png", 24],
        ["explain/heatmaps/2.png", 24],
        *([["explain/images/1.png", 24]] * 2),  # in a gallery, and beside its doubtful label
        *([["explain/images/2.png", 24]] * 2),
        *([["explain/images/3.png", 24]] * 2),
        ["pictures/confusion.png", 60],
        ["pictures/learning_curves.png", 60],
        ["pictures/roc.png", 60],
    ]
    one(chromium, "#galleries .zoom").click()
    assert console(chromium) == []


def test_a_nasty_name_is_shown_and_does_nothing(page: Chrome) -> None:
    assert script(page, "return document.querySelectorAll('[onerror], img[src=x]').length") == 0
    assert NASTY in one(page, "#galleries .tile").text
    one(page, "#galleries .zoom").click()
    assert NASTY in one(page, "dialog .caption").text
    one(page, "dialog .close").click()
    one(page, ".tick").click()
    assert NASTY in str(one(page, "#csv").get_property("value"))
    assert script(page, "return document.querySelectorAll('[onerror], img[src=x]').length") == 0
    assert console(page) == []  # an alert would have failed each of these steps


def test_the_tab_key_reaches_all_that_can_be_used(page: Chrome) -> None:
    """Boxes that scroll are reached too, so that arrow keys move them."""
    expected = script(
        page,
        "const usable = 'a[href], button, input, select, textarea, summary, [tabindex=\"0\"]';"
        "window.usable = [...document.querySelectorAll(usable)].filter(e => e.checkVisibility());"
        "window.reached = new Set();"
        "document.addEventListener('focusin', event => window.reached.add(event.target));"
        "return window.usable.length",
    )
    assert expected > 100
    one(page, "body").send_keys(Keys.TAB * (expected + 5))
    missed = "return window.usable.filter(e => !window.reached.has(e)).map(e => e.outerHTML)"
    assert script(page, missed) == []


def test_a_picture_is_enlarged_and_left_again_by_keys_alone(page: Chrome) -> None:
    tiles = page.find_elements(By.CSS_SELECTOR, "#galleries .zoom")
    assert len(tiles) == 3
    script(page, "document.querySelectorAll('#galleries .zoom')[1].focus()")
    press(page, Keys.ENTER)
    assert one(page, "dialog").is_displayed()
    assert one(page, "dialog .caption .member").text == "train/cat.2.jpg · test"
    assert one(page, "dialog .said").text == "cat, said to be dog, 99.3 %"
    assert enlarged(page) == ["explain/images/2.png", "explain/heatmaps/2.png"]
    press(page, Keys.ARROW_RIGHT)
    assert enlarged(page) == ["explain/images/3.png"]
    assert one(page, "dialog .place").text == "3 of 3"
    press(page, Keys.ARROW_RIGHT)
    assert enlarged(page) == ["explain/images/1.png", "explain/heatmaps/1.png"]
    press(page, Keys.ARROW_LEFT)
    assert enlarged(page) == ["explain/images/3.png"]
    press(page, Keys.ESCAPE)
    assert not one(page, "dialog").is_displayed()
    assert page.switch_to.active_element == tiles[1]
    press(page, Keys.SPACE)
    assert one(page, "dialog").is_displayed()


def enlarged(page: Chrome) -> list[str]:
    return list(
        script(
            page,
            "return [...document.querySelectorAll('dialog img')]"
            ".filter(image => image.checkVisibility()).map(image => image.getAttribute('src'))",
        )
    )


def test_heatmaps_take_the_place_of_photos_where_there_are_some(page: Chrome) -> None:
    visible = (
        "return [...document.querySelectorAll('#galleries .tile img')]"
        ".filter(image => image.checkVisibility()).map(image => image.getAttribute('src'))"
    )
    photos = [f"explain/images/{number}.png" for number in (1, 2, 3)]
    assert script(page, visible) == photos
    one(page, "#heatmaps").click()
    heatmaps = [f"explain/heatmaps/{number}.png" for number in (1, 2)]
    assert script(page, visible) == [*heatmaps, photos[2]]


def rows(page: Chrome) -> list[list[str]]:
    return list(csv.reader(io.StringIO(str(one(page, "#csv").get_property("value")), newline="")))


def test_ticked_rows_become_lines_for_the_label_fixes(page: Chrome) -> None:
    boxes = page.find_elements(By.CSS_SELECTOR, '[data-table="labels"] .tick')
    choices = page.find_elements(By.CSS_SELECTOR, '[data-table="labels"] .choice')
    assert rows(page) == []
    for box in boxes[:3]:
        box.send_keys(Keys.SPACE)
    choices[2].send_keys("exclude")
    expected = [
        [NASTY, "dog", "looked at"],
        [COMMA, "a, b", "looked at"],
        [MANY[0], "exclude", "looked at"],
    ]
    assert rows(page) == expected
    assert one(page, "#ticked").text == "3 lines"
    one(page, '[data-table="copies"] .tick').send_keys(
        Keys.SPACE
    )  # the same file again, to be taken out
    assert rows(page) == expected
    boxes[1].send_keys(Keys.SPACE)
    assert rows(page) == [expected[0], expected[2], [COMMA, "exclude", "looked at"]]
    who = one(page, "#who")
    who.clear()
    who.send_keys('Ann, "the vet"')
    assert {row[2] for row in rows(page)} == {'Ann, "the vet"'}
    one(page, "#header").click()
    assert rows(page)[0] == ["member", "label", "source"]
    assert str(one(page, "#csv").get_property("value")).endswith("\n")


def test_the_lines_are_copied_or_where_that_is_refused_selected(page: Chrome) -> None:
    one(page, ".tick").click()
    script(page, "navigator.clipboard.writeText = async text => { window.copied = text }")
    one(page, "#copy").click()
    assert one(page, "#copied").text == "Copied."
    assert script(page, "return window.copied") == f"{NASTY},dog,looked at\n"
    script(page, "navigator.clipboard.writeText = async () => { throw new Error('refused') }")
    one(page, "#copy").click()
    assert one(page, "#copied").text == "Selected: copy with Ctrl+C or Cmd+C."
    assert script(page, "return getSelection().toString()") == f"{NASTY},dog,looked at\n"


def test_the_rest_of_a_long_table_comes_at_a_click(page: Chrome) -> None:
    visible = (
        "return [...document.querySelectorAll('[data-table=labels] .tick')]"
        ".filter(box => box.checkVisibility()).length"
    )
    assert script(page, visible) == 50
    one(page, ".show").click()
    assert script(page, visible) == 62
    assert script(page, "return JSON.parse(document.activeElement.dataset.member)") == MANY[48]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_a_page_scrolls_down_but_never_sideways(page: Chrome, width: int) -> None:
    look(page, width, "light")
    wider = (
        "const width = document.documentElement.clientWidth;"
        "return document.documentElement.scrollWidth > width && [...document.querySelectorAll('*')]"
        ".filter(e => e.getBoundingClientRect().right > width && !e.closest('.scroll, nav'))"
        ".map(e => e.outerHTML)"
    )
    assert script(page, wider) is False


def test_a_dark_system_gets_a_dark_page_and_paper_a_white_one(page: Chrome) -> None:
    def ground() -> str:
        return str(script(page, "return getComputedStyle(document.body).backgroundColor"))

    assert ground() == "rgb(247, 247, 245)"
    look(page, 1280, "dark")
    assert ground() == "rgb(18, 21, 24)"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert ground() == "rgb(255, 255, 255)"
    assert not one(page, "nav").is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
