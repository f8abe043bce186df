"""A client that goes away in the middle of its request, and the process that works for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.engine.harness import wait_for


async def leaves(
    app: Any, path: str, key: str, content_type: str, body: bytes, pids: Callable[[], Any]
) -> int:
    """POST a body as an ASGI request of alice, and disconnect when a process works for it.

    Args:
        pids: of the processes that work for requests.

    Returns:
        The number of the process; the request has ended.
    """
    scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST"},
        **{"path": path, "raw_path": b"", "query_string": b"", "scheme": "http"},
        "headers": [
            (b"authorization", f"Bearer {key}".encode()),
            (b"x-memos-user", b"alice"),
            (b"content-type", content_type.encode()),
            (b"host", b"localhost"),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    left = asyncio.Event()
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if parts:
            return parts.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """Drop the reply: the client has gone."""

    async with asyncio.timeout(60):
        request = asyncio.create_task(app(scope, receive, send))
        found = await asyncio.to_thread(wait_for, lambda: list(pids()), "a process for the request")
        left.set()
        await asyncio.wait({request})
    (pid,) = found
    return int(pid)
