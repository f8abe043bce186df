"""Adapters of a chat request: chosen once its cubes are known, and loaded while memory is searched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from memos_vllm.ports import AdapterLoader, Chat
from memos_vllm.scheduler.attachment import choose, learnt_together
from memos_vllm.scheduler.plan import PlanEntry
from memos_vllm.vault.views import AdapterCube, VaultViews


class AdapterChooser:
    def __init__(self, views: VaultViews, loader: AdapterLoader | None) -> None:
        """Choose adapters for one engine.

        Args:
            loader: None: the engine attaches no adapters.
        """
        self._views, self._loader = views, loader

    async def choose(self, chat: Chat, cubes: Sequence[AdapterCube]) -> list[PlanEntry]:
        """Choose the adapters of a request, begin to load them, and return their plan entries.

        Raises:
            Unprocessable: the one that `memory.adapter` names cannot be served.
        """
        loader = self._loader
        chat.parametric, entries = choose(
            cubes,
            chat.options,
            problem=self._problem,
            most=loader.most_merged if loader is not None else 1,
        )
        if len(chat.parametric) > 1 and (
            whole := await asyncio.to_thread(
                self._views.learnt_together, chat.principal, chat.parametric
            )
        ):
            learnt_together(entries, chat.parametric, whole)
            chat.parametric = [whole]
        if loader is not None and chat.parametric:
            chat.preparing = asyncio.ensure_future(loader.prepare(chat.parametric))
            chat.preparing.add_done_callback(_retrieve_exception)
        return entries

    def _problem(self, cube: AdapterCube) -> str | None:
        if self._loader is None:
            return "the server attaches no adapters: start it with --enable-lora"
        return self._loader.problem(cube)


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Retrieve the exception of an adapter task that no step awaited, so that asyncio is silent."""
    if not task.cancelled():
        task.exception()
