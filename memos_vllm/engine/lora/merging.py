"""Merging of the adapters that requests name together, in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Protocol

from memos_vllm.errors import MemosError
from memos_vllm.parametric.adapter.folders import AdapterFolders, merged_name
from memos_vllm.parametric.adapter.merge import Method, merge
from memos_vllm.parametric.adapter.packed import load_folder
from memos_vllm.vault.views import AdapterCube

log = logging.getLogger(__name__)
RETRY_SECONDS = 60.0
"""Pause before a merge that failed is tried again."""


class AdapterStore(Protocol):
    """Adapters of the vault, as folders."""

    def name(self, cube: AdapterCube) -> str:
        """Name of a cube's folder."""
        ...

    def store_folder(self, cube: AdapterCube) -> None:
        """Write a cube's folder from its payload. Raises MemosError."""
        ...

    def sweep(self) -> None:
        """Remove folders whose cubes the vault has deleted."""
        ...


class Merging:
    """Merges adapters, each set once at a time; a merge that failed is retried after a minute."""

    def __init__(
        self, folders: AdapterFolders, store: AdapterStore, method: Any, max_rank: int
    ) -> None:
        self._folders = folders
        self._store = store
        self._method: Method = method
        self._max_rank = max_rank
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        """Name of the merged adapter to the monotonic second of its next attempt, after a failure."""

    def name(self, cubes: Sequence[AdapterCube]) -> str:
        """Name of the merged adapter's folder."""
        return merged_name(self._parents(cubes), f"{self._method} {self._max_rank}")

    def begin(self, cubes: Sequence[AdapterCube]) -> None:
        """Merge these adapters in a thread, unless that is being done or has just failed."""
        name = self.name(cubes)
        if name in self._tasks or time.monotonic() < self._not_before.get(name, 0.0):
            return
        task = asyncio.create_task(asyncio.to_thread(self._merge, tuple(cubes), name))
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._ended(name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        """Note a failure, so that the next requests do not all try again."""
        del self._tasks[name]
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._not_before.pop(name, None)
            return
        self._not_before[name] = time.monotonic() + RETRY_SECONDS
        if isinstance(error, MemosError | OSError):
            log.warning("merging adapters failed, retrying after %.0f s: %s", RETRY_SECONDS, error)
        else:  # a bug: with its traceback
            log.error("merging adapters failed", exc_info=error)

    def _merge(self, cubes: Sequence[AdapterCube], name: str) -> None:
        for cube in cubes:
            self._store.store_folder(cube)
        parents = self._parents(cubes)
        adapters = [load_folder(self._folders.path(parent)) for parent in parents]
        self._folders.make(name, merge(adapters, self._method, self._max_rank), parents)
        self._store.sweep()  # one of the cubes may have been deleted meanwhile

    def _parents(self, cubes: Sequence[AdapterCube]) -> list[str]:
        return [self._store.name(cube) for cube in cubes]
