"""The route `/mcp`: streamable HTTP in front of the MCP server, stateless, with replies in JSON.

No request depends on an earlier one, so any replica answers it: there are no sessions to guess or to fix, no
streams that a slow client holds open, and nothing is stored between requests. Authentication is that of every
route (`api.auth`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import mcp_types as types
from fastapi import FastAPI
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from memos_vllm import strict_json
from memos_vllm.api.access import MCP_ROUTE
from memos_vllm.api.identity import is_loopback
from memos_vllm.api.mcp.server import memory_server
from memos_vllm.errors import BadRequest, Forbidden, MemosError, TooLarge, Unavailable
from memos_vllm.system import MemorySystem

_MOST_DEPTH = 32


def attach(app: FastAPI, system: MemorySystem) -> None:
    """Add the route, and run its server for the life of the app, inside the app's own lifespan."""
    if not system.config.mcp.enabled:
        return
    endpoint = MCPEndpoint(system)
    app.router.routes.append(Route(MCP_ROUTE, endpoint=endpoint, include_in_schema=False))
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(running: Any) -> AsyncIterator[Any]:
        async with inner(running) as state, endpoint.run():
            yield state

    app.router.lifespan_context = lifespan


class MCPEndpoint:
    def __init__(self, system: MemorySystem) -> None:
        self.__name__ = "mcp"  # vLLM logs each route by its endpoint's name
        self._config = system.config.mcp
        self._server = memory_server(system)
        self._manager: StreamableHTTPSessionManager | None = None

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Accept requests until the context ends."""
        manager = StreamableHTTPSessionManager(
            self._server,
            json_response=True,
            stateless=True,
            max_request_body_size=self._config.request_bytes,
        )
        async with manager.run():
            self._manager = manager
            try:
                yield
            finally:
                self._manager = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            # There is no stream to open and no session to end: the specification asks for 405.
            await Response(status_code=405, headers={"Allow": "POST"})(scope, receive, send)
            return
        try:
            self._check_origin(Headers(scope=scope))
            body = await self._body(scope, receive)
            if self._manager is None:
                raise Unavailable("the MCP server is not running: the server starts or ends")
        except TimeoutError:
            message = f"the body took longer than {self._config.body_seconds:g} s"
            await _refused(408, types.INVALID_REQUEST, message)(scope, receive, send)
        except ClientDisconnect:
            return
        except MemosError as error:
            code = types.PARSE_ERROR if isinstance(error, BadRequest) else types.INVALID_REQUEST
            await _refused(error.status, code, error.message)(scope, receive, send)
        else:
            await self._manager.handle_request(scope, _replayed(body, receive), _uncached(send))

    def _check_origin(self, headers: Headers) -> None:
        """Refuse browser requests from other sites, as the specification demands. Raises Forbidden."""
        origin = headers.get("origin")
        if origin is None or origin in self._config.allowed_origins:
            return
        if not is_loopback(urlsplit(origin).hostname or ""):
            raise Forbidden(
                f"the origin {origin[:200]!r} may not call this server: add it to `mcp.allowed_origins`"
            )

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The body, checked to be one strict JSON text.

        Raises:
            TooLarge, BadRequest, TimeoutError, ClientDisconnect
        """
        body = bytearray()
        async with asyncio.timeout(self._config.body_seconds):
            async for chunk in Request(scope, receive).stream():
                body += chunk
                if len(body) > self._config.request_bytes:
                    raise TooLarge(
                        f"an MCP request has at most {self._config.request_bytes} bytes (mcp.request_bytes)"
                    )
        strict_json.parse(bytes(body), most_depth=_MOST_DEPTH)
        return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body first."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _uncached(send: Send) -> Send:
    """Replies hold a person's memory: no cache on the way may keep them."""

    async def send_uncached(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (b"cache-control", b"no-store")]
        await send(message)

    return send_uncached


def _refused(status: int, code: int, message: str) -> Response:
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
    return Response(json.dumps(error), status_code=status, media_type="application/json")
