"""Keras' files come whole, over https, or not at all.

The server is one on this machine, without TLS: the tests alone let the downloads speak http to it.
"""

import hashlib
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest
import requests
from keras.src.applications import mobilenet
from keras.src.utils import file_utils
from numpy.testing import assert_array_equal
from requests.adapters import HTTPAdapter
from test_hdf5 import as_published

from pipeline.backbones import build, download, published, weights
from pipeline.backbones.published import Published
from pipeline.runtime.errors import UserError

BODY = bytes(range(256)) * 40
NAME = "weights.h5"
HOME = Path("home/models")
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` at every path; `answers` are taken, one a request, before the usual one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.etag = '"one"'
        self.answers: list[Callable[[Any], None]] = []
        self.asked: list[tuple[str, str | None]] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
        if self.server.answers:
            self.server.answers.pop(0)(self)
            return
        body, start = self.server.body, 0
        if self.headers.get("If-Range") == self.server.etag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self.wfile.write(body[start:])

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


def cut_short(handler: Any) -> None:
    """Declares the whole body, sends the first 5,000 bytes of it, and hangs up."""
    handler.send_response(200)
    handler.send_header("ETag", handler.server.etag)
    handler.send_header("Content-Length", str(len(handler.server.body)))
    handler.end_headers()
    handler.wfile.write(handler.server.body[:5_000])


def hang(handler: Any) -> None:
    cut_short(handler)
    handler.wfile.flush()
    handler.server.closing.wait(30)


def endless(handler: Any) -> None:
    """Says nothing of its length."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(handler.server.body)


def redirect(to: str) -> Callable[[Any], None]:
    def answer(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def missing(handler: Any) -> None:
    handler.send_error(404)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server, and an empty Keras folder `home` in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", "home")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    own = download._session

    def session() -> requests.Session:
        made = own()
        made.mount(started.url, HTTPAdapter())
        return made

    monkeypatch.setattr(download, "_session", session)
    monkeypatch.setattr(download, "BLOCK_BYTES", 1_000)
    with Server() as started:
        thread = threading.Thread(target=started.serve_forever, args=(0.01,))
        thread.start()
        yield started
        started.closing.set()
        started.shutdown()
        thread.join()


def fetch(server: Server, hash: str | None = None, url: str = "") -> Path:
    file = Published(NAME, url or server.url + "published", hash)
    return weights.fetch(file, "fetch_weights X", "connect once")


def refusal(server: Server, hash: str | None = None, url: str = "") -> str:
    """What is told; nothing is left in Keras' folder but locks."""
    with pytest.raises(UserError) as told:
        fetch(server, hash, url)
    assert [path.name for path in HOME.iterdir() if not path.name.endswith(".lock")] == []
    return str(told.value).replace(server.url.split("/")[2], "HOST")


@pytest.mark.parametrize("hash", [None, MD5, SHA256])
def test_a_file_is_downloaded_once(hash: str | None, server: Server) -> None:
    for _ in range(2):
        assert fetch(server, hash) == HOME / NAME
        assert (HOME / NAME).read_bytes() == BODY
    assert server.asked == [("/published", None)]


def test_without_a_network_a_file_that_was_put_there_is_taken(server: Server) -> None:
    HOME.mkdir(parents=True)
    (HOME / NAME).write_bytes(BODY)
    assert fetch(server, SHA256, "https://nobody.invalid/x") == HOME / NAME


def test_a_file_there_with_another_hash_is_downloaded_again(server: Server) -> None:
    HOME.mkdir(parents=True)
    (HOME / NAME).write_bytes(BODY[:-1])
    assert fetch(server, SHA256).read_bytes() == BODY


@pytest.mark.parametrize("hash", ["0" * 32, "0" * 64])
def test_another_file_than_the_published_one_is_refused(hash: str, server: Server) -> None:
    found = MD5 if len(hash) == 32 else SHA256
    assert refusal(server, hash) == (
        f"fetch_weights X: expected to download weights.h5 from HOST with hash {hash}, got "
        f"{found}; connect once"
    )


def test_one_that_was_cut_off_is_taken_up_where_it_ended(server: Server) -> None:
    server.answers = [cut_short]
    assert fetch(server).read_bytes() == BODY
    assert [ranges for _, ranges in server.asked] == [None, "bytes=5000-"]


def test_one_that_changed_meanwhile_is_begun_anew(server: Server) -> None:
    def then_change(handler: Any) -> None:
        cut_short(handler)
        handler.server.body, handler.server.etag = BODY[::-1], '"two"'

    server.answers = [then_change]
    assert fetch(server).read_bytes() == BODY[::-1]


def test_one_without_a_strong_version_is_begun_anew(server: Server) -> None:
    server.answers, server.etag = [cut_short], 'W/"one"'
    assert fetch(server).read_bytes() == BODY
    assert [ranges for _, ranges in server.asked] == [None, None]


def test_one_that_is_cut_off_every_time_is_refused(server: Server) -> None:
    server.answers = [cut_short] * download.ATTEMPTS
    assert refusal(server) == (
        "fetch_weights X: expected to download weights.h5 from HOST, got no connection; "
        "connect once"
    )
    assert len(server.asked) == download.ATTEMPTS


def test_a_server_that_hangs_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PATIENCE_S", (5, 0.1))
    server.answers = [hang] * download.ATTEMPTS
    assert re.fullmatch(
        "fetch_weights X: expected to download weights.h5 from HOST, got no (answer in time|"
        "connection); connect once",
        refusal(server),
    )


@pytest.mark.parametrize("declared", [True, False])
def test_more_than_any_published_file_has_is_refused(
    declared: bool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MOST_BYTES", 10_000)
    server.answers = [] if declared else [endless]
    assert refusal(server) == (
        "fetch_weights X: expected to download weights.h5 from HOST, at most 10,000 bytes, got "
        "more; connect once"
    )


def test_only_https_is_spoken(server: Server) -> None:
    other = server.url.replace("127.0.0.1", "localhost")
    assert refusal(server, url=other) == (
        f"fetch_weights X: expected to download weights.h5 from {other.split('/')[2]} by https "
        f"alone, got No connection adapters were found for '{other}'; connect once"
    )
    assert refusal(server, url=Path("x").absolute().as_uri()).startswith(
        "fetch_weights X: expected to download weights.h5 from  by https alone, got No connection "
    )


def test_a_redirect_to_http_is_not_followed(server: Server) -> None:
    other = server.url.replace("127.0.0.1", "localhost")
    server.answers = [redirect(other)]
    assert refusal(server) == (
        "fetch_weights X: expected to download weights.h5 from HOST by https alone, got No "
        f"connection adapters were found for '{other}'; connect once"
    )
    assert len(server.asked) == 1


def test_a_circle_of_redirects_ends(server: Server) -> None:
    server.answers = [redirect(server.url)] * 9
    assert refusal(server).endswith(", got no connection; connect once")
    assert len(server.asked) == 6


def test_a_file_that_is_not_there_is_told(server: Server) -> None:
    server.answers = [missing]
    assert refusal(server) == (
        "fetch_weights X: expected to download weights.h5 from HOST, got '404 Not Found'; "
        "connect once"
    )


def test_a_user_without_a_home_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found: 4321")

    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(UserError) as told:
        fetch(server)
    assert str(told.value) == (
        "fetch_weights X: expected a home folder for Keras' downloads, got a user without one; "
        "set KERAS_HOME to a folder"
    )


def test_no_network_is_told(server: Server) -> None:
    assert refusal(server, url="https://127.0.0.1:9/x") == (
        "fetch_weights X: expected to download weights.h5 from 127.0.0.1:9, got no connection; "
        "connect once"
    )


def test_a_killed_download_leaves_nothing_that_passes_for_a_whole_file(server: Server) -> None:
    """Neither under the final name, nor for the next download."""
    script = (
        "import sys, types, requests\n"
        "from requests.adapters import HTTPAdapter\n"
        "from stages import download\n"
        "download._session = lambda: (s := requests.Session(), s.mount(sys.argv[1], HTTPAdapter()))"
        "[0]\n"
        "download.BLOCK_BYTES = 1000\n"
        "file = types.SimpleNamespace(name='weights.h5', url=sys.argv[1], hash=None)\n"
        "weights.fetch(file, 'x', 'y')\n"
    )
    server.answers = [hang]
    root = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", script, server.url], env={**os.environ, "PYTHONPATH": str(root)}
    )
    while not (HOME / ".partial-weights.h5").exists():
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not (HOME / NAME).exists()
    server.closing.set()
    assert fetch(server).read_bytes() == BODY
    assert not (HOME / ".partial-weights.h5").exists()


def test_a_proxy_is_heeded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    session = download._session()
    session.mount("http://elsewhere.invalid/", HTTPAdapter())
    assert session.get("http://elsewhere.invalid/x", timeout=5).content == BODY
    assert server.asked == [("http://elsewhere.invalid/x", None)]


def test_a_published_file_gives_its_weights(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build.network("MobileNet", None, False, None)
    as_published(Path("published.h5"), model)
    server.body = Path("published.h5").read_bytes()
    monkeypatch.setattr(mobilenet, "BASE_WEIGHT_PATH", server.url)
    file = weights.published("MobileNet", False)
    assert file.name == "mobilenet_1_0_224_tf_no_top.h5"
    assert file.url == server.url + file.name
    loaded = weights.from_download("MobileNet", False, weights.fetch(file, "x", "y"))
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        assert_array_equal(one, other)


def test_keras_tells_the_address_and_the_hash_of_its_files() -> None:
    own = file_utils.get_file
    vgg16 = published.weights("VGG16", False)
    assert vgg16.url.startswith("https://storage.googleapis.com/")
    assert (vgg16.name, vgg16.hash) == (
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "6d6bbae143d832006294945121d1f1fc",
    )
    assert weights.class_index().name == "imagenet_class_index.json"
    assert file_utils.get_file is own
    with pytest.raises(UserError, match="expected convnet, gabor or the name of a Keras applicati"):
        weights.published("VGG17", False)
    assert keras.utils.get_file is own
