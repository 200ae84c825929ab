"""Versions of Python and of packages, as far as results depend on them."""

import importlib.metadata
import platform
from collections.abc import Iterable


def of(packages: Iterable[str]) -> dict[str, str]:
    """Of Python its minor version, which fixes the packages, and of those that are installed."""
    told = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in packages:
        try:
            told[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return told
