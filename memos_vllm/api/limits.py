"""Limits of requests: an ASGI middleware between authentication and every route.

    too many requests in the server → 503
    tenant: requests at a time, requests a minute → 429
    body: size, time → 413, 408 (also of routes without a key)
    person: the same limits; tokens a minute, reserved → 429
    inference: the turn of its tenant (`governance.limits.fairness`)
    ... the application ...
    tokens settled with what the engine counted

Everything that a request holds is given back when the application's call ends: with the reply, with an
error, and when the client goes away.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from contextvars import Context
from typing import Any

from starlette.requests import ClientDisconnect

from memos_vllm import metrics
from memos_vllm.api.access import is_console, is_inference, is_memory
from memos_vllm.api.auth import App, Receive, Scope, Send
from memos_vllm.api.bodies import Held, Incoming
from memos_vllm.api.expected import Expected, expected, header_of_scope
from memos_vllm.config.tree import Config
from memos_vllm.cube.ids import PersonId
from memos_vllm.errors import (
    MemosError,
    Overloaded,
    QuotaExceeded,
    RequestsLimited,
    RequestTimeout,
    TokensLimited,
    TooLarge,
    envelope,
    headers_of,
)
from memos_vllm.governance.limits.fairness import FairQueue
from memos_vllm.governance.limits.limiter import Admission, Limiter
from memos_vllm.governance.limits.meter import METER, Meter
from memos_vllm.governance.principal import Principal

_MOST_EXPECTED = 4096
"""Prompt tokens that are charged before the prompt is known: a body may hold images."""
_REASONS: tuple[tuple[type[MemosError], str], ...] = (
    (QuotaExceeded, "quota"),
    (TokensLimited, "tokens"),
    (RequestsLimited, "requests"),
    (TooLarge, "body"),
    (RequestTimeout, "slow"),
    (Overloaded, "overloaded"),
)


class LimitMiddleware:
    def __init__(self, app: App, config: Config, limiter: Limiter, queue: FairQueue) -> None:
        self._app, self._config = app, config
        self._limiter, self._queue = limiter, queue
        self._held = Held()
        self._requests = 0
        self._replies: set[_Reply] = set()
        self._watch: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        incoming = Incoming(receive, self._config.http, self._held)
        reply = _Reply(send, incoming)
        self._requests += 1
        self._replies.add(reply)
        self._watch_clients()
        try:
            await self._serve(scope, incoming, reply)
        except MemosError as error:
            if reply.started or _reason(error) is None:
                raise
            await reply.refuse(error)
        except ClientDisconnect:
            # The client went away, or `incoming` said so to an application that read too much.
            if incoming.problem is not None and not reply.started:
                await reply.refuse(incoming.problem)
        except asyncio.CancelledError:
            if not reply.is_stalled:
                raise
        finally:
            self._requests -= 1
            self._replies.discard(reply)
            incoming.release()

    def _watch_clients(self) -> None:
        """Have one task look for clients that do not read, while there are requests."""
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._end_stalled(), context=Context())

    async def _end_stalled(self) -> None:
        seconds = self._config.http.send_seconds
        while self._replies:
            await asyncio.sleep(seconds / 4)
            before = time.monotonic() - seconds
            for reply in list(self._replies):
                if reply.blocked_since is not None and reply.blocked_since < before:
                    metrics.LIMITED.labels("slow").inc()
                    reply.stall()

    async def _serve(self, scope: Scope, incoming: Incoming, reply: _Reply) -> None:
        declared = (b"content-length", b"transfer-encoding")
        incoming.check_declared(*(header_of_scope(scope["headers"], name) for name in declared))
        principal: Principal | None = scope.get("state", {}).get("memos_principal")
        path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
        inferring = is_inference(scope["method"], path)
        if principal is None or not (inferring or is_memory(path) or is_console(path)):
            await self._app(scope, incoming.receive, reply.send)
            return
        if self._requests > self._config.http.requests:
            raise Overloaded(
                f"the server works on {self._config.http.requests} requests (http.requests)"
            )
        tenant, limiter = principal.tenant, self._limiter
        admission = Admission(tenant)
        reply.admission = admission
        with ExitStack() as held:
            held.enter_context(limiter.running(tenant))
            await limiter.request(admission)
            request = Expected()
            if inferring:
                request = await self._expected(incoming, principal)
            person = PersonId(request.person or principal.person)
            held.enter_context(limiter.running(tenant, person))
            await limiter.request(admission, person)
            if not inferring:
                await self._app(scope, incoming.receive, reply.send)
                return
            async with self._metered(admission, person, request, incoming):
                await self._app(scope, incoming.receive, reply.send)

    async def _expected(self, incoming: Incoming, principal: Principal) -> Expected:
        """Read the body of an inference request, as far as a limit needs it. Raises ClientDisconnect."""
        body = await incoming.read()
        if body is None:
            raise ClientDisconnect
        tenant = principal.tenant
        if self._limiter.counts_tokens(tenant) or self._limiter.counts_people(tenant):
            made = expected(body, self._config.prompt.reply_reserve_tokens)
            return (
                dataclasses.replace(made, person=principal.person) if principal.token_id else made
            )
        return Expected(None, min(len(body) // 4, _MOST_EXPECTED))

    @asynccontextmanager
    async def _metered(
        self, admission: Admission, person: PersonId, request: Expected, incoming: Incoming
    ) -> AsyncIterator[None]:
        """The request's tokens are reserved, it waits for its turn, and what it used is settled."""
        meter = Meter()
        tokens = request.prompt_tokens + request.reply_tokens
        await self._limiter.reserve(admission, person, tokens)
        reserved = admission.reserved
        token = None
        try:
            async with AsyncExitStack() as stack:
                waiting = stack.enter_async_context(
                    self._queue.turn(admission.tenant, request.prompt_tokens)
                )
                turn = await _unless_gone(waiting, incoming)
                meter.served = turn.served
                token = METER.set(meter)
                yield
        finally:
            if token is not None:
                METER.reset(token)
            # The reply of a cancelled generation may not be counted: it costs what was expected.
            used = max(meter.tokens, reserved) if meter.unfinished else meter.tokens
            await self._limiter.settle(admission, used)


