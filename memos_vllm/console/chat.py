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
class Scores:
    """Log-probabilities of a prompt's tokens, each given those before it."""

    tokens: tuple[tuple[str, float], ...]
    """Text and log-probability in nats, of each token but the first."""
    prompt_tokens: int
    cached_tokens: int
    took_ms: float
    memory: Mapping[str, Any]


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


@dataclasses.dataclass(frozen=True, slots=True)
class Chats:
    """The chat route of the app that serves a request."""

    request: Request
    """Of the browser; a chat has its peer."""
    key_header: str
    """Name of a header that carries keys."""
    credential: str
    """Of the session; empty: the server has no keys."""
    person: str
    """For whom; empty: shared memory alone."""

    async def ask(self, message: str, memory: Mapping[str, Any]) -> Reply | Refusal:
        """Send one message.

        Args:
            memory: the field `memory` of the body.
        """
        messages = [{"role": "user", "content": message}]
        answer, took_ms = await self._post(messages, memory, max_tokens=REPLY_TOKENS)
        return _reply(answer, took_ms) if answer.is_success else _refusal(answer)

    async def score(self, message: str, reply: str, memory: Mapping[str, Any]) -> Scores | Refusal:
        """Have the model score a reply to a message. It generates one token, which is not used."""
        messages = [{"role": "user", "content": message}, {"role": "assistant", "content": reply}]
        answer, took_ms = await self._post(
            messages,
            memory,
            max_tokens=1,
            prompt_logprobs=0,
            add_generation_prompt=False,
            continue_final_message=True,
        )
        return _scores(answer, took_ms) if answer.is_success else _refusal(answer)

    async def _post(
        self, messages: list[dict[str, str]], memory: Mapping[str, Any], **fields: Any
    ) -> tuple[httpx.Response, float]:
        """The route's answer, and milliseconds."""
        body = {"messages": messages, "temperature": 0, "memory": dict(memory), **fields}
        if self.person:
            body["user"] = self.person
        headers = {self.key_header: f"Bearer {self.credential}"} if self.credential else {}
        client = self.request.client
        peer = (client.host, client.port) if client else ("127.0.0.1", 0)
        # An exception of the app has become a reply, as for any client.
        transport = httpx.ASGITransport(self.request.app, raise_app_exceptions=False, client=peer)
        began = time.perf_counter()
        async with httpx.AsyncClient(
            transport=transport, base_url=_HERE, timeout=None, trust_env=False
        ) as http:
            answer = await http.post(ROUTE, json=body, headers=headers)
        return answer, (time.perf_counter() - began) * 1000


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


def _scores(answer: httpx.Response, took_ms: float) -> Scores:
    body = answer.json()
    usage, memory = body.get("usage") or {}, body.get("memory") or {}
    tokens = []
    for listed in body.get("prompt_logprobs") or ():
        if listed:  # the first token has none
            token = next(iter(listed.values()))
            tokens.append((token.get("decoded_token") or "", float(token["logprob"])))
    prompt, cached = usage.get("prompt_tokens") or 0, memory.get("cached_tokens") or 0
    return Scores(tuple(tokens), prompt, cached, took_ms, memory)


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
