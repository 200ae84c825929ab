"""Get a backbone's weights from Keras' download, a file or a seed, and convert networks.

`fetch` downloads over https to Keras' own folder, completely or not at all. `keras.utils.get_file`
writes under the final name, so that a killed download passes for a complete file, has no timeout
and no size limit, and follows redirects to http.
"""

import hashlib
import importlib
import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import keras
import numpy as np
import requests
from keras.applications import imagenet_utils
from requests.adapters import HTTPAdapter
from tqdm import tqdm

from pipeline.backbones import build, keras_private, keras_setup, named_file, openvino_files
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError

MAX_BYTES = 2 * 2**30  # the largest file of keras.applications has 1.4 GB
TIMEOUTS_S = (20, 60)  # to connect, and until the next byte
BLOCK_BYTES = 2**18


def random(name: str, include_top: bool, seed: int) -> keras.Model:
    """Return a backbone with the random weights of Keras' initializers for `seed`."""
    keras.utils.set_random_seed(seed)
    return build.network(name, None, include_top, None)


def from_file(name: str, include_top: bool, path: Path, sha256: str) -> keras.Model:
    """Return a backbone with the weights of a `.weights.h5` or a legacy Keras `.h5` file."""
    named_file.require(name, path, sha256)
    return build.network(name, None, include_top, path)


def convert(model: keras.Model, folder: Path) -> None:
    """Write a Keras model as the network that `openvino.Network` reads; Keras runs on TensorFlow.

    The files have the same bytes on every run: OpenVINO's, with float32 weights and any number of
    images, and their sha256.

    Args:
        model: from images (n, size, size, 3) to features (n, d) float32, batch norms folded or not.
        folder: is created.

    Raises:
        OSError: a full disk.
        RuntimeError, NotImplementedError, TypeError, ValueError: OpenVINO cannot run the network.
    """
    folder.mkdir(parents=True)
    try:
        _convert(model, folder)
    except Exception:
        atomic_files.require_room(folder / "probe", 8 * model.count_params() + 2**20)
        raise


def _convert(model: keras.Model, folder: Path) -> None:
    keras_setup.silence_openvino()
    library = importlib.import_module("openvino")
    images = keras.InputSpec("uint8", (None, *model.input_shape[1:]), name="images")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = os.path.join(temporary, "model.xml")
        model.export(path, format="openvino", verbose=False, input_signature=[images])
        graph = library.Core().read_model(path)
        for result in graph.get_results():  # TensorFlow adds others, of activations with gradients
            if "Identity:0" not in result.output(0).get_names():
                graph.remove_result(result)
        openvino_files.for_any_number(graph, model.input_shape[1])
        openvino_files.write(graph, folder)


def digest(model: keras.Model) -> str:
    """Return a sha256 in hex of shapes, dtypes and values of all weights, in the model's order."""
    sha256 = hashlib.sha256()
    for array in model.get_weights():
        sha256.update(f"{array.shape} {array.dtype}\n".encode())
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def published(name: str, include_top: bool) -> keras_private.Published:
    """Return the file of a backbone's ImageNet weights; raise `UserError` if there is none."""
    if name in build.BUILT_IN:
        raise UserError(
            f"params.yaml: backbones.{name}.weights: expected random or file, got 'imagenet'; "
            f"there are no ImageNet weights for {name}"
        )
    build.require_name(name)
    application = getattr(keras.applications, name)
    return keras_private.requested_file(
        lambda: application(weights="imagenet", include_top=include_top)
    )


def class_index() -> keras_private.Published:
    """Return the file with the names of the 1,000 ImageNet classes."""
    return keras_private.requested_file(
        lambda: imagenet_utils.decode_predictions(np.zeros((1, 1000)))
    )


def fetch(file: keras_private.Published, where: str, remedy: str) -> Path:
    """Return the path of a published file; download it unless it is there with its hash.

    Raise a `UserError` from `where` to `remedy`: no connection, no https, too large, another hash.
    """
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    path = home / "models" / file.name
    if path.is_file() and file.hash in (None, _hash(path, file.hash)):
        return path
    expected = f"{where}: expected to download {file.name} from {urlsplit(file.url).netloc}"
    with atomic_files.replacing(path) as partial:
        try:
            size = _download(file.url, partial)
        except requests.RequestException as error:
            raise UserError(f"{expected}{_reason(error)}; {remedy}") from None
        if size > MAX_BYTES:
            raise UserError(f"{expected}, at most {MAX_BYTES:,} bytes, got more; {remedy}")
        actual = _hash(partial, file.hash)
        if file.hash not in (None, actual):
            raise UserError(f"{expected} with hash {file.hash}, got {actual}; {remedy}")
    return path


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.InvalidSchema):
        return f" by https only, got {error}"
    if isinstance(error, requests.HTTPError):
        return f", got '{error.response.status_code} {error.response.reason}'"
    return (
        ", got no answer in time" if isinstance(error, requests.Timeout) else ", got no connection"
    )


def _session() -> requests.Session:
    """Return a session that speaks https only, also after redirects."""
    session = requests.Session()
    session.adapters.clear()
    session.mount("https://", HTTPAdapter())
    return session


def _download(url: str, path: Path) -> int:
    """Write a response's body to a file and return its size; stop if it exceeds `MAX_BYTES`."""
    with (
        _session() as session,
        session.get(
            url, headers={"Accept-Encoding": "identity"}, stream=True, timeout=TIMEOUTS_S
        ) as response,
        path.open("wb") as file,
    ):
        response.raise_for_status()
        total = size = int(response.headers.get("Content-Length") or 0)
        quiet = not sys.stderr.isatty()
        with tqdm(total=total or None, unit="B", unit_scale=True, disable=quiet) as bar:
            for block in response.iter_content(BLOCK_BYTES):
                bar.update(file.write(block))
                size = max(total, file.tell())
                if size > MAX_BYTES:
                    break
    return size


def _hash(path: Path, like: str | None) -> str:
    """Return the file's hash of the same kind: Keras has md5 and sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5" if len(like or "") == 32 else "sha256").hexdigest()
