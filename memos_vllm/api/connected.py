"""Tell the work of a request that its client has gone away."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

from fastapi import Depends, Request

from memos_vllm.parsing.pool import REQUEST_ENDED

_LOOK_SECONDS = 0.2  # between looks at whether the client is still there


async def _watched(request: Request) -> AsyncIterator[None]:
    gone = threading.Event()
    REQUEST_ENDED.set(gone)  # of this request's task, and of the thread that its handler runs in
    watch = asyncio.create_task(_watch(request, gone))
    try:
        yield
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def _watch(request: Request, gone: threading.Event) -> None:
    while not gone.is_set():
        await asyncio.sleep(_LOOK_SECONDS)
        if await request.is_disconnected():
            gone.set()


ends_with_client = Depends(_watched)
"""Dependency of a route whose work in other processes ends when its client goes away."""
