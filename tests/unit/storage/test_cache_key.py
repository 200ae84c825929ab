"""A cache key changes with everything that changes a row, and with nothing else."""

import platform
import re

import pytest

from pipeline.runtime import fingerprint, machine
from pipeline.storage import cache_key

SETTINGS: dict[str, object] = {"size": 64, "augment": None, "layers": ["a", "b"]}


def key(settings: dict[str, object] = SETTINGS, stage: str = "extract") -> str:
    return cache_key.of(stage, settings)


def test_the_same_settings_in_another_order_give_the_same_key() -> None:
    assert re.fullmatch(r"extract-[0-9a-f]{24}", key())
    assert key(dict(reversed(SETTINGS.items()))) == key()
    assert cache_key.of("extract", SETTINGS, "view") == f"view-{key().partition('-')[2]}"


def test_each_setting_and_the_stage_count() -> None:
    changes: list[dict[str, object]] = [{"size": "64"}, {"augment": {}}, {"layers": ["b", "a"]}]
    keys = {key(), key({}), key(stage="resize"), *(key(SETTINGS | change) for change in changes)}
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (fingerprint, "of", {"pipeline/images/resize.py": "0"}),
        (fingerprint, "libraries", {"backend": "0"}),
        (machine, "model_name", "ACME 9001"),
        (machine, "flags", frozenset(["avx2"])),  # cloud processors of several ages share a name
        (machine, "accelerators", ["one"]),
        (platform, "machine", "riscv64"),
        (platform, "python_version", "3.99.0"),
    ],
)
def test_code_packages_and_machine_count(
    module: object, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key()
    monkeypatch.setattr(module, name, lambda *_: value)
    assert key() != before
