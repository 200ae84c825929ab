"""`make audit-packages`: ask pip-audit's advisory service about every package of the lock files.

    python -m packages.audit requirements.lock benchmarks/requirements.lock

pip-audit ends with status 0 and "No known vulnerabilities found" where the service does not know a
single package, as behind a mirror without one. Here a package that was not audited is a fault, and
so is an exception in packages/accepted.toml that has no argument or is not needed.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from packages import lock

ACCEPTED = Path("packages/accepted.toml")
OFFLINE = (
    "expected an answer for every package, got none for {}; run it where pip-audit reaches its "
    "advisory service"
)


def main(paths: Sequence[str]) -> int:
    """Status 0 if every package was audited and nothing is known against it, else sentences."""
    packages = [package for path in paths for package in lock.read(Path(path))]
    accepted = tomllib.loads(ACCEPTED.read_text(encoding="utf-8")).get("accepted", [])
    answers = [answer for part in each_once(packages) for answer in ask(part)]
    faults = judge(packages, answers, accepted)
    for fault in faults:
        print(f"error: audit-packages: {fault}", file=sys.stderr)
    if not faults:
        print(f"audit-packages: nothing known against {len({*map(_name, packages)})} packages")
    return 1 if faults else 0


def each_once(packages: Iterable[lock.Pinned]) -> list[list[lock.Pinned]]:
    """Lists with one version of a package each: pip-audit takes no more, and no other Python's."""
    lists: list[dict[str, lock.Pinned]] = []
    for package in dict.fromkeys(packages):
        free = next((each for each in lists if package.name not in each), None)
        if free is None:
            lists.append(free := {})
        free[package.name] = package
    return [[*each.values()] for each in lists]


def ask(packages: Sequence[lock.Pinned]) -> list[Mapping[str, Any]]:
    """What pip-audit tells of each; nothing if it does not tell anything."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "requirements.txt")
        lines = (
            f"{package.name}=={package.version} "
            + " ".join(f"--hash=sha256:{hashed}" for hashed in package.hashes)
            for package in packages
        )
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        ended = subprocess.run(  # noqa: S603  its own command
            [
                *(sys.executable, "-m", "pip_audit", "--requirement", str(path)),
                *("--disable-pip", "--require-hashes", "--format", "json"),
                *("--progress-spinner", "off"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        return list(json.loads(ended.stdout)["dependencies"])
    except (ValueError, LookupError):  # it could not connect, and has a traceback for that
        return []


def judge(
    packages: Iterable[lock.Pinned],
    answers: Iterable[Mapping[str, Any]],
    accepted: Iterable[Mapping[str, str]],
) -> list[str]:
    """A sentence for each fault; one for all packages that were not audited."""
    answered = {(one["name"], one["version"]): one["vulns"] for one in answers if "vulns" in one}
    lost = [_name(package) for package in packages if _key(package) not in answered]
    faults = [OFFLINE.format(_some(lost))] if lost else []
    known = {(one["id"], one["package"]) for one in accepted if one.get("why", "").strip()}
    found = {
        (fault["id"], name): (version, fault.get("fix_versions") or ["no version"])
        for (name, version), vulnerabilities in answered.items()
        for fault in vulnerabilities
    }
    faults += [
        f"{name} {version}: expected nothing known against it, got {number}, mended in "
        f"{', '.join(mended)}; renew the lock, or argue in {ACCEPTED}"
        for (number, name), (version, mended) in found.items()
        if (number, name) not in known
    ]
    if not lost:
        faults += [
            f"{ACCEPTED}: expected only what is needed and argued, got {one['id']} of "
            f"{one['package']}; remove it or say why"
            for one in accepted
            if (one["id"], one["package"]) not in known & found.keys()
        ]
    return faults


def _key(package: lock.Pinned) -> tuple[str, str]:
    return package.name, package.version


def _name(package: lock.Pinned) -> str:
    return f"{package.name} {package.version}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} others"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
