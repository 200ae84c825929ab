"""A row cache's name changes with whatever changes a row, and with nothing else."""

import importlib.metadata
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from imported import ROOT, project_files

from pipeline.runtime import machine
from pipeline.runtime.errors import UserError
from pipeline.storage import cache_key
from stages import extract, fine_tune, resize

SETTINGS = {"size": 64, "fit": "squash", "augment": None, "layers": ["a", "b"]}
MODULES = ("one.py", "models/two.py")
PACKAGES = ("numpy", "pillow", "of nobody")
VERSIONS = {"numpy": "2.0", "pillow": "12.3"}


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two modules, two packages and a processor that a test may change."""
    monkeypatch.setattr(cache_key, "HERE", tmp_path)
    (tmp_path / "models").mkdir()
    for name in MODULES:
        (tmp_path / name).write_bytes(b"x = 1\n")
    versions(VERSIONS, monkeypatch)
    monkeypatch.setattr(cache_key, "model_name", lambda: "ACME 9000")


def versions(known: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name not in known:
            raise importlib.metadata.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(importlib.metadata, "version", version)


def of(
    what: str = "extract",
    settings: Mapping[str, object] = SETTINGS,
    modules: Iterable[str] = MODULES,
    packages: Iterable[str] = PACKAGES,
) -> str:
    return cache_key.of(what, settings, modules, packages)


def test_the_same_gives_the_same_name_in_whatever_order() -> None:
    name = of()
    assert re.fullmatch(r"extract-[0-9a-f]{24}", name)
    backwards = dict(reversed(SETTINGS.items()))
    assert of(settings=backwards, modules=MODULES[::-1], packages=PACKAGES[::-1]) == name


def test_each_setting_counts() -> None:
    others = [
        {**SETTINGS, "size": 65},
        {**SETTINGS, "size": "64"},
        {**SETTINGS, "fit": "crop"},
        {**SETTINGS, "augment": {"rotation": 15}},
        {**SETTINGS, "layers": ["b", "a"]},
        {**SETTINGS, "more": None},
        {},
    ]
    assert len({of(), of("resize"), *(of(settings=other) for other in others)}) == 9


def test_each_byte_of_each_module_counts(tmp_path: Path) -> None:
    names = [of()]
    for module in MODULES:
        (tmp_path / module).write_bytes(b"x = 2\n")
        names.append(of())
    (tmp_path / "models/two.py").write_bytes(b"x = 2\n\n")
    names += [of(), of(modules=MODULES[:1])]
    assert len(set(names)) == 5
    for module in MODULES:
        (tmp_path / module).write_bytes(b"x = 1\n")
    assert of() == names[0]


def test_each_packages_version_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {of()}
    for other in (
        {**VERSIONS, "numpy": "2.0.1"},
        {"pillow": "12.3"},
        {**VERSIONS, "of nobody": "0"},
    ):
        versions(other, monkeypatch)
        names.add(of())
    assert len(names) == 4


def test_processor_machine_and_python_count(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [of()]
    monkeypatch.setattr(cache_key, "model_name", lambda: "ACME 9001")
    names.append(of())
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    names.append(of())
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    names.append(of())
    assert len(set(names)) == 4


def test_the_processors_instructions_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a machine is rented, processors of several generations have one name."""
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    names = set()
    for flags in ("avx2 fma", "avx2 fma avx512f"):
        machine.CPUINFO.write_text(
            f"model name\t: ACME 9000\nflags\t\t: {flags}\n", encoding="utf-8"
        )
        machine.flags.cache_clear()
        names.add(of())
    machine.flags.cache_clear()
    assert len(names) == 2


@pytest.mark.parametrize("names", ["resize-1", ["extract-1", "extract-2"]])
def test_work_under_another_identity_is_refused(names: str | list[str]) -> None:
    cache_key.require_same(names, names)
    others = "resize-2" if isinstance(names, str) else names[::-1]
    with pytest.raises(UserError) as told:
        cache_key.require_same(names, others)
    assert str(told.value) == (
        "cluster: expected workers with the same code, packages and kind of processor as here, "
        "got others; bring them into line and restart them"
    )


def code_below(script: str, folder: str) -> set[str]:
    """The files below a folder of `stages/` that a script reaches, by their names there."""
    reached = project_files(ROOT / "stages" / script)
    return {
        name.removeprefix("stages/") for name in reached if name.startswith(f"stages/{folder}/")
    }


def test_a_feature_depends_on_every_module_below_models_that_extract_reaches() -> None:
    expected = code_below("extract.py", "models") | {"cpu.py", "extract.py"}
    assert set(extract.CODE) == expected
    assert len(extract.CODE) == len(expected)
    assert {"models/backbone.py", "models/views.py"} < expected


def test_a_tuned_model_depends_on_every_module_below_models_that_fine_tune_reaches() -> None:
    expected = code_below("fine_tune.py", "models") | {
        "cpu.py",
        "fine_tune.py",
        "network.py",
        "store/arrays.py",
    }
    assert set(fine_tune.CODE) == expected
    assert len(fine_tune.CODE) == len(expected)


def test_pixels_depend_on_every_module_below_images_that_makes_them() -> None:
    finding = {"images/source.py", "images/labels.py"}  # they find bytes, which the key stands for
    reached = code_below("resize.py", "images")
    assert finding < reached
    assert set(resize.CODE) == reached - finding | {"resize.py"}
    assert len(resize.CODE) == len(set(resize.CODE))
