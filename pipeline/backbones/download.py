"""Keras' published files, over https, whole or not at all, in Keras' own folder.

`keras.utils.get_file` writes under the final name, so that a killed download passes for a whole
file; it waits for ever, takes any size, follows a redirect to http, and where its folder cannot be
written it goes to one in /tmp that anybody may have filled.

HTTPS_PROXY, NO_PROXY and REQUESTS_CA_BUNDLE are heeded. What lies in the folder is not downloaded.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm

from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:  # it imports Keras, which `engine.start` has to do first
    from pipeline.backbones.published import Published

MOST_BYTES = 2 * 2**30  # the largest file of keras.applications has 1.4 GB
PATIENCE_S = (20, 60)  # for a connection, and for the next byte
ATTEMPTS = 5  # each goes on where the one before was cut off
BLOCK_BYTES = 2**18
CUT_OFF = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


def fetch(file: "Published", where: str, remedy: str) -> Path:
    """The path of a published file, downloaded unless it is there with its hash.

    Args:
        where, remedy: the begin and the end of the sentence if that fails.

    Raises:
        UserError: no connection, no https, too large, another file than the published one, or a
            user without a home folder.
    """
    path = _keras_folder(where) / "models" / file.name
    if path.is_file() and file.hash in (None, _hash(path, file.hash)):
        return path
    expected = f"{where}: expected to download {file.name} from {urlsplit(file.url).netloc}"
    with atomic_files.replacing(path) as partial:
        try:
            with _session() as session, partial.open("wb") as opened:
                _receive(session, file.url, opened, expected, remedy)
        except requests.exceptions.InvalidSchema as error:
            raise UserError(f"{expected} by https alone, got {error}; {remedy}") from None
        except requests.HTTPError as error:
            told = f"{error.response.status_code} {error.response.reason}"
            raise UserError(f"{expected}, got {told!r}; {remedy}") from None
        except requests.RequestException as error:
            told = "no answer in time" if isinstance(error, requests.Timeout) else "no connection"
            raise UserError(f"{expected}, got {told}; {remedy}") from None
        found = _hash(partial, file.hash)
        if file.hash not in (None, found):
            raise UserError(f"{expected} with hash {file.hash}, got {found}; {remedy}")
    return path


def _keras_folder(where: str) -> Path:
    try:
        return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    except RuntimeError:  # neither HOME nor an entry in the system's list of users
        raise UserError(
            f"{where}: expected a home folder for Keras' downloads, got a user without one; set "
            "KERAS_HOME to a folder"
        ) from None


def _session() -> requests.Session:
    """One that knows no other scheme than https, wherever it is redirected."""
    session = requests.Session()
    session.adapters.clear()
    session.mount("https://", HTTPAdapter())
    session.max_redirects = 5
    return session


def _receive(
    session: requests.Session, url: str, file: BinaryIO, expected: str, remedy: str
) -> None:
    """Write the body to an empty file; a connection that is cut off is taken up again."""
    version = ""
    for attempt in range(1, ATTEMPTS + 1):
        begun = file.tell()
        headers = {"Accept-Encoding": "identity"}
        if begun and version:  # only of the very same file is the rest worth anything
            headers |= {"Range": f"bytes={begun}-", "If-Range": version}
        try:
            with session.get(url, headers=headers, stream=True, timeout=PATIENCE_S) as answer:
                answer.raise_for_status()
                rest = answer.headers.get("Content-Range", "").startswith(f"bytes {begun}-")
                if answer.status_code != requests.codes.partial_content or not rest:
                    begun = 0
                    file.seek(0)
                    file.truncate()
                tag = answer.headers.get("ETag", "")
                version = tag if tag.startswith('"') else ""  # W/"..." may name another one
                declared = int(answer.headers.get("Content-Length") or 0)
                _write(answer, file, begun + declared, expected, remedy)
                return
        except CUT_OFF:
            if attempt == ATTEMPTS or file.tell() <= begun:
                raise


def _write(
    answer: requests.Response, file: BinaryIO, total: int, expected: str, remedy: str
) -> None:
    quiet = not sys.stderr.isatty()
    with tqdm(total=total or None, unit="B", unit_scale=True, disable=quiet) as bar:
        if total <= MOST_BYTES:
            for block in answer.iter_content(BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
                if file.tell() > MOST_BYTES:
                    break
            else:
                return
    raise UserError(f"{expected}, at most {MOST_BYTES:,} bytes, got more; {remedy}")


def _hash(path: Path, like: str | None) -> str:
    """Of the kind that Keras gives: some of its hashes are md5, the others sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5" if len(like or "") == 32 else "sha256").hexdigest()
