"""Chats from the console: requests to the server's own chat route, in process.

Each request takes the path of every client's: authentication with the credential of the session, limits, the turn of
its tenant, the chat's handler, audit. The console adds no rule of its own.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import Any

import httpx
from fastapi import Request
from starlette.routing import Match

log = logging.getLogger(__name__)
ROUTE = "/v1/chat/completions"
REPLY_TOKENS = 400
_HERE = "http://127.0.0.1"


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    request_id: str
    text: str
    prompt_tokens: int
    reply_tokens: int
    took_ms: float
    is_cut: bool
    """Whether it ends at `REPLY_TOKENS`."""
    memory: Mapping[str, Any] | None
    """As `engine.chat.handler.summary` makes it; None: asked without memory."""


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    message: str
    retry_after: str | None = None
    """Seconds, as the route's header has them."""


def has_chat(request: Request) -> bool:
    """Whether the app has a chat route: it runs an engine whose model generates text."""
    scope = {"type": "http", "method": "POST", "path": ROUTE, "root_path": "", "headers": []}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)


async def ask(
    request: Request,
    key_header: str,
    credential: str,
    person: str,
    message: str,
    memory: Mapping[str, Any],
) -> Reply | Refusal:
    """Send one message to the chat route of the request's app.

    Args:
        request: of the browser; the chat has its peer.
        key_header: name of a header that carries keys.
        credential: of the session; empty: the server has no keys.
        person: for whom; empty: shared memory alone.
        memory: the field `memory` of the body.
    """
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": message}],
        "max_tokens": REPLY_TOKENS,
        "temperature": 0,
        "memory": dict(memory),
    }
    if person:
        body["user"] = person
    headers = {key_header: f"Bearer {credential}"} if credential else {}
    peer = (request.client.host, request.client.port) if request.client else ("127.0.0.1", 0)
    # An exception of the app has become a reply, as for any client.
    transport = httpx.ASGITransport(request.app, raise_app_exceptions=False, client=peer)
    began = time.perf_counter()
    async with httpx.AsyncClient(
        transport=transport, base_url=_HERE, timeout=None, trust_env=False
    ) as client:
        answer = await client.post(ROUTE, json=body, headers=headers)
    took_ms = (time.perf_counter() - began) * 1000
    return _reply(answer, took_ms) if answer.is_success else _refusal(answer)


def _reply(answer: httpx.Response, took_ms: float) -> Reply:
    body = answer.json()
    choice, usage = body["choices"][0], body.get("usage") or {}
    return Reply(
        str(body.get("id", "")),
        choice["message"].get("content") or "",
        usage.get("prompt_tokens") or 0,
        usage.get("completion_tokens") or 0,
        took_ms,
        choice.get("finish_reason") == "length",
        body.get("memory"),
    )


def _refusal(answer: httpx.Response) -> Refusal:
    """Status and message of an error, in OpenAI's envelope or in another form."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    problem = body.get("error") if isinstance(body, dict) else None
    message = problem.get("message") if isinstance(problem, dict) else None
    if answer.is_server_error:
        log.warning("a chat of the console failed with status %d", answer.status_code)
    return Refusal(
        answer.status_code,
        str(message or answer.reason_phrase or "no message"),
        answer.headers.get("retry-after"),
    )
