"""Cubes, chats and first tokens of one server, for benchmarks."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from memos_vllm.activation.direct_io import forget_pages
from memos_vllm.activation.erase import SUFFIX
from tests.engine.harness import MODEL, Server

WORDS = [
    "river",
    "mountain",
    "copper",
    "violin",
    "winter",
    "harbor",
    "lantern",
    "engine",
    "garden",
    "bridge",
    "market",
    "silver",
    "tower",
    "forest",
    "island",
    "train",
    "letter",
    "window",
    "candle",
    "desert",
    "meadow",
    "orchard",
    "pocket",
    "railway",
    "thunder",
    "valley",
]
_people = itertools.count()


def sentences(seed: int) -> Iterator[str]:
    dice = random.Random(seed)
    while True:
        a, b, c, d = dice.choices(WORDS, k=4)
        yield f"The {a} {b} number {dice.randint(1, 999)} belongs to the {c} of the {d}."


def new_person() -> str:
    """Name of a new person, who has no block in the engine's prefix cache."""
    return f"person-{next(_people)}"


class Bench:
    def __init__(self, server: Server) -> None:
        self.server = server
        self._http: httpx.Client | None = None

    @property
    def http(self) -> httpx.Client:
        if self._http is None:
            self._http = self.server.http()
        return self._http

    def restart(self, **environment: str) -> None:
        """Restart the API server, the engine and its workers."""
        self.server.kill()
        self._http = None
        self.server.set(**environment)
        self.server.start()

    def count(self, text: str) -> int:
        reply = self.http.post("/tokenize", json={"model": MODEL, "prompt": text})
        tokens: int = reply.json()["count"]
        return tokens

    def text(self, tokens: int, seed: int) -> str:
        """Sentences of about so many tokens."""
        made: list[str] = []
        for sentence in sentences(seed):
            made.append(sentence)
            if len(made) % 8 == 0 and self.count(" ".join(made)) >= tokens:
                break
        while len(made) > 1 and self.count(" ".join(made)) > tokens:
            made.pop()
        return " ".join(made)

    def cube(self, tokens: int, seed: int) -> str:
        """Store a shared cube of about so many tokens; returns its id."""
        body = {
            "meta": {"name": f"bench-{seed}"},
            "payload": {
                "type": "explicit",
                "format": "text",
                "content": self.text(max(tokens - 30, 16), seed),
            },
        }
        reply = self.http.post("/v1/memory/cubes", json=body)
        reply.raise_for_status()
        made: str = reply.json()["meta"]["id"]
        return made

    def ask(
        self,
        person: str,
        question: str,
        cubes: Sequence[str],
        kv: str = "exact",
        **extra: Any,
    ) -> dict[str, Any]:
        """Body of the reply; memory is off without cubes."""
        body = self.body(person, question, cubes, kv) | extra
        reply = self.http.post("/v1/chat/completions", json=body)
        reply.raise_for_status()
        found: dict[str, Any] = reply.json()
        return found

    def ttft(
        self, person: str, question: str, cubes: Sequence[str], kv: str = "exact"
    ) -> tuple[float, int]:
        """(seconds from sending to the first event, cached tokens)"""
        return first_event(self.http, self.body(person, question, cubes, kv))

    def wait_until_kept(self, cube: str, chains: int = 1) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            seen = self.http.get(f"/v1/memory/cubes/{cube}/activation").json()["chains"]
            if seen >= chains:
                time.sleep(1)  # for its copy in shared memory
                return
            time.sleep(0.1)
        raise TimeoutError(f"KV of {cube} was not stored within a minute")

    def only_on_disk(self) -> None:
        """Empty shared memory, and drop the files from the page cache."""
        assert self.server.home is not None
        for path in self.server.home.parent.glob(f"memos-kv-*/**/*{SUFFIX}"):
            path.unlink()
        for path in (self.server.home / "kv" / "segments").rglob(f"*{SUFFIX}"):
            forget_pages(path)

    @staticmethod
    def body(person: str, question: str, cubes: Sequence[str], kv: str) -> dict[str, Any]:
        memory: dict[str, Any] = {"enabled": False}
        if cubes:
            memory = {
                "cubes": list(cubes),
                "retrieve": False,
                "write": False,
                "budget_tokens": 8000,
                "kv": kv,
            }
        return {
            "model": MODEL,
            "user": person,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "memory": memory,
        }


def first_event(http: httpx.Client, body: dict[str, Any]) -> tuple[float, int]:
    """(seconds from sending a chat request to its first event, cached tokens)"""
    body = {**body, "max_tokens": 1, "stream": True, "stream_options": {"include_usage": True}}
    first, cached = 0.0, 0
    started = time.perf_counter()
    with http.stream("POST", "/v1/chat/completions", json=body) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            first = first or time.perf_counter() - started
            usage = json.loads(line[6:]).get("usage") or {}
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or cached
    return first, cached
