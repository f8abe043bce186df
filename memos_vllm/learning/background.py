"""Asyncio tasks that outlive the request that began them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_DRAIN_SECONDS = 5.0
Spawn = Callable[[Coroutine[Any, Any, None]], object]
"""`BackgroundTasks.spawn`: starts a coroutine."""


class BackgroundTasks:
    """Runs coroutines to their end; holds references, as asyncio has only weak ones."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """Number of tasks that have not ended."""
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a coroutine on the running loop."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self) -> None:
        """Wait for the tasks, at shutdown, 5 seconds at most."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_DRAIN_SECONDS)
