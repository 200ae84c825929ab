"""The lock files are complete, agree with each other and with pyproject.toml, and are installed
step by step.
"""

import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from project import ROOT

LOCKS = (
    *("requirements.lock", "requirements-test.lock", "requirements-uv.lock"),
    "benchmarks/requirements.lock",
)
HASHES = r"(?: \\\n +--hash=sha256:[0-9a-f]{64})+\n"
PACKAGE = re.compile(r"^([\w.-]+==[\w.]+(?: ; [^\\\n]+?)?)" + HASHES, re.M)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages(lock: str) -> list[str]:
    """Return `name==version ; marker` of each package; the file holds nothing else but hashes."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / lock).read_text(encoding="utf-8"), flags=re.M)
    assert PACKAGE.sub("", text).strip() == ""
    return PACKAGE.findall(text)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_holds_names_versions_and_hashes_and_no_address(lock: str) -> None:
    assert packages(lock)
    assert "://" not in (ROOT / lock).read_text(encoding="utf-8")


def test_the_pipeline_runs_and_is_tested_with_the_same_versions() -> None:
    run, test = set(packages("requirements.lock")), set(packages("requirements-test.lock"))
    assert run < test
    names = {package.partition("==")[0] for package in run}
    assert names.isdisjoint({"ruff", "mypy", "pytest", "hypothesis", "selenium", "zizmor", "uv"})


@pytest.mark.parametrize("lock", LOCKS[:2])
def test_the_lock_files_satisfy_pyproject(lock: str) -> None:
    locked = [Requirement(package) for package in packages(lock)]
    required = list(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        required += extra if lock == "requirements-test.lock" else []
    for wanted in map(Requirement, required):
        name = wanted.name.lower().replace(".", "-")
        versions = [str(one.specifier)[2:] for one in locked if one.name == name]
        assert versions, f"{name} is not locked; run `make lock UPGRADE=`"
        assert all(version in wanted.specifier for version in versions), (wanted, versions)


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A project whose `uv` and `python` record their arguments; `uv` fails if `broken` exists."""
    for name in ("Makefile", "pyproject.toml", *LOCKS[:3]):
        shutil.copyfile(ROOT / name, tmp_path / name)
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "uv"):
        (folder / name).write_text(
            f'#!/bin/sh\necho {name} "$@" >>calls\n'
            '! { [ -e broken ] && [ "$1 $2" = "pip sync" ]; }\n',
            encoding="utf-8",
        )
        (folder / name).chmod(0o755)
    return tmp_path


def calls(project: Path, target: str, *changed: str) -> list[str]:
    """Run `make` after touching files; return the lock files installed and by which program."""
    time.sleep(0.02)  # coarser than what file systems tell apart
    for name in changed:
        (project / name).touch()
    time.sleep(0.02)
    (project / "calls").unlink(missing_ok=True)
    subprocess.run(["make", "--silent", target], cwd=project, check=True, capture_output=True)
    text = (project / "calls").read_text() if (project / "calls").exists() else ""
    return re.findall(r"^(?:uv pip|python -m pip) .* (\S+\.lock)$", text, re.M)


def test_make_installs_only_what_is_missing(stand_ins: Path) -> None:
    run, test = ".venv/.installed", ".venv/.installed-test"
    assert calls(stand_ins, run) == ["requirements.lock"]
    assert calls(stand_ins, run) == []
    assert calls(stand_ins, test) == ["requirements-test.lock"]
    assert calls(stand_ins, run) == []
    assert calls(stand_ins, run, "requirements-test.lock") == []
    assert calls(stand_ins, test) == ["requirements-test.lock"]
    # A new run lock removes what only tests need, so that the next test installs it again.
    assert calls(stand_ins, run, "requirements.lock") == ["requirements.lock"]
    assert calls(stand_ins, test) == ["requirements-test.lock"]


def test_pip_installs_the_same_file_where_uv_fails(stand_ins: Path) -> None:
    (stand_ins / "broken").touch()
    assert calls(stand_ins, ".venv/.installed") == ["requirements.lock"] * 2
    text = (stand_ins / "calls").read_text()
    assert re.search("^python -m pip install .*--require-hashes .*requirements.lock$", text, re.M)


@pytest.mark.parametrize(
    ("imports", "contract"),
    [
        ({"pipeline/images/decode": "pipeline.training.loop"}, "a lower one BROKEN"),
        ({"pipeline/new/__init__": "pipeline.paths"}, "a lower one BROKEN"),
        ({"pipeline/training/loop": "stages.split"}, "a command BROKEN"),
        ({"stages/split": "pipeline.commands.cli"}, "a command BROKEN"),
        ({"stages/a": "stages.b", "stages/b": "stages.a"}, "of one BROKEN"),
        ({"pipeline/images/decode": "keras"}, "import Keras BROKEN"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(
    imports: dict[str, str], contract: str, tmp_path: Path
) -> None:
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    for module, imported in imports.items():
        path = tmp_path / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"\nimport {imported}\n")
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    ended = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert contract in ended.stdout
