"""Errors of vLLM below `/v1/messages` in Anthropic's envelope, which its clients read.

vLLM answers a body that it cannot parse in OpenAI's envelope on every route; its own translation covers
what its handler returns. Plain ASGI: a response that is no error passes untouched.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from memos_vllm.errors import anthropic_type

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ROUTE = "/v1/messages"


class AnthropicErrors:
    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", "")).removeprefix(scope.get("root_path", "").rstrip("/"))
        if scope["type"] != "http" or not (path == _ROUTE or path.startswith(_ROUTE + "/")):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = bytearray()

        async def translated(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and message["status"] >= 400:
                start = message
                return
            if start is None:
                await send(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body"):
                told = _translated(start["status"], bytes(body))
                kept = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
                length = (b"content-length", str(len(told)).encode())
                await send({**start, "headers": [*kept, length]})
                await send({"type": "http.response.body", "body": told})

        await self._app(scope, receive, translated)


def _translated(status: int, body: bytes) -> bytes:
    """The same error in Anthropic's envelope; a body that is none of OpenAI's stays as it is."""
    try:
        tree = json.loads(body)
    except ValueError:
        return body
    error = tree.get("error") if isinstance(tree, dict) else None
    if not isinstance(error, dict):
        return body
    told = {"type": anthropic_type(status), "message": str(error.get("message", ""))}
    return json.dumps({"type": "error", "error": told}).encode()
