"""A lock file as uv writes it: a line `name==version ; marker` and a hash a line."""

import re
from dataclasses import dataclass
from pathlib import Path

LINE = re.compile(r"(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; (?P<marker>[^\\]+?))?(?: \\)?")
HASH = re.compile(r" +--hash=sha256:([0-9a-f]{64})(?: \\)?")


@dataclass(frozen=True)
class Pinned:
    """One version of a package, the Pythons and systems it is for, and its files' sha256."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


def read(path: Path) -> list[Pinned]:
    """All packages, in the file's order; a package may be there in two versions.

    Raises:
        ValueError: a line of another kind, or a package without a hash.
    """
    packages: list[Pinned] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if found := LINE.fullmatch(line):
            packages.append(Pinned(found["name"], found["version"], found["marker"] or "", ()))
        elif (found := HASH.fullmatch(line)) and packages:
            last = packages.pop()
            hashes = (*last.hashes, found[1])
            packages.append(Pinned(last.name, last.version, last.marker, hashes))
        else:
            raise ValueError(f"{path} line {number}: expected a package or a hash, got {line!r}")
    bare = [package.name for package in packages if not package.hashes]
    if bare:
        raise ValueError(
            f"{path}: expected a hash for each package, got none for {', '.join(bare)}"
        )
    return packages
