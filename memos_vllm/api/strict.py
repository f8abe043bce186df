"""Routes whose JSON bodies are parsed strictly (`strict_json`)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from memos_vllm import strict_json


class _StrictRequest(Request):
    _strict: Any = None

    async def read(self) -> None:
        if body := await self.body():
            self._strict = strict_json.parse(body)

    async def json(self) -> Any:
        return self._strict


class StrictRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            kind = request.headers.get("content-type", "application/json")
            if "json" not in kind.lower():
                return await handle(request)
            read = _StrictRequest(request.scope, request.receive)
            await read.read()
            return await handle(read)

        return strict
