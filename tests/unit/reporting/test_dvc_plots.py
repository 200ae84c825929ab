"""The page that `dvc plots` fills in needs no network."""

import re
from pathlib import Path

import browser
import pytest
from project import ROOT, Project
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from pipeline.reporting import dvc_plots

PAGE = ROOT / ".dvc" / "plots" / "page.html"


def test_the_committed_page_is_the_one_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".dvc/plots").mkdir(parents=True)
    assert dvc_plots.main() == 0
    assert dvc_plots.PAGE.read_bytes() == PAGE.read_bytes()


def test_the_page_loads_nothing_and_keeps_dvcs_placeholders() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=.?http", page) == []
    texts = ("{plot_divs}", "{refresh_tag}", "window.vegaEmbed=", "{scripts}")
    assert [page.count(text) for text in texts] == [1, 1, 1, 0]


@browser.needs_browser
@pytest.mark.xdist_group("browser")
def test_dvcs_plots_are_drawn_without_network(tmp_path: Path) -> None:
    project = Project.copy_of_this(tmp_path / "project")
    project.run("dvc", "plots", "show", "--out", "drawn")
    titles = re.findall(r"^  - ([^:]+): \{", project.read("dvc.yaml"), re.M)
    assert len(titles) > 8
    with browser.chromium() as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        driver.get((project.folder / "drawn" / "index.html").as_uri())
        plots = WebDriverWait(driver, 30).until(
            lambda page: [*page.find_elements(By.CSS_SELECTOR, ".vega-embed")]
        )
        text = driver.find_element(By.TAG_NAME, "body").get_attribute("innerHTML")
        messages = driver.get_log("browser")  # type: ignore[no-untyped-call]
    assert len(plots) == len(titles) + 2  # and the learning curves of head and fine-tuning
    assert all(title in str(text) for title in titles)
    assert [line for line in messages if line["level"] == "SEVERE"] == []
