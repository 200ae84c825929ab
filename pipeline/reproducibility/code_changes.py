"""Differences between two versions of `code.yaml` or `settings.yaml`, in words."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

SHOWN = 5  # differences listed before "and N more"
MODULES = (".py", ".jinja", ".css", ".js", ".yaml", ".html")
LIBRARIES = ("backend", "engine")  # sections of code.yaml that are no stages


def read(path: Path) -> dict[str, Any]:
    """Read one of the files; an absent or damaged one is empty."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    return content if isinstance(content, dict) else {}


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by their keys joined with dots."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, one in value.items():
        flat |= flattened(one, f"{prefix}.{key}" if prefix else str(key))
    return flat


def differences(old: Any, new: Any) -> list[str]:
    """List what differs between two entries: a module, a key, or `keras 3.15.1 -> 3.15.2`."""
    before, after = flattened(old), flattened(new)
    keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return [_difference(key, before.get(key), after.get(key)) for key in keys]


def code_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the stages whose entries in `code.yaml` differ, and what differs in them."""
    changes: dict[str, list[str]] = {}
    for name in sorted(old.keys() | new.keys()):
        if of_one := differences(old.get(name) or {}, new.get(name) or {}):
            changes["other backends or engines" if name in LIBRARIES else name] = of_one
    every = sorted({change for of_one in changes.values() for change in of_one})
    return list(changes), every


def listed(changes: Iterable[str]) -> str:
    """Join the first changes by commas, and count the rest."""
    every = list(changes)
    rest = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + rest


def _difference(key: str, old: Any, new: Any) -> str:
    if key.endswith(MODULES):
        return f"{key}{'' if old and new else ' added' if new else ' removed'}"
    old, new = ("none" if value is None else value for value in (old, new))
    return f"{key} {old} -> {new}".strip()
