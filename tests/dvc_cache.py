"""What DVC's cache does to files, without DVC, and whether it is as DVC left it."""

import hashlib
from pathlib import Path


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def linked(*paths: Path) -> None:
    """Move files, also those below folders, to the cache of the working folder; leave links."""
    for path in [file for top in paths for file in (top, *top.rglob("*")) if file.is_file()]:
        at = Path(".dvc/cache/files/md5", md5(path)[:2], md5(path)[2:]).absolute()
        at.parent.mkdir(parents=True, exist_ok=True)
        path.replace(at)
        at.chmod(0o444)
        path.symlink_to(at)


def cached(cache: Path) -> list[Path]:
    """The files of a cache; the bytes of each are still those that its name is the md5 of."""
    files = [path for path in (cache / "files" / "md5").rglob("*") if not path.is_dir()]
    assert [path for path in files if path.is_symlink()] == []
    assert [at for at in files if md5(at) != at.parent.name + at.name.removesuffix(".dir")] == []
    return files
