"""Bodies and slow clients, over real sockets of uvicorn."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import psutil
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from memos_vllm.api.app import attach
from memos_vllm.api.identity import Authenticator
from memos_vllm.api.slow_clients import timed
from memos_vllm.governance.limits.meter import METER
from memos_vllm.system import MemorySystem
from tests.conftest import make_config
from tests.engine.harness import free_port, wait_for

CHAT = "/v1/chat/completions"
MIB = 1 << 20


class Site:
    def __init__(
        self, home, protocol=HttpToolsProtocol, header_seconds=1.0, governance=None, **http
    ):
        governance = governance or {}
        self.system = MemorySystem(make_config(home, http=http, governance=governance)).open()
        app = FastAPI()
        self.bodies: list[int] = []
        self.at_work = 0

        @app.post(CHAT)
        async def serve(request: Request):
            self.at_work += 1
            try:
                body = await request.body()
                self.bodies.append(len(body))
                if body.startswith(b"wait"):
                    while not await request.is_disconnected():
                        import asyncio

                        await asyncio.sleep(0.02)
                if body == b"long":
                    return StreamingResponse(self.endless())
                return {"meter": METER.get() is not None}
            finally:
                self.at_work -= 1

        attach(app, self.system, Authenticator(self.system.config.governance, self.system.keys))
        self.port = free_port()
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=self.port,
            http=timed(protocol, header_seconds),
            log_level="error",
            timeout_keep_alive=30,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_for(lambda: self.server.started, "the start", 30)
        layer = app.middleware_stack or app.build_middleware_stack()
        while type(layer).__name__ != "LimitMiddleware":
            layer = getattr(layer, "app", None) or layer._app
        self.limits = layer

    async def endless(self):
        self.at_work += 1
        try:
            while True:
                yield b"x" * 65536
        finally:
            self.at_work -= 1

    def close(self):
        self.server.should_exit = True
        self.thread.join(20)
        self.system.close()

    def connect(self):
        made = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made


@pytest.fixture
def site(tmp_path):
    made = []

    def make(**given):
        made.append(Site(tmp_path, **given))
        return made[-1]

    yield make
    for one in made:
        one.close()


def head(length=None, path=CHAT, **headers):
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Content-Length: {length}"] if length is not None else ["Transfer-Encoding: chunked"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def reply(connection):
    """(status, headers, JSON body) of one reply, to the end of the connection or of its length."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while b"\r\n\r\n" not in data:
            if not (part := connection.recv(65536)):
                break
            data += part
        raw, _, body = data.partition(b"\r\n\r\n")
        lines = raw.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        while len(body) < int(headers.get("content-length", 0)):
            body += connection.recv(65536)
        return int(lines[0].split()[1]), headers, json.loads(body)
    raise AssertionError(f"the connection was reset after {data!r}")


def test_a_declared_length_over_the_limit_is_refused_before_the_body_is_read(site):
    one = site(body_bytes=MIB)
    with one.connect() as connection:
        connection.sendall(head(200 * MIB))
        status, headers, body = reply(connection)
    assert status == 413
    assert headers["connection"] == "close"
    assert body["error"]["code"] == "memory_too_large"
    assert one.bodies == []


