"""The processes of a server, and requests that are under way when one of them is killed."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json

import httpx
import psutil

from memos_vllm.lifeline import has_ended
from tests.engine.harness import MODEL, Server

LONG_STORY = {"messages": [{"role": "user", "content": "Tell me a very long story."}]}


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that run; a zombie has ended."""
    return [process for process in processes if not has_ended(process)]


def tree(server: Server) -> list[psutil.Process]:
    """The server's process, or its supervisor, and all below it."""
    assert server._process is not None
    root = psutil.Process(server._process.pid)
    return [root, *root.children(recursive=True)]


def named(server: Server, part: str) -> psutil.Process:
    """The process below the server with this in its name or command line."""
    for process in tree(server)[1:]:
        if part in process.name() or any(part in word for word in process.cmdline()):
            return process
    raise AssertionError(f"no process {part} in {tree(server)}")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a request ended."""

    status: int
    body: str

    @property
    def error(self) -> str | None:
        """Message of the error envelope, or of the stream's error chunk."""
        for line in self.body.splitlines():
            text = line.removeprefix("data: ")
            if text.startswith("{") and "error" in (event := json.loads(text)):
                return str(event["error"]["message"])
        return None


class UnderWay:
    """Long requests in threads: whole replies and streams."""

    def __init__(self, server: Server, count: int = 2, key: str | None = None) -> None:
        self._server, self._key = server, key
        self._pool = concurrent.futures.ThreadPoolExecutor(2 * count)
        self._replies = [
            self._pool.submit(self._ask, stream) for stream in (False, True) for _ in range(count)
        ]

    def _ask(self, stream: bool) -> Ended:
        # Longer than any test waits.
        body = {"model": MODEL, "stream": stream, "max_tokens": 1800, "ignore_eos": True}
        with self._server.http(self._key) as http:
            request = http.stream("POST", "/v1/chat/completions", json=body | LONG_STORY)
            try:
                with request as reply:
                    return Ended(reply.status_code, "".join(reply.iter_text()))
            except httpx.TransportError as error:
                return Ended(0, type(error).__name__)

    def ended(self, seconds: float) -> list[Ended]:
        """How each ended. Raises TimeoutError: one hangs."""
        done = [reply.result(seconds) for reply in self._replies]
        self._pool.shutdown()
        return done
