"""An ASGI middleware for `--middleware`: each reply names the replica that it comes from."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

HEADER, VARIABLE = "x-replica", "REPLICA"
Message = MutableMapping[str, Any]


class Named:
    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app, self._name = app, os.environ[VARIABLE]

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (HEADER.encode(), self._name.encode()),
                ]
            await send(message)

        await self._app(scope, receive, named)
