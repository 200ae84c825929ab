"""What several test files use: the project's root and a params.yaml with a few keys changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
Params = dict[str, Any]


@pytest.fixture
def params() -> Params:
    """The committed `params.yaml` as nested dictionaries, free to change."""
    content: Params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return content


@pytest.fixture
def write_params(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Work in an empty folder with the committed parameters, the given sections updated.

    write_params(split={"valid": 0.5}) changes one key; each call starts from the last one.
    """
    monkeypatch.chdir(tmp_path)

    def write(**sections: dict[str, Any]) -> None:
        for name, changed in sections.items():
            params[name] |= changed
        Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")

    return write
