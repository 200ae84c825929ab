"""Digests of first downloads are pinned."""

from pathlib import Path

import pytest

from pipeline.runtime.errors import UserError
from stages import fetch_weights


def test_the_first_download_is_recorded_and_others_are_refused_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fetch_weights._check_pin("VGG16", "b" * 64)
    fetch_weights._check_pin("MobileNet-top", "a" * 64)
    pins = f"{'a' * 64}  MobileNet-top\n{'b' * 64}  VGG16\n"
    assert Path("data/weights.sha256").read_text() == pins
    assert capsys.readouterr().out.splitlines() == [
        f"fetch_weights: recorded the digest of {name} in data/weights.sha256; commit that file"
        for name in ("VGG16", "MobileNet-top")
    ]
    fetch_weights._check_pin("VGG16", "b" * 64)
    with pytest.raises(UserError, match=r"^fetch_weights VGG16: .* \(b+\), got .*\(c+\); remove"):
        fetch_weights._check_pin("VGG16", "c" * 64)
    assert Path("data/weights.sha256").read_text() == pins
    assert capsys.readouterr().out == ""
