"""Adapters that requests name together, made one in the background; nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from memos_vllm.errors import MemosError
from memos_vllm.parametric.adapter.folders import AdapterFolders, merged_name
from memos_vllm.parametric.adapter.merge import Method, merge
from memos_vllm.parametric.adapter.packed import load_folder
from memos_vllm.vault.views import AdapterCube

log = logging.getLogger(__name__)


class AdapterStore(Protocol):
    def name(self, cube: AdapterCube) -> str:
        """Of its folder."""
        ...

    def put_in_place(self, cube: AdapterCube) -> None:
        """Its folder, from its payload."""
        ...

    def sweep(self) -> None:
        """Remove what the vault has no more."""
        ...


class Merging:
    def __init__(
        self, folders: AdapterFolders, store: AdapterStore, method: Any, max_rank: int
    ) -> None:
        self._folders = folders
        self._places = store
        self._method: Method = method
        self._max_rank = max_rank
        self._begun: set[str] = set()
        """One that failed is not tried again before the next start."""
        self._tasks: set[asyncio.Task[None]] = set()

    def name(self, cubes: Sequence[AdapterCube]) -> str:
        return merged_name(self._parents(cubes), f"{self._method} {self._max_rank}")

    def begin(self, cubes: Sequence[AdapterCube]) -> None:
        name = self.name(cubes)
        if name in self._begun:
            return
        self._begun.add(name)
        task = asyncio.create_task(asyncio.to_thread(self._merge, tuple(cubes), name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _merge(self, cubes: Sequence[AdapterCube], name: str) -> None:
        try:
            for cube in cubes:
                self._places.put_in_place(cube)
            parents = self._parents(cubes)
            adapters = [load_folder(self._folders.path(parent)) for parent in parents]
            self._folders.make(name, merge(adapters, self._method, self._max_rank), parents)
            self._places.sweep()  # one of them may have been deleted meanwhile
        except (MemosError, OSError) as error:
            log.warning("adapters are not merged: %s", error)
        except Exception:
            log.exception("adapters are not merged")
        if self._folders.has(name):
            self._begun.discard(name)  # it may be removed, and wanted again

    def _parents(self, cubes: Sequence[AdapterCube]) -> list[str]:
        return [self._places.name(cube) for cube in cubes]
