"""The lock files agree with each other and with pyproject.toml, and are installed step by step."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from project import ROOT

from pipeline import paths
from pipeline.runtime import fingerprint

RUN_LOCK, TEST_LOCK, UV_LOCK = (f"requirements{name}.lock" for name in ("", "-test", "-uv"))
JAX_LOCK, TF_LOCK = (f"requirements-{name}.lock" for name in ("jax-cuda", "tf-cuda"))
EXTRAS = {
    RUN_LOCK: [],
    TEST_LOCK: ["dask", "hub", "jax", "test"],
    JAX_LOCK: ["jax-cuda"],
    TF_LOCK: ["tf-cuda"],
}
HASHES = r"(?: \\\n +--hash=sha256:[0-9a-f]{64})+\n"
PACKAGE = re.compile(r"^([\w.-]+==[\w.]+(?: ; [^\\\n]+?)?)" + HASHES, re.M)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def packages(lock: str) -> list[str]:
    """Return `name==version ; marker` of each package; the file has only hashes and comments."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / lock).read_text(encoding="utf-8"), flags=re.M)
    assert PACKAGE.sub("", text).strip() == ""  # and so no address
    return PACKAGE.findall(text)


def test_the_pipeline_runs_and_is_tested_with_the_same_versions() -> None:
    run, test = set(packages(RUN_LOCK)), set(packages(TEST_LOCK))
    assert run < test
    assert packages(UV_LOCK) != [] != packages("benchmarks/requirements.lock")
    names = {package.partition("==")[0] for package in run}
    assert names.isdisjoint({"ruff", "mypy", "pytest", "hypothesis", "selenium", "zizmor", "uv"})


@pytest.mark.parametrize("lock", [JAX_LOCK, TF_LOCK])
def test_packages_for_gpus_are_added_to_the_same_versions(lock: str) -> None:
    run, gpu = set(packages(RUN_LOCK)), set(packages(lock))
    assert run < gpu
    assert any(package.startswith("nvidia-cudnn") for package in gpu - run)
    tested = {package.partition(" ;")[0] for package in packages(TEST_LOCK)}
    names = {package.partition("==")[0] for package in tested}
    versions = {package.partition(" ;")[0] for package in gpu}
    assert {one for one in versions if one.partition("==")[0] in names} <= tested


def test_code_yaml_names_packages_that_the_locks_for_gpus_have() -> None:
    for backend, on_gpu in fingerprint.ON_GPU.items():
        locked = packages(paths.GPU_LOCKS[backend].name)
        assert {*on_gpu} <= {package.partition("==")[0] for package in locked}


def test_every_imported_package_is_declared() -> None:
    distributions = importlib.metadata.packages_distributions()
    imported = set()
    for path in (*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("stages/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.partition(".")[0] for name in names}
    imported -= {"pipeline", "stages", *sys.stdlib_module_names}
    extras = [one for needed in PROJECT["optional-dependencies"].values() for one in needed]
    needed = [Requirement(one).name for one in [*PROJECT["dependencies"], *extras]]
    declared = {*map(canonicalize_name, needed)}
    assert {"dvc_data", "scipy", "numpy"} <= imported
    for name in imported:
        assert declared & {*map(canonicalize_name, distributions[name])}, name


@pytest.mark.parametrize("lock", EXTRAS)
def test_the_lock_files_satisfy_pyproject(lock: str) -> None:
    locked = [Requirement(package) for package in packages(lock)]
    required = list(PROJECT["dependencies"])
    for extra in EXTRAS[lock]:
        required += PROJECT["optional-dependencies"][extra]
    for wanted in map(Requirement, required):
        name = wanted.name.lower().replace(".", "-")
        versions = [str(one.specifier)[2:] for one in locked if one.name == name]
        assert versions, f"{name} is not locked; run `make lock UPGRADE=`"
        assert all(version in wanted.specifier for version in versions), (wanted, versions)


def test_one_advisory_is_accepted_and_still_needed() -> None:
    """Without a fixed version; when another is locked, remove the exception and this test."""
    workflow = (ROOT / ".github" / "workflows" / "packages.yaml").read_text(encoding="utf-8")
    assert {*re.findall("--ignore-vuln (\\S+)", workflow)} == {"CVE-2025-69872"}
    audited = {*re.findall("-r (\\S+)", workflow)}
    assert audited == {"benchmarks/requirements.lock", *EXTRAS} - {RUN_LOCK}  # a part of the tests'
    assert "**diskcache 5.6.3, CVE-2025-69872**" in (ROOT / "SECURITY.md").read_text("utf-8")
    for lock in EXTRAS:
        assert "diskcache==5.6.3" in packages(lock)


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A project whose `uv` and `python` record their arguments; `uv` fails if `broken` exists."""
    for name in ("Makefile", "pyproject.toml", *EXTRAS, UV_LOCK):
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


def calls(project: Path, target: str, *changed: str, accelerator: str = "") -> list[str]:
    """Run `make` after touching files; return the lock files that were installed."""
    time.sleep(0.02)  # coarser than what file systems tell apart
    for name in changed:
        (project / name).touch()
    time.sleep(0.02)
    (project / "calls").unlink(missing_ok=True)
    words = ["make", "--silent", *filter(None, [accelerator]), target]
    subprocess.run(words, cwd=project, check=True, capture_output=True)
    text = (project / "calls").read_text() if (project / "calls").exists() else ""
    return re.findall(r"\S+\.lock", text)


def test_packages_for_a_gpu_stay_until_others_are_asked_for(stand_ins: Path) -> None:
    gpu, test = ".venv/.installed-jax-cuda", ".venv/.installed-test"
    assert calls(stand_ins, ".venv/.installed") == [RUN_LOCK]
    assert calls(stand_ins, gpu, accelerator="ACCELERATOR=jax-cuda") == [JAX_LOCK]
    assert calls(stand_ins, gpu) == []
    assert calls(stand_ins, test) == [TEST_LOCK, JAX_LOCK]
    assert calls(stand_ins, test) == []
    assert calls(stand_ins, ".venv/.installed", accelerator="ACCELERATOR=cpu") == [RUN_LOCK]
    assert calls(stand_ins, test) == [TEST_LOCK]
    words = ["make", "ACCELERATOR=rocm", test]
    refused = subprocess.run(words, cwd=stand_ins, capture_output=True, text=True)
    assert 'expected cpu, jax-cuda or tf-cuda, got "rocm"' in refused.stderr
    assert refused.returncode != 0


def test_make_installs_only_what_is_missing(stand_ins: Path) -> None:
    run, test = ".venv/.installed", ".venv/.installed-test"
    assert calls(stand_ins, run) == [RUN_LOCK]
    assert calls(stand_ins, run) == []
    assert calls(stand_ins, test) == [TEST_LOCK]
    assert calls(stand_ins, run, TEST_LOCK) == []
    assert calls(stand_ins, test) == [TEST_LOCK]
    # A new run lock removes what only tests need, so that the next test installs it again.
    assert calls(stand_ins, run, RUN_LOCK) == [RUN_LOCK]
    assert calls(stand_ins, test) == [TEST_LOCK]


def test_pip_installs_the_same_file_where_uv_fails(stand_ins: Path) -> None:
    (stand_ins / "broken").touch()
    assert calls(stand_ins, ".venv/.installed") == [RUN_LOCK] * 2
    text = (stand_ins / "calls").read_text()
    assert re.search("^python -m pip install .*--require-hashes .*requirements.lock$", text, re.M)
