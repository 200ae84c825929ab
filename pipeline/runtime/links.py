"""Tell the links that DVC makes into its cache from others.

With `cache.type symlink`, DVC moves a file to its cache, under the md5 of its bytes, and puts a
link to it in its place. Such a link is as good as the file; any other may lead anywhere.
"""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

# DVC 3 and DVC 2; a folder's list ends with .dir, and no link leads to it.
_CACHED = re.compile(r"(.+?)(/files/md5)?/[0-9a-f]{2}/[0-9a-f]{30}")


def leads_out(path: str | Path, folder: Path) -> bool:
    """Return whether the end of a path is neither in `folder` nor a file in DVC's cache."""
    end = os.path.realpath(path)
    return not Path(end).is_relative_to(os.path.realpath(folder)) and not _is_cached(end)


def same(first: str, second: str) -> bool:
    """Return whether two paths lead to one file or folder; equal bytes in DVC's cache are not."""
    end = os.path.realpath(first)
    if end != os.path.realpath(second):
        return False
    return not _is_cached(end) or _last_link(first) == _last_link(second)


def _is_cached(end: str) -> bool:
    found = _CACHED.fullmatch(end)
    return found is not None and found[1] == _cache(os.getcwd())


@functools.cache
def _cache(folder: str) -> str:
    """Return the cache of the DVC project in or above a folder; "" if there is none."""
    asked = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"],
        cwd=folder,
        env=os.environ | {"DVC_NO_ANALYTICS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    cache = os.fsdecode(asked.stdout).removesuffix("\n")
    return os.path.realpath(cache) if cache else ""


def _last_link(path: str) -> str:
    """Follow a path, which leads to a file, up to its last link or to the file itself."""
    link = target = path
    while os.path.islink(target):
        link, target = target, os.path.join(os.path.dirname(target), os.readlink(target))
    return os.path.join(os.path.realpath(os.path.dirname(link)), os.path.basename(link))
