"""A registry by URL that is hostile: slow, endless, or after the sign-in of others."""

from __future__ import annotations

import base64
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from memos_vllm.errors import BadRequest, MemosError, Unprocessable
from memos_vllm.memstore import remote
from memos_vllm.memstore.registry import RegistryUnavailable
from memos_vllm.memstore.remote import RemoteRegistry

Answer = Callable[[BaseHTTPRequestHandler], None]


class Hostile:
    """An HTTP server whose answers a test writes, by the end of the path."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Answer] = {}
        self.seen: list[tuple[str, str | None]] = []
        """Path and `Authorization` of each request."""

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.seen.append((handler.path, handler.headers.get("Authorization")))
        for end, write in self.answers.items():
            if handler.path.partition("?")[0].endswith(end):
                write(handler)
                return
        reply(200, b"{}")(handler)


def reply(status: int, body: bytes = b"", **headers: str) -> Answer:
    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return write


def pieces(size: int, piece: bytes, pause: float) -> Answer:
    """An answer of `size` bytes, piece by piece, until the client goes away."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        try:
            for _ in range(size // len(piece)):
                handler.wfile.write(piece)
                handler.wfile.flush()
                time.sleep(pause)
        except OSError:
            handler.close_connection = True

    return write


@contextmanager
def running() -> Iterator[Hostile]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hostile.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    for method in ("HEAD", "POST", "PUT"):
        setattr(Handler, f"do_{method}", Handler.do_GET)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hostile = Hostile(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hostile
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hostile():
    with running() as found:
        yield found


@pytest.fixture
def login(hostile, tmp_path, monkeypatch):
    """That of `docker login` at the registry; its form in a header."""
    monkeypatch.setenv("HOME", str(tmp_path))
    secret = base64.b64encode(b"acme:secret").decode()
    (tmp_path / ".docker").mkdir()
    config = {"auths": {hostile.host: {"auth": secret}}}
    (tmp_path / ".docker" / "config.json").write_text(json.dumps(config))
    return secret


def test_an_answer_that_drips_is_cut_off(hostile, monkeypatch):
    monkeypatch.setattr(remote, "_PATIENCE_SECONDS", 0.3, raising=False)
    hostile.answers["/index"] = pieces(60, b"x", 0.1)
    started = time.monotonic()
    with pytest.raises(RegistryUnavailable, match="too slowly"):
        RemoteRegistry(hostile.url).manifest("handbook", "index")
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("path", ["/v2/", "/index"])
def test_an_answer_without_end_is_not_read(hostile, path):
    hostile.answers[path] = pieces(64 << 20, b"x" * (1 << 20), 0)
    with pytest.raises(Unprocessable, match="more than"):
        RemoteRegistry(hostile.url).manifest("handbook", "index")


def test_packed_bytes_are_not_unpacked(hostile):
    packed = gzip.compress(b" " * (32 << 20))
    hostile.answers[f"/sha256:{'0' * 64}"] = reply(200, packed, Content_Encoding="gzip")
    read = RemoteRegistry(hostile.url).stream("handbook", f"sha256:{'0' * 64}")
    assert b"".join(read) == packed


def test_who_a_registry_redirects_to_gets_no_password_of_it(hostile, login):
    with running() as other:
        challenge = f'Bearer realm="{other.url}/token",service="other"'
        other.answers["/blob"] = reply(401, Www_Authenticate=challenge)
        hostile.answers["/index"] = reply(307, Location=f"{other.url}/blob")
        with pytest.raises(MemosError):
            RemoteRegistry(hostile.url).manifest("handbook", "index")
        assert other.seen
        assert [secret for _, secret in other.seen if secret] == []


def test_an_upload_goes_to_no_other_host(hostile, login):
    with running() as other:
        hostile.answers["/sha256:" + "0" * 64] = reply(404)
        hostile.answers["/uploads/"] = reply(202, Location=f"{other.url}/take")
        other.answers["/take"] = reply(401, Www_Authenticate='Basic realm="x"')
        registry = RemoteRegistry(hostile.url)
        registry.has_blob = lambda *_: False
        with pytest.raises(RegistryUnavailable, match="another address"):
            registry.put_blob("handbook", b"A")
        assert other.seen == []


@pytest.mark.parametrize("listed", ["5", '"abc"', '{"a": 1}', "null", "[1, null, []]"])
def test_a_catalogue_that_is_none_has_no_names(hostile, listed):
    hostile.answers["/_catalog"] = reply(200, f'{{"repositories": {listed}}}'.encode())
    assert set(RemoteRegistry(hostile.url).names()) <= {"1"}


def test_a_catalogue_that_never_ends_is_left(hostile):
    page = json.dumps({"repositories": [f"bundle{number}" for number in range(1000)]}).encode()
    hostile.answers["/_catalog"] = reply(200, page)
    assert len(RemoteRegistry(hostile.url).names()) == 1000
    assert len(hostile.seen) < 5


@pytest.mark.parametrize(
    "url",
    ["https://:secret@registry.example.com", "https://u:secret@h", "https://h/?token=secret"],
)
def test_a_password_in_an_address_is_refused_and_not_shown(url):
    with pytest.raises(BadRequest) as error:
        RemoteRegistry(url)
    assert "secret" not in error.value.message


@pytest.mark.parametrize("url", ["http://[::1", "https://host:port", "https://host:99999"])
def test_an_address_that_is_no_url_is_a_bad_request(url):
    with pytest.raises(BadRequest):
        RemoteRegistry(url)