@pytest.mark.parametrize("path", [CHAT, "/v1/memory/cubes", "/v1/memory/documents"])
def test_a_chunked_body_is_refused_once_it_is_over_the_limit(site, path):
    one = site(body_bytes=MIB)
    chunk = b"%x\r\n" % 65536 + b"x" * 65536 + b"\r\n"
    sent = 0
    before = psutil.Process().memory_info().rss
    with one.connect() as connection:
        connection.sendall(head(path=path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(200 * 16):  # 200 MiB
                connection.sendall(chunk)
                sent += 65536
        with contextlib.suppress(AssertionError):  # what was not read may reset the connection
            assert reply(connection)[0] == 413
    assert sent < 40 * MIB
    assert psutil.Process().memory_info().rss - before < 60 * MIB
    wait_for(lambda: one.limits._held.bytes == 0, "giving back the body", 5)
    assert one.bodies == []


def test_a_chunked_body_below_the_limit_is_served(site):
    one = site(body_bytes=MIB)
    with one.connect() as connection:
        connection.sendall(head() + b"2\r\n{}\r\n" * 1 + b"0\r\n\r\n")
        assert reply(connection)[0] == 200
    assert one.bodies == [2]
    assert one.limits._held.bytes == 0


def test_bodies_of_all_requests_together_are_bounded(site):
    one = site(bodies_bytes=MIB)
    with one.connect() as first, one.connect() as second:
        first.sendall(head(900_000) + b"x" * 800_000)
        wait_for(lambda: one.limits._held.bytes >= 800_000, "the first body", 5)
        second.sendall(head(400_000))
        status, headers, body = reply(second)
        assert (status, body["error"]["code"]) == (503, "overloaded")
        assert headers["retry-after"] == "2"
    wait_for(lambda: one.limits._held.bytes == 0, "giving back the body", 5)
    with one.connect() as third:
        third.sendall(head(400_000) + b"x" * 400_000)
        assert reply(third)[0] == 200


@pytest.mark.parametrize("protocol", [HttpToolsProtocol, H11Protocol])
def test_headers_that_trickle_are_ended(site, protocol):
    one = site(protocol=protocol)
    with one.connect() as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
        begun = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - begun < 1.5:
                connection.sendall(b"X-A: b\r\n")
                time.sleep(0.2)
        status, _, body = reply(connection)
    assert status == 408
    assert body["error"]["code"] == "request_timeout"


def test_a_connection_that_says_nothing_is_closed(site):
    one = site()
    with one.connect() as connection:
        assert connection.recv(100) == b""


@pytest.mark.parametrize("protocol", [HttpToolsProtocol, H11Protocol])
def test_a_request_that_takes_long_and_the_next_one_are_not_ended_by_the_header_limit(
    site, protocol
):
    one = site(protocol=protocol)
    with one.connect() as connection:
        for _ in range(2):
            connection.sendall(head(4) + b"{  ")
            time.sleep(1.3)
            connection.sendall(b"}")
            assert reply(connection)[0] == 200
            time.sleep(1.3)  # idle for longer than headers may take


def test_a_body_that_trickles_is_ended(site):
    one = site(body_seconds=0.5, body_bytes_per_second=1000)
    with one.connect() as connection:
        connection.sendall(head(100_000))
        begun = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - begun < 3:
                connection.sendall(b"x")
                time.sleep(0.1)
        with contextlib.suppress(AssertionError):
            assert reply(connection)[0] == 408
    assert one.bodies == []
    wait_for(lambda: one.limits._held.bytes == 0, "giving back the body", 5)


def test_headers_without_end_are_refused(site):
    one = site(header_seconds=30.0)
    with one.connect() as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for number in range(100_000):
                connection.sendall(b"X-%d: " % number + b"a" * 1000 + b"\r\n")
        with contextlib.suppress(AssertionError):
            assert reply(connection)[0] == 431
    assert number < 10_000


@pytest.mark.parametrize("protocol", [HttpToolsProtocol, H11Protocol])
def test_a_request_that_is_refused_before_its_body_is_read_keeps_its_reply(site, protocol):
    one = site(protocol=protocol, governance={"limits": {"requests_per_minute": 1}})
    with one.connect() as connection:
        connection.sendall(head(2) + b"{}")
        assert reply(connection)[0] == 200
        connection.sendall(head(1_000_000))
        for _ in range(10):
            connection.sendall(b"x" * 100_000)
        status, headers, body = reply(connection)
        assert status == 429
        assert "connection" not in headers
        assert body["error"]["code"] == "rate_limit_exceeded"
        connection.sendall(head(2) + b"{}")
        assert reply(connection)[0] == 429


def test_a_client_that_does_not_read_its_reply_loses_its_place(site):
    limits = {"concurrent_requests": 1}
    one = site(governance={"limits": limits}, send_seconds=0.4)
    with one.connect() as connection:
        connection.sendall(head(4) + b"long")
        wait_for(lambda: one.at_work == 1, "the request", 10)
        with one.connect() as second:
            second.sendall(head(2) + b"{}")
            assert reply(second)[0] == 429
        wait_for(lambda: one.limits._requests == 0, "the end of the request", 20)
        wait_for(lambda: one.at_work == 0, "the end of its stream", 20)
    with one.connect() as third:
        third.sendall(head(2) + b"{}")
        assert reply(third)[0] == 200


def test_disconnects_free_everything(site):
    """300 clients go away: in the headers, in the body, while they wait and while they are served."""
    limits = {"concurrent_requests": 1000}
    fairness = {"running": 2, "hold_seconds": 60}
    one = site(governance={"limits": limits, "fairness": fairness})
    queue = one.limits._queue
    queue.attach(max_num_seqs=2, on_cpu=True, has_priorities=False)
    connections = []
    for number in range(300):
        connection = one.connect()
        parts = [head(40)[:30], head(40) + b"wait", head(40) + b"wait".ljust(40)]
        connection.sendall(parts[number % 3])
        connections.append(connection)
    wait_for(lambda: one.at_work == 2 and queue._waiting == 98, "the load", 20)
    for connection in connections:
        connection.close()
    wait_for(lambda: one.limits._requests == 0, "the end of all requests", 20)
    assert (queue._running, queue._waiting, one.limits._held.bytes) == (0, 0, 0)
    assert not one.limits._limiter._running
    assert one.at_work == 0
    with one.connect() as connection:
        connection.sendall(head(2) + b"{}")
        assert reply(connection)[0] == 200


def test_the_server_takes_no_more_requests_than_it_is_configured_for(site):
    one = site(requests=2)
    connections = [one.connect() for _ in range(2)]
    for connection in connections:
        connection.sendall(head(4) + b"wait")
    wait_for(lambda: one.at_work == 2, "the load", 20)
    with one.connect() as third:
        third.sendall(head(2) + b"{}")
        status, headers, _ = reply(third)
        assert (status, headers["retry-after"]) == (503, "1")
    for connection in connections:
        connection.close()
    wait_for(lambda: one.limits._requests == 0, "the end of all requests", 20)
