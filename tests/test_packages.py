"""What is installed is audited, listed, and not older than what mends known faults."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from project import ROOT

from packages import audit, lock, sbom

LOCK = ROOT / "requirements.lock"
MINIMUMS = tomllib.loads((ROOT / "packages/minimums.toml").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SIX = lock.Pinned("six", "1.17.0", "", ("0" * 64,))
ZARR = [
    lock.Pinned("zarr", version, marker, ("0" * 64,))
    for version, marker in (("3.1.6", "python_full_version < '3.12'"), ("3.4.2", ""))
]
CLEAN = {"name": "six", "version": "1.17.0", "vulns": []}
FOUND = {**CLEAN, "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.18"], "aliases": []}]}
SKIPPED = {"name": "six", "skip_reason": "Dependency not found and could not be audited: six"}
ARGUED = {"id": "PYSEC-1", "package": "six", "why": "nothing here calls it"}


def test_a_lock_file_is_read_with_markers_and_hashes(tmp_path: Path) -> None:
    path = tmp_path / "some.lock"
    path.write_text(
        f"# by uv\na-b==1.0 ; python_version < '3.12' \\\n    --hash=sha256:{'a' * 64} \\\n"
        f"    --hash=sha256:{'b' * 64}\n    # via c\nc==2 \\\n    --hash=sha256:{'c' * 64}\n"
    )
    assert lock.read(path) == [
        lock.Pinned("a-b", "1.0", "python_version < '3.12'", ("a" * 64, "b" * 64)),
        lock.Pinned("c", "2", "", ("c" * 64,)),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a==1\n", r"expected a hash for each package, got none for a$"),
        ("--index-url https://x\n", r"line 1: expected a package or a hash, got '--index-url"),
        ("a @ https://x/a.whl\n", r"line 1: expected a package or a hash, got 'a @ https"),
        ("a>=1\n", r"line 1: expected a package or a hash, got 'a>=1'"),
    ],
)
def test_a_line_of_another_kind_is_refused(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "some.lock").write_text(content)
    with pytest.raises(ValueError, match=told):
        lock.read(tmp_path / "some.lock")


@pytest.mark.parametrize("name", ["requirements.lock", "benchmarks/requirements.lock"])
def test_every_package_of_the_lock_files_has_hashes_and_none_an_address(name: str) -> None:
    packages = lock.read(ROOT / name)
    assert len({package.name for package in packages}) >= 3
    assert not re.search("https?:", (ROOT / name).read_text(encoding="utf-8"))


def test_a_clean_answer_for_every_package_is_no_fault() -> None:
    assert audit.judge([SIX], [CLEAN], []) == []


@pytest.mark.parametrize("answers", [[], [SKIPPED], [{**CLEAN, "version": "1.16.0"}]])
def test_a_package_that_was_not_audited_is_a_fault(answers: list[dict[str, Any]]) -> None:
    assert audit.judge([SIX], answers, []) == [
        "expected an answer for every package, got none for six 1.17.0; run it where pip-audit "
        "reaches its advisory service"
    ]


def test_a_known_fault_is_told_with_what_mends_it() -> None:
    assert audit.judge([SIX], [FOUND], []) == [
        "six 1.17.0: expected nothing known against it, got PYSEC-1, mended in 1.18; renew the "
        "lock, or argue in packages/accepted.toml"
    ]
    assert audit.judge([SIX], [FOUND], [ARGUED]) == []


@pytest.mark.parametrize("accepted", [{**ARGUED, "why": " "}, {**ARGUED, "id": "PYSEC-2"}])
def test_an_exception_without_argument_or_need_is_a_fault(accepted: dict[str, str]) -> None:
    told = audit.judge([SIX], [FOUND], [accepted])
    assert told[-1] == (
        f"packages/accepted.toml: expected only what is needed and argued, got {accepted['id']} of "
        "six; remove it or say why"
    )
    assert len(told) == 2  # the fault itself is told, too


def test_two_versions_of_a_package_are_both_asked_for() -> None:
    assert audit.each_once([SIX, *ZARR, SIX]) == [[SIX, ZARR[0]], [ZARR[1]]]


def stand_in(folder: Path, answer: str) -> None:
    """A pip_audit that answers that, and keeps what it was asked."""
    (folder / "pip_audit.py").write_text(
        "import pathlib, sys\n"
        "path = pathlib.Path(sys.argv[sys.argv.index('--requirement') + 1])\n"
        "with open('asked.txt', 'a') as file:\n"
        "    file.write(' '.join(sys.argv[3:]) + chr(10) + path.read_text())\n"
        f"print({answer!r})\n"
    )


@pytest.mark.parametrize(
    ("answer", "status", "told"),
    [
        (json.dumps({"dependencies": [CLEAN], "fixes": []}), 0, ""),
        (
            json.dumps({"dependencies": [SKIPPED], "fixes": []}),  # as pip-audit says it, status 0
            1,
            "error: audit-packages: expected an answer for every package, got none for six 1.17.0; "
            "run it where pip-audit reaches its advisory service\n",
        ),
        (
            "Traceback (most recent call last):",
            1,
            "error: audit-packages: expected an answer for every package, got none for six 1.17.0; "
            "run it where pip-audit reaches its advisory service\n",
        ),
    ],
)
def test_the_command_ends_well_only_if_all_was_audited(
    answer: str, status: int, told: str, tmp_path: Path
) -> None:
    stand_in(tmp_path, answer)
    (tmp_path / "packages").symlink_to(ROOT / "packages")
    (tmp_path / "some.lock").write_text(f"six==1.17.0 \\\n    --hash=sha256:{'0' * 64}\n")
    ended = subprocess.run(
        [sys.executable, "-m", "packages.audit", "some.lock"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (status, told)
    asked = (tmp_path / "asked.txt").read_text().splitlines()
    assert asked[0] == "--disable-pip --require-hashes --format json --progress-spinner off"
    assert asked[1] == f"six==1.17.0 --hash=sha256:{'0' * 64}"


def test_the_list_of_packages_names_those_of_the_lock_file_with_their_hashes() -> None:
    bom = json.loads((ROOT / "docs/sbom.cdx.json").read_text(encoding="utf-8"))
    listed = [
        (
            component["name"],
            component["version"],
            component.get("description", ""),
            tuple(
                one["content"]
                for reference in component["externalReferences"]
                for one in reference["hashes"]
            ),
        )
        for component in bom["components"]
    ]
    locked = [(one.name, one.version, one.marker, one.hashes) for one in lock.read(LOCK)]
    assert sorted(listed) == sorted(locked), "run `make sbom`"


def test_the_list_of_packages_names_no_index() -> None:
    text = (ROOT / "docs/sbom.cdx.json").read_text(encoding="utf-8")
    assert re.findall('https?://[^"]+', text) == ["http://cyclonedx.org/schema/bom-1.6.schema.json"]


def test_the_list_holds_no_time_and_nothing_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = "".join(
        f"{one.name}=={one.version}{' ; ' + one.marker if one.marker else ''} \\\n"
        f"    --hash=sha256:{one.hashes[0]}\n"
        for one in (*ZARR, SIX)
    )
    (tmp_path / "some.lock").write_text(some)
    monkeypatch.chdir(ROOT)
    sbom.main(str(tmp_path / "some.lock"), str(tmp_path / "one"))
    bom = json.loads((tmp_path / "one").read_text())
    assert bom.keys() == {
        *("$schema", "bomFormat", "components", "metadata", "specVersion", "version"),
    }
    assert bom["metadata"].keys() == {"component"}
    assert [one["purl"] for one in bom["components"]] == [
        *("pkg:pypi/six@1.17.0", "pkg:pypi/zarr@3.1.6", "pkg:pypi/zarr@3.4.2"),
    ]
    assert bom["components"][1]["description"] == "python_full_version < '3.12'"


@pytest.mark.parametrize("name", MINIMUMS)
def test_a_version_that_mends_known_faults_is_locked(name: str) -> None:
    least = Version(MINIMUMS[name]["least"])
    versions = [Version(one.version) for one in lock.read(LOCK) if one.name == name]
    assert versions
    assert min(versions) >= least
    assert MINIMUMS[name]["source"].startswith("https://")


def test_what_is_asked_for_by_name_is_asked_for_in_a_mended_version() -> None:
    extras = [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
    asked = {one.name: one for one in map(Requirement, [*PROJECT["dependencies"], *extras])}
    named = asked.keys() & MINIMUMS.keys()
    assert MINIMUMS.keys() - named == {"urllib3"}  # which only others ask for
    for name in named:
        below = [one.version for one in asked[name].specifier if one.operator == ">="]
        assert Version(below[0]) >= Version(MINIMUMS[name]["least"]), name
