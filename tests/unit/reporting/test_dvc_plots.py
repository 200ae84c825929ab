"""The page that `dvc plots` fills: what its script writes, asking no network for anything."""

import re
import sys
from pathlib import Path

import browser
import pytest
from project import Project
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from pipeline.reporting import plots_page

PAGE = Path(__file__).parent.parent / ".dvc" / "plots" / "page.html"


def test_the_committed_page_is_what_the_script_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["plots_page.py", str(tmp_path / "page.html")])
    assert plots_page.main() == 0
    assert (tmp_path / "page.html").read_bytes() == PAGE.read_bytes()


def test_the_page_loads_nothing_and_leaves_dvc_its_places() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=.?http", page) == []
    assert page.count("{plot_divs}") == 1
    assert page.count("{refresh_tag}") == 1
    assert "{scripts}" not in page  # where DVC puts the addresses of a content network
    assert page.count("window.vegaEmbed=") == 1


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
        drawn = WebDriverWait(driver, 30).until(
            lambda page: [*page.find_elements(By.CSS_SELECTOR, ".vega-embed")]
        )
        text = driver.find_element(By.TAG_NAME, "body").get_attribute("innerHTML")
        said = driver.get_log("browser")  # type: ignore[no-untyped-call]
    stages = 2  # plots of head and fine-tuned, which their stages name
    assert len(drawn) == len(titles) + stages
    assert all(title in str(text) for title in titles)
    assert [line for line in said if line["level"] == "SEVERE"] == []
