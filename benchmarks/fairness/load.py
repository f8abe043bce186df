"""Streams of a tenant in a closed loop: each begins its next request when one has ended."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from benchmarks.ttft.chat import sentences
from tests.engine.harness import MODEL, Server

PROMPT_SENTENCES, REPLY_TOKENS = 6, 32
_numbers = itertools.count()


class Streams:
    """A number of streams of one tenant."""

    def __init__(self, server: Server, key: str, count: int) -> None:
        self._server, self._key = server, key
        self.ttfts: list[tuple[float, float]] = []
        """(when the request was sent, seconds to its first token); of requests that ended."""
        self.refused = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    @contextmanager
    def running(self) -> Iterator[Streams]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(120)

    def _run(self) -> None:
        with self._server.http(self._key) as http:
            while not self._stop.is_set():
                self._ask(http)

    def _ask(self, http: httpx.Client) -> None:
        number = next(_numbers)
        text = " ".join(itertools.islice(sentences(number), PROMPT_SENTENCES))
        body: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"{number}. {text} What belongs to whom?"}],
            "max_tokens": random.Random(number).randint(REPLY_TOKENS // 2, REPLY_TOKENS),
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "store": False,
        }
        sent, first = time.perf_counter(), None
        with http.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                self.refused += 1
                return
            for line in reply.iter_lines():
                if first is None and '"content":"' in line and '"content":""' not in line:
                    first = time.perf_counter() - sent
        if first is not None:
            self.ttfts.append((sent, first))
