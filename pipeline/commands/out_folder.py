"""Folders that commands write, named by an option."""

from collections.abc import Collection, Iterable
from pathlib import Path

from pipeline.runtime.errors import UserError


def require_replaceable(
    option: str, out: Path, written: Collection[str] = (), optional: Iterable[str] = ()
) -> None:
    """Refuse a path that holds anything but what the command has written, and perhaps `optional`.

    Without names, an existing folder must be empty.
    """
    locks = {f".{name}.lock" for name in written}  # of `atomic_files`
    present = {path.name for path in out.iterdir()} - locks if out.is_dir() else set()
    earlier = {*written} <= present <= {*written, *optional}
    if out.exists() and (not out.is_dir() or (present and not earlier)):
        expected = "a new folder or an earlier result" if written else "a new or an empty folder"
        raise UserError(
            f"{option}: expected {expected}, got {str(out)!r}, which holds something else; name "
            "another one"
        )
