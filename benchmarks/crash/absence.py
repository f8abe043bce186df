"""Answers of a server whose vault has no database: chats without memory, which say so, and clear errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.crash.conversations import is_clear
from tests.engine.harness import MODEL, Server

_SAID = "Whom did I meet?"
_MESSAGES = [{"role": "user", "content": _SAID}]
CHATS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": _MESSAGES, "max_tokens": 1},
    "/v1/messages": {"messages": _MESSAGES, "max_tokens": 1},
    "/v1/responses": {"input": _SAID, "max_output_tokens": 1},
}
MEMORY = (
    ("GET", "/v1/memory/cubes", None),
    ("POST", "/v1/memory/search", {"query": _SAID}),
    ("POST", "/v1/memory/cubes", {"payload": {"type": "explicit", "content": _SAID}}),
)


def answers_without(server: Server, key: str, person: str) -> Iterator[tuple[str, str]]:
    """Send each kind of request; yields violations as (kind, detail)."""
    with server.http(key, person) as http:
        for path, body in CHATS.items():
            reply = http.post(path, json={"model": MODEL, "store": False, **body})
            if reply.status_code != 200:
                yield "unclear", f"{path}: {reply.status_code} {reply.text[:200]}"
            elif "vault" not in reply.headers.get("x-memos-degraded", ""):
                yield "unclear", f"{path}: the reply does not say that it has no memory"
        required = {**CHATS["/v1/chat/completions"], "memory": {"required": True}}
        reply = http.post("/v1/chat/completions", json={"model": MODEL, "store": False, **required})
        if not is_clear(reply):
            yield "unclear", f"a required memory: {reply.status_code} {reply.text[:200]}"
        for method, path, sent in MEMORY:
            reply = http.request(method, path, json=sent)
            if not is_clear(reply):
                yield "unclear", f"{method} {path}: {reply.status_code} {reply.text[:200]}"
