"""The report in headless Chromium, if there is one."""

import csv
import io
from collections.abc import Iterator

import browser
import findings_by_hand as by_hand
import pytest
from browser import console, look
from findings_by_hand import COMMA, NASTY, PAGE, shown
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from pipeline.storage.results import AUDIT_COLUMNS

MANY = [f"train/cat.{number}.jpg" for number in range(60)]
IMAGES = [f"explain/images/{number}.png" for number in (1, 2, 3)]
HEATMAPS = [f"explain/heatmaps/{number}.png" for number in (1, 2)]

pytestmark = [browser.needs_browser, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with galleries, nasty names and a long table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("report"))
        lines = [
            (NASTY, "train", "train", "cat", "dog", 0.99, 1),
            (COMMA, "train", "valid", "cat", "a, b", 0.98, 1),
            *((member, "train", "train", "cat", "dog", 0.5, 0) for member in MANY),
        ]
        by_hand.write(classes=("cat", NASTY), labels=lines)
        copies = [COMMA, "train", "valid", "train/a", "cat"]
        by_hand.write_table("copies", AUDIT_COLUMNS["copies"], copies)
        by_hand.explain(
            [
                shown(NASTY, "images/1.png", label=NASTY, said=NASTY, note=NASTY),
                shown("train/cat.2.jpg", "images/2.png"),
                shown("train/cat.3.jpg", "images/3.png", heatmap=None),
                shown("train/bad.jpg", None, note="truncated image"),
            ]
        )
        assert by_hand.report() == 0
        return PAGE.absolute().as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    with browser.chromium() as driver:
        yield driver


@pytest.fixture
def page(chromium: Chrome, address: str) -> Chrome:
    """The page, freshly loaded on a screen of 1280 x 900."""
    look(chromium, 1280, "light")
    console(chromium)
    chromium.get(address)
    return chromium


def one(page: Chrome, selector: str) -> WebElement:
    return page.find_element(By.CSS_SELECTOR, selector)


def press(page: Chrome, key: str) -> None:
    page.switch_to.active_element.send_keys(key)


def visible(page: Chrome, selector: str) -> list[str]:
    """Addresses of the visible images of a selector."""
    return list(
        page.execute_script(
            f"return [...document.querySelectorAll('{selector}')]"
            ".filter(image => image.checkVisibility()).map(image => image.getAttribute('src'))",
        )
    )


def test_every_image_loads_and_no_name_does_anything(page: Chrome) -> None:
    widths = WebDriverWait(page, 10).until(
        lambda page: page.execute_script(
            "const images = [...document.images].filter(image => image.getAttribute('src'));"
            "for (const image of images) image.loading = 'eager';"  # lazy ones included
            "return images.every(image => image.complete) &&"
            " images.map(image => [image.getAttribute('src'), image.naturalWidth])",
        )
    )
    plots = [f"pictures/{name}.png" for name in ("confusion", "learning_curves", "roc")]
    expected = [[image, 24] for image in HEATMAPS + 2 * IMAGES] + [[plot, 60] for plot in plots]
    assert sorted(widths) == sorted(expected)  # an image also stands beside its doubtful label
    assert NASTY in one(page, "#galleries .tile").text
    one(page, "#galleries .zoom").click()
    assert NASTY in one(page, "dialog .caption").text
    nasty = "return document.querySelectorAll('[onerror], img[src=x]').length"
    assert (page.execute_script(nasty), console(page)) == (0, [])


def test_the_tab_key_reaches_every_control_and_scrolling_box(page: Chrome) -> None:
    expected = page.execute_script(
        "const usable = 'a[href], button, input, select, textarea, summary, [tabindex=\"0\"]';"
        "window.usable = [...document.querySelectorAll(usable)].filter(e => e.checkVisibility());"
        "window.reached = new Set();"
        "document.addEventListener('focusin', event => window.reached.add(event.target));"
        "return window.usable.length",
    )
    assert expected > 100
    one(page, "body").send_keys(Keys.TAB * (expected + 5))
    missed = "return window.usable.filter(e => !window.reached.has(e)).map(e => e.outerHTML)"
    assert page.execute_script(missed) == []


