"""Downloads are complete and by https, or fail.

The server is one on this machine, without TLS: the tests alone allow http to it.
"""

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from pipeline.backbones import weights
from pipeline.backbones.weights import Published
from pipeline.runtime.errors import UserError

BODY = bytes(range(256)) * 40
NAME = "weights.h5"
HOME = Path("home/models")
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` at every path; `answers` are used up first, one a request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.etag = '"one"'
        self.answers: list[Callable[[Any], None]] = []
        self.requests: list[tuple[str, str | None]] = []  # path, Range
        self.closing = threading.Event()
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.url = f"http://{self.host}/"
        self.url_by_name = self.url.replace("127.0.0.1", "localhost")  # without the exception


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        if self.server.answers:
            self.server.answers.pop(0)(self)
            return
        body, start = self.server.body, 0
        if self.headers.get("If-Range") == self.server.etag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.answer(
            206 if start else 200,
            {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {},
            len(body) - start,
        )
        self.wfile.write(body[start:])

    def answer(self, status: int, headers: dict[str, str], length: int | None) -> None:
        self.send_response(status)
        self.send_header("ETag", self.server.etag)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def cut_off(handler: Any) -> None:
    """Declare the whole body, send its first 5,000 bytes, and hang up."""
    handler.answer(200, {}, len(BODY))
    handler.wfile.write(handler.server.body[:5_000])


def cut_off_and_change(handler: Any) -> None:
    cut_off(handler)
    handler.server.body, handler.server.etag = BODY[::-1], '"two"'


def hang(handler: Any) -> None:
    cut_off(handler)
    handler.wfile.flush()
    handler.server.closing.wait(30)


def endless(handler: Any) -> None:
    handler.answer(200, {}, None)
    handler.wfile.write(BODY * 100)


def missing(handler: Any) -> None:
    handler.send_error(404)


def redirect(to: str) -> Callable[[Any], None]:
    return lambda handler: handler.answer(302, {"Location": to}, 0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, and an empty Keras folder `home` in the working folder."""
    monkeypatch.setenv("KERAS_HOME", "home")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    https_only = weights._session

    def session() -> requests.Session:
        extended = https_only()
        extended.mount(started.url, HTTPAdapter())
        return extended

    monkeypatch.setattr(weights, "_session", session)
    monkeypatch.setattr(weights, "BLOCK_BYTES", 1_000)
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


def require_refused(server: Server, got: str, hash: str | None = None, url: str = "") -> None:
    """Nothing is left in Keras' folder but locks."""
    sentence = rf"^fetch_weights X: expected to download weights\.h5 from .*{got}; connect once$"
    with pytest.raises(UserError, match=sentence):
        fetch(server, hash, url)
    assert [path.name for path in HOME.iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.parametrize("hash", [None, MD5, SHA256])
def test_a_file_is_downloaded_once(hash: str | None, server: Server) -> None:
    for _ in range(2):
        assert fetch(server, hash) == HOME / NAME
        assert (HOME / NAME).read_bytes() == BODY
    assert server.requests == [("/published", None)]


def test_an_existing_file_is_used_unless_its_hash_differs(server: Server) -> None:
    HOME.mkdir(parents=True)
    (HOME / NAME).write_bytes(BODY)
    assert fetch(server, SHA256, "https://nobody.invalid/x") == HOME / NAME
    (HOME / NAME).write_bytes(BODY[:-1])
    assert fetch(server, SHA256).read_bytes() == BODY


@pytest.mark.parametrize(("hash", "actual"), [("0" * 32, MD5), ("0" * 64, SHA256)])
def test_a_file_with_another_hash_is_refused(hash: str, actual: str, server: Server) -> None:
    require_refused(server, f" with hash {hash}, got {actual}", hash)


@pytest.mark.parametrize(
    ("answer", "etag", "ranges", "body"),
    [
        (cut_off, '"one"', [None, "bytes=5000-"], BODY),
        (cut_off, 'W/"one"', [None, None], BODY),
        (cut_off_and_change, '"one"', [None, "bytes=5000-"], BODY[::-1]),
    ],
    ids=["resumed", "restarted without a strong version", "restarted if the file has changed"],
)
def test_a_download_that_was_cut_off_is(
    answer: Callable[[Any], None], etag: str, ranges: list[str], body: bytes, server: Server
) -> None:
    server.answers, server.etag = [answer], etag
    assert fetch(server).read_bytes() == body
    assert [range_ for _, range_ in server.requests] == ranges


def test_a_server_that_fails_every_time_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [cut_off] * weights.ATTEMPTS
    require_refused(server, ", got no connection")
    assert len(server.requests) == weights.ATTEMPTS
    monkeypatch.setattr(weights, "TIMEOUTS_S", (5, 0.1))
    server.answers = [hang] * weights.ATTEMPTS
    require_refused(server, ", got no (answer in time|connection)")
    server.answers = [missing]
    require_refused(server, ", got '404 Not Found'")
    server.answers = [redirect(server.url)] * 9
    require_refused(server, ", got no connection")
    require_refused(server, "127.0.0.1:9, got no connection", url="https://127.0.0.1:9/x")


@pytest.mark.parametrize("answers", [[], [endless]], ids=["declared", "undeclared"])
def test_more_than_any_published_file_has_is_refused(
    answers: list[Callable[[Any], None]], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MAX_BYTES", 10_000)
    server.answers = answers
    require_refused(server, ", at most 10,000 bytes, got more")


def test_only_https_is_spoken_also_after_a_redirect(server: Server) -> None:
    got = f"by https only, got No connection adapters were found for '{server.url_by_name}'"
    require_refused(server, got, url=server.url_by_name)
    require_refused(server, "by https only, got No connection.*", url=Path("x").absolute().as_uri())
    server.answers = [redirect(server.url_by_name)]
    require_refused(server, got)
    assert len(server.requests) == 1


def test_a_user_without_a_home_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found: 4321")

    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(UserError, match="a user without one; set KERAS_HOME to a folder"):
        fetch(server)


def test_a_proxy_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    session = weights._session()
    session.mount("http://elsewhere.invalid/", HTTPAdapter())
    assert session.get("http://elsewhere.invalid/x", timeout=5).content == BODY
    assert server.requests == [("http://elsewhere.invalid/x", None)]
