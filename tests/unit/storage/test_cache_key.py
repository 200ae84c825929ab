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
        (machine, "model_name", "ACME 9001"),
        (machine, "kernel_features", ["avx2"]),  # cloud processors of several ages share a name
        (platform, "machine", "riscv64"),
        (platform, "python_version_tuple", ("3", "99", "0")),
    ],
)
def test_code_packages_and_machine_count(
    module: object, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key()
    monkeypatch.setattr(module, name, lambda *_: value)
    assert key() != before


def test_only_the_libraries_that_compute_count_and_with_them_the_accelerators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def by_jax(version: str = "1") -> str:
        return cache_key.of("extract", SETTINGS, None, {"jax": version})

    assert len({key(), by_jax("1"), by_jax("2")}) == 3
    before = key(), by_jax()
    monkeypatch.setattr(fingerprint, "libraries", lambda: {"backend": {"tensorflow": "0"}})
    assert (key(), by_jax()) == before
    monkeypatch.setattr(machine, "accelerators", lambda: ["one"])
    assert key() == before[0]
    assert by_jax() != before[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("python_version_tuple", (*platform.python_version_tuple()[:2], "99")),
        ("python_version", f"{platform.python_version()}rc9"),
    ],
)
def test_a_patch_of_python_does_not_count(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key()
    monkeypatch.setattr(platform, name, lambda: value)
    assert key() == before