def test_images_are_enlarged_and_browsed_by_keyboard(page: Chrome) -> None:
    tiles = page.find_elements(By.CSS_SELECTOR, "#galleries .zoom")
    assert len(tiles) == 3
    page.execute_script("document.querySelectorAll('#galleries .zoom')[1].focus()")
    press(page, Keys.ENTER)
    assert one(page, "dialog .caption .member").text == "train/cat.2.jpg · test"
    assert one(page, "dialog .said").text == "cat, predicted as dog, 99.3 %"
    assert visible(page, "dialog img") == [IMAGES[1], HEATMAPS[1]]
    press(page, Keys.ARROW_RIGHT)
    assert visible(page, "dialog img") == [IMAGES[2]]
    assert one(page, "dialog .place").text == "3 of 3"
    press(page, Keys.ARROW_RIGHT)
    assert visible(page, "dialog img") == [IMAGES[0], HEATMAPS[0]]
    press(page, Keys.ARROW_LEFT)
    assert visible(page, "dialog img") == [IMAGES[2]]
    press(page, Keys.ESCAPE)
    assert not one(page, "dialog").is_displayed()
    assert page.switch_to.active_element == tiles[1]
    press(page, Keys.SPACE)
    assert one(page, "dialog").is_displayed()


def test_heatmaps_replace_images_that_have_one(page: Chrome) -> None:
    assert visible(page, "#galleries .tile img") == IMAGES
    one(page, "#heatmaps").click()
    assert visible(page, "#galleries .tile img") == [*HEATMAPS, IMAGES[2]]


def rows(page: Chrome) -> list[list[str]]:
    return list(csv.reader(io.StringIO(str(one(page, "#csv").get_property("value")), newline="")))


def test_ticked_rows_become_lines_for_the_label_fixes(page: Chrome) -> None:
    boxes = page.find_elements(By.CSS_SELECTOR, '[data-table="labels"] .tick')
    choices = page.find_elements(By.CSS_SELECTOR, '[data-table="labels"] .choice')
    for box in boxes[:3]:
        box.send_keys(Keys.SPACE)
    choices[2].send_keys("exclude")
    expected = [
        [NASTY, "dog", "reviewed"],
        [COMMA, "a, b", "reviewed"],
        [MANY[0], "exclude", "reviewed"],
    ]
    assert (rows(page), one(page, "#ticked").text) == (expected, "3 lines")
    one(page, '[data-table="copies"] .tick').send_keys(Keys.SPACE)  # the same file, to exclude it
    assert rows(page) == expected
    boxes[1].send_keys(Keys.SPACE)
    assert rows(page) == [expected[0], expected[2], [COMMA, "exclude", "reviewed"]]
    one(page, "#source").clear()
    one(page, "#source").send_keys('Ann, "the vet"')
    assert {row[2] for row in rows(page)} == {'Ann, "the vet"'}
    one(page, "#header").click()
    assert rows(page)[0] == ["member", "label", "source"]


def test_lines_are_copied_or_at_least_selected(page: Chrome) -> None:
    one(page, ".tick").click()
    for action, message, result in (
        ("throw Error()", "Selected: copy with Ctrl+C or Cmd+C.", "getSelection().toString()"),
        ("window.copied = text", "Copied.", "window.copied"),
    ):
        page.execute_script(f"navigator.clipboard.writeText = async text => {{ {action} }}")
        one(page, "#copy").click()
        assert one(page, "#copied").text == message
        assert page.execute_script(f"return {result}") == f"{NASTY},dog,reviewed\n"


def test_a_click_shows_the_rest_of_a_long_table(page: Chrome) -> None:
    assert len(visible(page, "[data-table=labels] .tick")) == 50
    one(page, ".show").click()
    assert len(visible(page, "[data-table=labels] .tick")) == 62
    focused = page.execute_script("return JSON.parse(document.activeElement.dataset.member)")
    assert focused == MANY[48]


@pytest.mark.parametrize("width", [320, 1280])
def test_the_page_never_scrolls_sideways(page: Chrome, width: int) -> None:
    look(page, width, "light")
    wider = (
        "const width = document.documentElement.clientWidth;"
        "return document.documentElement.scrollWidth > width && [...document.querySelectorAll('*')]"
        ".filter(e => e.getBoundingClientRect().right > width && !e.closest('.scroll, nav'))"
        ".map(e => e.outerHTML)"
    )
    assert page.execute_script(wider) is False


def test_the_page_is_dark_in_dark_mode_and_white_on_paper(page: Chrome) -> None:
    def background() -> str:
        return str(page.execute_script("return getComputedStyle(document.body).backgroundColor"))

    assert background() == "rgb(247, 247, 245)"
    look(page, 1280, "dark")
    assert background() == "rgb(18, 21, 24)"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert background() == "rgb(255, 255, 255)"
    assert not one(page, "nav").is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
