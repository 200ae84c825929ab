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
from pipeline.backbones.keras_private import Published
from pipeline.runtime.errors import UserError

BODY = bytes(range(256)) * 40
NAME = "weights.h5"
HOME = Path("home/models")
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
SHA256 = hashlib.sha256(BODY).hexdigest()

Answer = Callable[[Any], None]


class Server(http.server.ThreadingHTTPServer):
    """Serves `BODY` at every path, or gives an `answer`, and counts the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Answer = lambda handler: respond(handler, 200, BODY)
        self.requests = 0
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self.url_by_name = self.url.replace("127.0.0.1", "localhost")  # without the exception


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.server.answer(self)

    def log_message(self, *_: object) -> None:
        pass


def respond(handler: Any, status: int, body: bytes, **headers: object) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)


def cut_off(handler: Any) -> None:
    respond(handler, 200, BODY[:5_000], Content_Length=len(BODY))


def hang(handler: Any) -> None:
    cut_off(handler)
    handler.wfile.flush()
    handler.server.closing.wait(30)


def redirect(to: str) -> Answer:
    return lambda handler: respond(handler, 302, b"", Content_Length=0, Location=to)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, and an empty Keras folder `home` in the working folder."""
    monkeypatch.chdir(tmp_path)
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
    file = Published(NAME, url or server.url, hash)
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
    assert server.requests == 1


def test_an_existing_file_is_used_unless_its_hash_differs(server: Server) -> None:
    HOME.mkdir(parents=True)
    (HOME / NAME).write_bytes(BODY)
    assert fetch(server, SHA256, "https://nobody.invalid/x") == HOME / NAME
    (HOME / NAME).write_bytes(BODY[:-1])
    assert fetch(server, SHA256).read_bytes() == BODY


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (cut_off, "no connection"),
        (hang, "no (answer in time|connection)"),
        (lambda handler: handler.send_error(404), "'404 Not Found'"),
        (redirect("/"), "no connection"),  # without end
    ],
    ids=["cut off", "silent", "404", "a circle"],
)
def test_an_incomplete_answer_is_refused(
    answer: Answer, got: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "TIMEOUTS_S", (5, 0.1))
    server.answer = answer
    require_refused(server, f", got {got}")


@pytest.mark.parametrize("declared", [{}, {"Content_Length": len(BODY)}])
def test_more_than_any_published_file_has_is_refused(
    declared: dict[str, int], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MAX_BYTES", 10_000)
    server.answer = lambda handler: respond(handler, 200, BODY, **declared)
    require_refused(server, ", at most 10,000 bytes, got more")


@pytest.mark.parametrize(("hash", "actual"), [("0" * 32, MD5), ("0" * 64, SHA256)])
def test_a_file_with_another_hash_is_refused(hash: str, actual: str, server: Server) -> None:
    require_refused(server, f" with hash {hash}, got {actual}", hash)


def test_only_https_is_spoken_also_after_a_redirect(server: Server) -> None:
    got = f"by https only, got No connection adapters were found for '{server.url_by_name}'"
    require_refused(server, got, url=server.url_by_name)
    server.answer = redirect(server.url_by_name)
    require_refused(server, got)
    assert server.requests == 1
