"""The page that `dvc plots` fills: what its script writes, asking no network for anything."""

import re
import sys
from pathlib import Path

import pytest

from stages import plots_page

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
