"""Get a backbone's weights from Keras' download, a file or a seed.

`random`, `from_file` and `from_download` return the backbone with its weights, which do not depend
on the image size. Whole models and pickles are never read.

`fetch` downloads over https to Keras' own folder, completely or not at all. `keras.utils.get_file`
writes under the final name, so that a killed download passes for a complete file; it has no timeout
and no size limit, follows redirects to http, and falls back to a folder in /tmp that anybody can
write to. HTTPS_PROXY, NO_PROXY and REQUESTS_CA_BUNDLE are respected.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import keras
import numpy as np
import requests
from keras.applications import imagenet_utils
from requests.adapters import HTTPAdapter
from tqdm import tqdm

from pipeline.backbones import build, keras_private, weights_file
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError

MAX_BYTES = 2 * 2**30  # the largest file of keras.applications has 1.4 GB
TIMEOUTS_S = (20, 60)  # to connect, and until the next byte
ATTEMPTS = 5  # each resumes where the previous one was cut off
BLOCK_BYTES = 2**18
CUT_OFF = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True)
class Published:
    """A file that Keras publishes."""

    name: str  # in Keras' folder
    url: str
    hash: str | None  # md5 or sha256 in hex; Keras has none for MobileNet and MobileNetV2


def random(name: str, include_top: bool, seed: int) -> keras.Model:
    """Return a backbone with the random weights of Keras' initializers for `seed`."""
    keras.utils.set_random_seed(seed)
    return build.network(name, None, include_top, None)


def from_file(name: str, include_top: bool, path: Path, sha256: str) -> keras.Model:
    """Return a backbone with the weights of a `.weights.h5` or a legacy Keras `.h5` file."""
    if not path.is_file():
        raise UserError(
            f"params.yaml: backbones.{name}.path: expected a weights file, got nothing at "
            f"{str(path)!r}; put it there or correct the path"
        )
    actual = atomic_files.sha256(path)
    if actual != sha256:
        raise UserError(
            f"{path}: expected sha256 {sha256} (backbones.{name}.sha256), got {actual}; "
            "get the right file, or correct the hash if you trust this one"
        )
    return build.network(name, None, include_top, path)


def from_download(name: str, include_top: bool, path: Path) -> keras.Model:
    """Return a backbone with the weights of a published file; raise `UserError` if damaged."""
    model = build.network(name, None, include_top, None)
    try:
        weights_file.load(model, path)
    except weights_file.WeightsFileError as error:
        raise UserError(
            f"fetch_weights {name}: expected a complete download in {path.parent}, got a damaged "
            f"file ({error}); remove {path} and run again"
        ) from None
    return model


def digest(model: keras.Model) -> str:
    """Return a sha256 in hex of shapes, dtypes and values of all weights, in the model's order."""
    sha256 = hashlib.sha256()
    for array in model.get_weights():
        sha256.update(f"{array.shape} {array.dtype}\n".encode())
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def published(name: str, include_top: bool) -> Published:
    """Return the file of a backbone's ImageNet weights; raise `UserError` if there is none."""
    if name in build.BUILT_IN:
        raise UserError(
            f"params.yaml: backbones.{name}.weights: expected random or file, got 'imagenet'; "
            f"there are no ImageNet weights for {name}"
        )
    build.require_name(name)
    application = getattr(keras.applications, name)
    return _requested(lambda: application(weights="imagenet", include_top=include_top))


def class_index() -> Published:
    """Return the file with the names of the 1,000 ImageNet classes."""
    return _requested(lambda: imagenet_utils.decode_predictions(np.zeros((1, 1000))))


def _requested(function: Callable[[], object]) -> Published:
    return Published(*keras_private.requested_file(function))


def fetch(file: Published, where: str, remedy: str) -> Path:
    """Return the path of a published file; download it unless it is there with its hash.

    Args:
        where, remedy: start and end of the error message.

    Raises:
        UserError: no connection, no https, too large, another hash, or a user without a home.
    """
    path = _keras_folder(where) / "models" / file.name
    if path.is_file() and file.hash in (None, _hash(path, file.hash)):
        return path
    expected = f"{where}: expected to download {file.name} from {urlsplit(file.url).netloc}"
    with atomic_files.replacing(path) as partial:
        try:
            with _session() as session, partial.open("wb") as opened:
                _receive(session, file.url, opened)
        except requests.exceptions.InvalidSchema as error:
            raise UserError(f"{expected} by https only, got {error}; {remedy}") from None
        except requests.HTTPError as error:
            status = f"{error.response.status_code} {error.response.reason}"
            raise UserError(f"{expected}, got {status!r}; {remedy}") from None
        except _TooLargeError:
            raise UserError(
                f"{expected}, at most {MAX_BYTES:,} bytes, got more; {remedy}"
            ) from None
        except requests.RequestException as error:
            timeout = isinstance(error, requests.Timeout)
            problem = "no answer in time" if timeout else "no connection"
            raise UserError(f"{expected}, got {problem}; {remedy}") from None
        actual = _hash(partial, file.hash)
        if file.hash not in (None, actual):
            raise UserError(f"{expected} with hash {file.hash}, got {actual}; {remedy}")
    return path


class _TooLargeError(Exception):
    pass


def _keras_folder(where: str) -> Path:
    try:
        return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    except RuntimeError:  # neither HOME nor an entry in the system's list of users
        raise UserError(
            f"{where}: expected a home folder for Keras' downloads, got a user without one; set "
            "KERAS_HOME to a folder"
        ) from None


def _session() -> requests.Session:
    """Return a session that speaks https only, also after redirects."""
    session = requests.Session()
    session.adapters.clear()
    session.mount("https://", HTTPAdapter())
    session.max_redirects = 5
    return session


def _receive(session: requests.Session, url: str, file: BinaryIO) -> None:
    """Write the body to an empty file; resume after a connection that is cut off."""
    etag = ""
    for attempt in range(1, ATTEMPTS + 1):
        start = file.tell()
        headers = {"Accept-Encoding": "identity"}
        if start and etag:  # the rest of another version would be useless
            headers |= {"Range": f"bytes={start}-", "If-Range": etag}
        try:
            with session.get(url, headers=headers, stream=True, timeout=TIMEOUTS_S) as response:
                response.raise_for_status()
                resumed = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
                if response.status_code != requests.codes.partial_content or not resumed:
                    start = 0
                    file.seek(0)
                    file.truncate()
                etag = response.headers.get("ETag", "")
                etag = etag if etag.startswith('"') else ""  # W/"..." may name another version
                _write(response, file, start + int(response.headers.get("Content-Length") or 0))
                return
        except CUT_OFF:
            if attempt == ATTEMPTS or file.tell() <= start:
                raise


def _write(response: requests.Response, file: BinaryIO, total: int) -> None:
    quiet = not sys.stderr.isatty()
    with tqdm(total=total or None, unit="B", unit_scale=True, disable=quiet) as bar:
        if total > MAX_BYTES:
            raise _TooLargeError
        for block in response.iter_content(BLOCK_BYTES):
            file.write(block)
            bar.update(len(block))
            if file.tell() > MAX_BYTES:
                raise _TooLargeError


def _hash(path: Path, like: str | None) -> str:
    """Return the file's hash of the same kind: Keras has md5 and sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5" if len(like or "") == 32 else "sha256").hexdigest()
