"""The fingerprint of code changes with what can change an output byte, and with nothing else."""

import importlib.metadata
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from project import ROOT

from pipeline.runtime import fingerprint
from pipeline.runtime.errors import UserError

STAGES = sorted(path.stem for path in (ROOT / "stages").glob("[!_]*.py") if path.stem != "code")
Everything = dict[str, object]
NEUTRAL = re.compile(r"pipeline/(runtime/|(config|paths|schema|schema_values|stage)\.py)")
# Imported, and without influence on a byte: they check, show, measure, fetch or distribute.
INDIFFERENT = {
    *("distributed", "dvc", "dvc_data", "google_crc32c", "openvino", "packaging", "psutil"),
    *("pydantic", "pydantic_core", "requests", "tensorflow", "threadpoolctl", "tqdm", "yaml"),
    *("pipeline", "stages"),
}


@pytest.fixture(scope="module")
def committed() -> Everything:
    fingerprint.forget()
    return fingerprint.everything(STAGES)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the code and the locks, to change."""
    for name in ("pipeline", "stages"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for lock in ROOT.glob("requirements*.lock"):
        shutil.copyfile(lock, tmp_path / lock.name)
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    fingerprint.forget()
    yield tmp_path
    fingerprint.forget()


def digest(source: str) -> str:
    return fingerprint.parse(source).digest


def test_code_yaml_is_that_of_the_code_whatever_its_comments(
    project: Path, committed: Everything
) -> None:
    for path in project.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        path.write_text(f"# first\n{text}\n# last\n", encoding="utf-8")
    fingerprint.forget()
    assert fingerprint.everything(STAGES) == committed
    assert yaml.safe_load((ROOT / "code.yaml").read_text(encoding="utf-8")) == committed


BASE = '''
"""What it does."""
import os
from a import b, c


class Row(NamedTuple):
    """A row."""

    name: str
    count: int = 0


def compute(x: int, y: float = 0.5) -> int:
    """Compute."""
    z: int = 1
    print(f"computing {x} of {y:.2f}")
    if x < 0:
        raise UserError(f"x: expected 0 or more, got {x}")
    with progress("computing", x) as bar:
        return b(x) + z * y - os.cpu_count()


def judge():
    raise decode.Unreadable("no image")
'''

SAME = {
    "a comment": ("z: int = 1", "z: int = 1  # one"),
    "a docstring": ('"""Compute."""', '"""Compute z."""'),
    "the module's docstring": ("What it does.", "What it did."),
    "a class's docstring": ('"""A row."""', '"""A line."""'),
    "a return annotation": ("-> int", "-> float | None"),
    "an argument's annotation": ("x: int, y", "x: np.ndarray, y"),
    "a local annotation": ("z: int = 1", "z = 1"),
    "layout": ("b(x) + z * y", "(\n            b(x)\n)            + (z * y)"),
    "order of imports": ("import os\nfrom a import b, c", "from a import c, b\nimport os"),
    "an import for annotations": ("import os\n", "import os\nfrom abc import Sized\n"),
    "words of a raise": ("expected 0 or more", "expected a number of at least 0"),
    "words of a print": ("computing {x} of", "now {x} from"),
    "words of a progress bar": ('progress("computing"', 'progress("working"'),
}
OTHER = {
    "a constant": ("z: int = 1", "z: int = 2"),
    "an operator": ("z * y", "z / y"),
    "a default": ("y: float = 0.5", "y: float = 0.25"),
    "a raised class": ("raise UserError", "raise ValueError"),
    "what is imported": ("from a import b, c", "from d import b, c"),
    "a field's type": ("count: int = 0", "count: float = 0"),
    "order of fields": ("    name: str\n    count: int = 0", "    count: int = 0\n    name: str"),
    "an argument's name": ("y: float", "why: float"),
    "a text that is returned": ("return b(x)", 'return "b"'),
    "why an image is rejected": ("no image", "not an image"),
    "order of statements": ("    z: int = 1\n    print", "    print(x)\n    z: int = 1\n    print"),
}


@pytest.mark.parametrize("edit", SAME | OTHER)
def test_the_hash_changes_with_what_may_change_a_byte(edit: str) -> None:
    before, after = (SAME | OTHER)[edit]
    assert before in BASE
    assert (digest(BASE.replace(before, after)) == digest(BASE)) is (edit in SAME)


def test_entries_have_imports_inside_functions_and_no_neutral_module() -> None:
    entries = {stage: fingerprint.of(stage).keys() for stage in STAGES}
    assert not [key for keys in entries.values() for key in keys if NEUTRAL.match(key)]
    assert {"pipeline/images/decode.py", "numpy", "stages/split.py"} < entries["split"]
    inside = "pipeline/backbones/from_params.py"
    assert inside in entries["fine_tune"]
    assert inside not in entries["split"]


def test_features_by_openvino_depend_on_no_version_of_keras() -> None:
    of_extract, by_keras = fingerprint.of("extract"), fingerprint.extractor("keras", "jax")
    by_openvino = fingerprint.extractor("openvino", "tensorflow")
    assert {"openvino", "pipeline/backbones/openvino.py"} < by_openvino.keys()
    assert not {"keras", "tensorflow"} & (of_extract | by_openvino).keys()
    assert {"keras", "pipeline/backbones/build.py"} < by_keras.keys()
    assert not {"tensorflow", "openvino"} & by_keras.keys()


def test_the_pages_templates_belong_to_the_report(project: Path, committed: Everything) -> None:
    with (project / "pipeline/reporting/templates/report_parts.html.jinja").open("a") as file:
        file.write("<p>more</p>")
    now = fingerprint.everything(STAGES)
    changed = [key for key in committed if now[key] != committed[key]]
    assert changed == ["report"]


def test_every_package_that_is_imported_is_known_to_decide_or_not() -> None:
    imported = {
        name.partition(".")[0]
        for folder in ("pipeline", "stages")
        for path in (ROOT / folder).rglob("*.py")
        for name in fingerprint.parse(path.read_text(encoding="utf-8")).imports
    }
    known = sys.stdlib_module_names | fingerprint.DECIDING.keys() | INDIFFERENT
    assert imported - known == set()


@pytest.mark.parametrize(
    ("distribution", "stages"),
    [
        ("cykooz-resizer", {"split", "resize", "report"}),
        ("jinja2", {"report"}),
        ("dvc", set()),
        ("ruff", set()),
    ],
)
def test_a_version_changes_the_entries_of_the_stages_that_use_it(
    distribution: str, stages: set[str], project: Path, committed: Everything
) -> None:
    for lock in project.glob("requirements*.lock"):
        text = lock.read_text(encoding="utf-8")
        changed = text.replace(f"\n{distribution}==", f"\n{distribution}==9!")
        lock.write_text(changed, encoding="utf-8")
    now = fingerprint.everything(STAGES)
    assert {key for key in committed if now[key] != committed[key]} == stages


def test_other_installed_packages_are_refused_with_what_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fingerprint.require_installed(entry := fingerprint.of("split"))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    with pytest.raises(UserError, match=r"code.yaml: expected .*, got 1.0; run `touch req"):
        fingerprint.require_installed(entry)