class _Reply:
    """`send` of one request: adds the headers of limits, or replaces the reply by a refusal."""

    def __init__(self, send: Send, incoming: Incoming) -> None:
        self._send, self._incoming = send, incoming
        self._task = asyncio.current_task()
        self.admission: Admission | None = None
        self.started = False
        self._is_replaced = False
        self.blocked_since: float | None = None
        """Since when a part of the reply waits for the client to read; None: none does."""
        self.is_stalled = False

    def stall(self) -> None:
        """End the request: its client does not read."""
        if self._task is not None and not self.is_stalled:
            self.is_stalled = True
            self._task.cancel()

    async def send(self, message: Any) -> None:
        if self._is_replaced:
            return
        if message["type"] == "http.response.start":
            if self._incoming.problem is not None:
                self._is_replaced = True
                await self.refuse(self._incoming.problem)
                return
            self.started = True
            if self.admission is not None and (extra := self.admission.headers()):
                made = [(name.encode(), value.encode()) for name, value in extra.items()]
                message = {**message, "headers": [*message.get("headers", []), *made]}
        self.blocked_since = time.monotonic()
        try:
            await self._send(message)
        finally:
            self.blocked_since = None

    async def refuse(self, error: MemosError) -> None:
        metrics.LIMITED.labels(_reason(error) or "other").inc()
        body = json.dumps(envelope(error)).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        headers |= headers_of(error)
        if self.admission is not None:
            headers |= self.admission.headers()
        if not self._incoming.is_short or self._incoming.problem is not None:
            headers["connection"] = "close"  # else the rest of the body would have to be read
        made = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.started = True
        await self._send({"type": "http.response.start", "status": error.status, "headers": made})
        await self._send({"type": "http.response.body", "body": body})


async def _unless_gone(waiting: Any, incoming: Incoming) -> Any:
    """The result of a coroutine, unless the client goes away meanwhile. Raises ClientDisconnect."""
    task = asyncio.ensure_future(waiting)
    await asyncio.sleep(0)
    if task.done():
        return task.result()
    gone = asyncio.ensure_future(incoming.gone())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (gone, task):
            if not each.done():
                each.cancel()
        await asyncio.gather(gone, task, return_exceptions=True)


def _reason(error: MemosError) -> str | None:
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), None)
